package main

import (
	"context"
	"path"

	"github.com/spf13/pflag"

	"gobtrfs"
)

var mvEdit = edit{
	use:   "FROM TO",
	short: "Rename or move a file or directory",
	long: `mv gives FROM the name TO; if TO is a directory, FROM goes into it. A file that
has the name is replaced. Only subvolumes move from one subvolume to another.`,
	least: 2, most: 2,
	prepare: func(f *pflag.FlagSet) editFunc {
		keep := f.BoolP("no-clobber", "n", false, "fail if something has the new name")
		exchange := f.Bool("exchange", false, "swap what FROM and TO name (then TO is no directory to move into)")
		plain := f.BoolP("no-target-directory", "T", false, "TO is the new name, even if it is a directory")
		return func(ctx context.Context, t *editTarget, args []string) error {
			from, to := args[0], args[1]
			var flags btrfs.RenameFlags
			if *keep {
				flags |= btrfs.RenameNoReplace
			}
			if *exchange {
				flags |= btrfs.RenameExchange
			}
			if !*plain && !*exchange {
				to = t.inDir(ctx, to, from)
			}
			return t.Rename(ctx, from, to, flags)
		}
	},
}

// inDir is dst, or the name of src in it if it is a directory.
func (t *editTarget) inDir(ctx context.Context, dst, src string) string {
	if info, err := t.Stat(ctx, dst); err == nil && info.Mode().IsDir() {
		return path.Join(dst, path.Base(src))
	}
	return dst
}
