package main

import (
	"context"

	"github.com/spf13/pflag"
)

var fallocateEdit = edit{
	use:   "--offset N --length N PATH",
	short: "Give space to a range of a file, or take it away",
	long: `fallocate gives space to the holes of a range; they go on to read as zeros. With
--punch-hole the range is made a hole instead, with --zero-range zeros that have space.`,
	least: 1, most: 1,
	prepare: func(f *pflag.FlagSet) editFunc {
		offset := f.StringP("offset", "o", "0", "start at byte `N`")
		length := f.StringP("length", "l", "", "`N` bytes")
		punch := f.BoolP("punch-hole", "p", false, "make the range a hole")
		zero := f.BoolP("zero-range", "z", false, "make the range zeros that have space")
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
			switch {
			case *punch && *zero:
				return usagef("--punch-hole and --zero-range exclude each other")
			case *punch:
				return t.PunchHole(ctx, args[0], off, n)
			case *zero:
				return t.ZeroRange(ctx, args[0], off, n, *keep)
			}
			return t.Allocate(ctx, args[0], off, n, *keep)
		}
	},
}
