package main

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/spf13/pflag"

	"gobtrfs"
)

var mkdirEdit = edit{
	use:   "PATH…",
	short: "Make directories",
	long:  `mkdir makes directories.`,
	least: 1, most: -1,
	prepare: func(f *pflag.FlagSet) editFunc {
		parents := f.BoolP("parents", "p", false, "make the directories above as well; one that is there is no error")
		mode := f.StringP("mode", "m", "755", "permissions in octal `MODE`")
		return func(ctx context.Context, t *editTarget, args []string) error {
			perm, err := octal(*mode)
			if err != nil {
				return err
			}
			for _, name := range args {
				if *parents {
					err = mkdirAll(ctx, t, name, perm)
				} else {
					err = t.Mkdir(ctx, name, btrfs.Attr{Perm: perm})
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
	},
}

// mkdirAll makes a directory and those above that are not there.
func mkdirAll(ctx context.Context, t *editTarget, name string, perm fs.FileMode) error {
	parts := strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
	for i := range parts {
		dir, p := "/"+strings.Join(parts[:i+1], "/"), fs.FileMode(0o755)
		if i == len(parts)-1 {
			p = perm
		}
		err := t.Mkdir(ctx, dir, btrfs.Attr{Perm: p})
		if errors.Is(err, fs.ErrExist) {
			if info, statErr := t.Stat(ctx, dir); statErr == nil && info.Mode().IsDir() {
				continue
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
