package main

import (
	"context"

	"github.com/spf13/pflag"
)

var truncateEdit = edit{
	use:   "--size N PATH",
	short: "Set the size of a file",
	long:  `truncate sets the size of a regular file. What is new reads as zeros.`,
	least: 1, most: 1,
	prepare: func(f *pflag.FlagSet) editFunc {
		size := f.StringP("size", "s", "", "`N` bytes, or with K, M, G, T")
		return func(ctx context.Context, t *editTarget, args []string) error {
			n, err := number(*size)
			if err != nil {
				return err
			}
			return t.Truncate(ctx, args[0], n)
		}
	},
}
