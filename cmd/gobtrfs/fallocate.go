package main

import (
	"context"

	"github.com/spf13/pflag"
)

var fallocateEdit = edit{
	use:   "--offset N --length N PATH",
	short: "Give space to a range of a file, or take it away",
	long: `fallocate gives space to the holes of a range; they go on to read as zeros. With
--punch-hole the range is made a hole instead.`,
	least: 1, most: 1,
	prepare: func(f *pflag.FlagSet) editFunc {
		offset := f.StringP("offset", "o", "0", "start at byte `N`")
		length := f.StringP("length", "l", "", "`N` bytes")
		punch := f.BoolP("punch-hole", "p", false, "make the range a hole")
		keep := f.BoolP("keep-size", "n", false, "the file does not become longer")
		return func(ctx context.Context, t *editTarget, args []string) error {
			off, err := number(*offset)
			if err != nil {
				return err
			}
			n, err := number(*length)
			if err != nil {
				return err
			}
			if *punch {
				return t.PunchHole(ctx, args[0], off, n)
			}
			return t.Allocate(ctx, args[0], off, n, *keep)
		}
	},
}
