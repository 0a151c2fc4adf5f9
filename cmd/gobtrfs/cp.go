package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/spf13/pflag"

	"gobtrfs"
)

var cpEdit = edit{
	use:   "FROM TO",
	short: "Copy a file inside an image",
	long: `cp copies the regular file FROM of the image to TO, or into the directory TO.
With --reflink the copy shares the contents until one of both is written. A
file that has the name is replaced.`,
	least: 2, most: 2,
	prepare: func(f *pflag.FlagSet) editFunc {
		reflink := f.Bool("reflink", false, "share the contents")
		return func(ctx context.Context, t *editTarget, args []string) error {
			from, to := args[0], t.inDir(ctx, args[1], args[0])
			info, err := t.Stat(ctx, from)
			if err != nil {
				return err
			}
			if !info.Mode().IsRegular() {
				return fmt.Errorf("copy %s: not a regular file: %w", from, errors.ErrUnsupported)
			}
			if old, err := t.Stat(ctx, to); err == nil {
				if old.Sub == info.Sub && old.Ino == info.Ino {
					return fmt.Errorf("copy %s: %s is the same file: %w", from, to, syscall.EINVAL)
				}
				if err := t.Remove(ctx, to); err != nil {
					return err
				}
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			a := btrfs.Attr{Perm: info.Mode() &^ fs.ModeType, UID: info.Item.UID, GID: info.Item.GID}
			if *reflink {
				return t.Clone(ctx, from, to, a)
			}
			if err := t.Create(ctx, to, a); err != nil {
				return err
			}
			r := io.NewSectionReader(imageReader{ctx, t, from}, 0, int64(info.Item.Size))
			_, err = t.WriteFrom(ctx, to, r, 0)
			return err
		}
	},
}

// imageReader reads a file that is being edited.
type imageReader struct {
	ctx  context.Context
	t    *editTarget
	name string
}

// ReadAt implements io.ReaderAt.
func (r imageReader) ReadAt(p []byte, off int64) (int, error) {
	return r.t.ReadAt(r.ctx, r.name, p, off)
}
