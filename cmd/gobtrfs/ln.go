package main

import (
	"context"

	"github.com/spf13/pflag"
)

var lnEdit = edit{
	use:   "TARGET NAME",
	short: "Make hard and symbolic links",
	long: `ln gives the file TARGET the further name NAME, or with -s makes NAME a symbolic
link whose text is TARGET. If NAME is a directory the link goes into it.`,
	least: 2, most: 2,
	prepare: func(f *pflag.FlagSet) editFunc {
		symbolic := f.BoolP("symbolic", "s", false, "make a symbolic link")
		return func(ctx context.Context, t *editTarget, args []string) error {
			name := t.inDir(ctx, args[1], args[0])
			if *symbolic {
				return t.Symlink(ctx, args[0], name, 0, 0)
			}
			return t.Link(ctx, args[0], name)
		}
	},
}
