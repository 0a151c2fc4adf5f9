package main

import (
	"context"
	"io/fs"
	"strconv"

	"github.com/spf13/pflag"
)

var chmodEdit = edit{
	use:   "MODE PATH…",
	short: "Set permissions",
	long:  `chmod sets permissions, setuid, setgid and sticky bit to the octal number MODE.`,
	least: 2, most: -1,
	prepare: func(*pflag.FlagSet) editFunc {
		return func(ctx context.Context, t *editTarget, args []string) error {
			perm, err := octal(args[0])
			if err != nil {
				return err
			}
			for _, name := range args[1:] {
				if err := t.Chmod(ctx, name, perm); err != nil {
					return err
				}
			}
			return nil
		}
	},
}

// octal reads permissions as chmod(1) takes them in numbers.
func octal(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, usagef("%q is no octal mode", s)
	}
	m := fs.FileMode(n & 0o777)
	for _, b := range [...]struct {
		bit  uint64
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if n&b.bit != 0 {
			m |= b.mode
		}
	}
	return m, nil
}
