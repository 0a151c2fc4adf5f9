package btrfs

import (
	"context"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
)

// Clone makes the new file at path share the contents of the file at from
// (cp --reflink): they take no space again until one of them is written.
func (e *Editor) Clone(ctx context.Context, from, path string, a Attr) error {
	sub, ino, err := e.at(ctx, from)
	if err != nil {
		return pathError("clone", from, err)
	}
	p, err := e.name(ctx, path)
	if err == nil {
		var to disk.ObjectID
		if to, err = e.fs.w.Create(ctx, p.Sub, p.Dir, p.Name, a.mode(0o100000)); err == nil {
			err = e.fs.w.Clone(ctx, sub, ino, p.Sub, to)
		}
	}
	return pathError("clone", path, err)
}

// CloneRange makes n bytes at toOff of one file share the extents at off of
// another, or of the same, as ioctl FICLONERANGE does; n 0 means up to the end
// of the file. A range of many extents takes several operations.
func (e *Editor) CloneRange(ctx context.Context, from string, off, n int64, to string, toOff int64) error {
	a, err := e.cloneArgs(ctx, from, off, n, to, toOff)
	if err == nil {
		err = e.fs.w.CloneRange(ctx, a)
	}
	if err == nil {
		err = e.fs.w.DropPrivileges(ctx, a.ToSub, a.To, false)
	}
	return pathError("clone to", to, err)
}

// Dedupe makes two ranges share their extents if they hold the same bytes, as
// ioctl FIDEDUPERANGE does, and says whether they did. Of a long range, or one
// that ends between sectors, that is done for the first done bytes.
func (e *Editor) Dedupe(ctx context.Context, from string, off, n int64, to string, toOff int64) (done int64, same bool, err error) {
	a, err := e.cloneArgs(ctx, from, off, n, to, toOff)
	if err != nil {
		return 0, false, pathError("dedupe", to, err)
	}
	k, same, err := e.fs.w.Dedupe(ctx, a)
	return int64(k), same, pathError("dedupe", to, err)
}

func (e *Editor) cloneArgs(ctx context.Context, from string, off, n int64, to string, toOff int64) (a fstree.CloneArgs, err error) {
	if off < 0 || n < 0 || toOff < 0 {
		return a, syscall.EINVAL
	}
	a.Off, a.Length, a.ToOff = uint64(off), uint64(n), uint64(toOff)
	if a.Sub, a.Ino, err = e.at(ctx, from); err == nil {
		a.ToSub, a.To, err = e.at(ctx, to)
	}
	return a, err
}
