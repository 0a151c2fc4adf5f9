package main

import (
	"context"
	"path"

	"github.com/spf13/pflag"
)

var mvEdit = edit{
	use:   "FROM TO",
	short: "Rename or move a file or directory",
	long: `mv gives FROM the name TO; if TO is a directory, FROM goes into it. A file that
has the name is replaced. Both are in the same subvolume.`,
	least: 2, most: 2,
	prepare: func(f *pflag.FlagSet) editFunc {
		keep := f.BoolP("no-clobber", "n", false, "fail if something has the new name")
		plain := f.BoolP("no-target-directory", "T", false, "TO is the new name, even if it is a directory")
		return func(ctx context.Context, t *editTarget, args []string) error {
			from, to := args[0], args[1]
			if !*plain {
				to = t.inDir(ctx, to, from)
			}
			return t.Rename(ctx, from, to, *keep)
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
