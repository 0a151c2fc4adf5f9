package main

import "github.com/spf13/cobra"

func newSyncCmd(a *app) *cobra.Command {
	var image imageFlags
	cmd := &cobra.Command{
		Use:   "sync IMAGE|DIR",
		Short: "Make everything durable that was written to a mount",
		Long: `sync makes durable whatever was written to the mount of an image, or to the mount
that a directory is in. Of an image that is not mounted everything is.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := image.open(cmd.Context(), a, args[0]) // commits, if it is mounted
			if err != nil {
				return err
			}
			return m.Close()
		},
	}
	image.register(cmd)
	return cmd
}
