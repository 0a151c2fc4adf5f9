package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/spf13/pflag"
)

var rmEdit = edit{
	use:   "PATH…",
	short: "Remove files and directories",
	long: `rm removes files, with -d also empty directories, with -r directories with
everything in them, subvolumes included.`,
	least: 1, most: -1,
	prepare: func(f *pflag.FlagSet) editFunc {
		recursive := f.BoolP("recursive", "r", false, "remove directories with everything in them")
		dir := f.BoolP("dir", "d", false, "remove empty directories")
		force := f.BoolP("force", "f", false, "what is not there is no error")
		return func(ctx context.Context, t *editTarget, args []string) error {
			for _, name := range args {
				info, err := t.Stat(ctx, name)
				switch {
				case errors.Is(err, fs.ErrNotExist) && *force:
					continue
				case err != nil:
				case *recursive:
					err = t.RemoveAll(ctx, name)
				case info.Mode().IsDir() && !*dir:
					err = fmt.Errorf("remove %s: %w", name, syscall.EISDIR)
				default:
					err = t.Remove(ctx, name)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
	},
}
