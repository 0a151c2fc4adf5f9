package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gobtrfs"
)

func newTrimCmd(a *app) *cobra.Command {
	var flags imageFlags
	var u units
	var minimum string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "trim IMAGE|DIR",
		Short: "Give unused space back to the devices",
		Long: `trim gives back what the filesystem does not use: image files get holes there,
block devices are told to discard. Free space in RAID5 and RAID6 block groups is
left alone, as its bytes are part of the parity.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var o btrfs.TrimOptions
			if minimum != "" {
				n, err := number(minimum)
				if err != nil {
					return err
				}
				o.Minimum = uint64(n)
			}
			var trimmed uint64
			err := flags.change(cmd.Context(), a, args[0], func(m *image) (err error) {
				trimmed, err = m.Trim(cmd.Context(), o)
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(map[string]uint64{"trimmed": trimmed})
			}
			_, err = fmt.Fprintf(a.out, "%s trimmed\n", u.size(trimmed))
			return err
		},
	}
	flags.register(cmd)
	u.register(cmd.Flags())
	cmd.Flags().StringVarP(&minimum, "minimum", "m", "", "leave out free pieces shorter than `SIZE`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, bytes")
	return cmd
}
