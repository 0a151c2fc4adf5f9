package main

import (
	"errors"
	"strings"

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

// newUmountHelperCmd is what umount(8) calls: DIR [-flnrv] [-N NS] [-t TYPE]
// (umount(8), "External helpers"). It can also be called with -c and -d, which
// are umount's own.
func newUmountHelperCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:                "umount-helper DIR [-flnrv] [-N NAMESPACE] [-t TYPE]",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, lazy, err := parseUmountArgs(args)
			if err != nil {
				return err
			}
			return a.umount(cmd.Context(), dir, lazy)
		},
	}
}

func parseUmountArgs(args []string) (dir string, lazy bool, err error) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "-N" || arg == "-t":
			i++ // its value
		case strings.HasPrefix(arg, "-"):
			if bad := strings.Trim(arg[1:], "flnrvcdi"); bad != "" {
				return "", false, usagef("unknown option %s", arg)
			}
			lazy = lazy || strings.Contains(arg, "l")
		case dir != "":
			return "", false, usagef("want one directory, have %q and %q", dir, arg)
		default:
			dir = arg
		}
	}
	if dir == "" {
		return "", false, usagef("want a directory")
	}
	return dir, lazy, nil
}
