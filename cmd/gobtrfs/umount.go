package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newUmountCmd(a *app) *cobra.Command {
	var lazy bool
	cmd := &cobra.Command{
		Use:   "umount DIR…",
		Short: "Unmount, and wait until the server has finished",
		Long: `umount takes a mount of gobtrfs away and returns when its server is gone, so
that the image is at rest: umount(8) and fusermount3 return before. A mount whose
server was killed is taken away as well.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, dir := range args {
				errs = append(errs, a.umount(cmd.Context(), dir, lazy))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVarP(&lazy, "lazy", "l", false, "take a busy mount away too; it ends, later, with its last user")
	return cmd
}
