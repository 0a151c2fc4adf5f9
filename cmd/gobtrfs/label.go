package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func newLabelCmd(a *app) *cobra.Command {
	var image imageFlags
	cmd := &cobra.Command{
		Use:   "label IMAGE|DIR [LABEL]",
		Short: "Show or change a filesystem's label",
		Long: `label prints the label of a filesystem, or gives it another, of at most 255 bytes;
"" takes it away.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			image.writable = len(args) == 2
			m, err := image.open(cmd.Context(), a, args[0])
			if err != nil {
				return err
			}
			if m.live == nil {
				defer func() { err = errors.Join(err, m.FS.Close(), m.Close()) }()
			}
			if len(args) == 1 {
				_, err = fmt.Fprintln(a.out, m.Label())
				return err
			}
			return m.SetLabel(cmd.Context(), args[1])
		},
	}
	image.register(cmd)
	return cmd
}
