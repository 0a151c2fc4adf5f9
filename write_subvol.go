package btrfs

import (
	"context"
	"fmt"
	"syscall"

	"gobtrfs/disk"
)

// CreateSubvolume makes an empty subvolume.
func (e *Editor) CreateSubvolume(ctx context.Context, path string, a Attr) (id disk.ObjectID, err error) {
	p, err := e.name(ctx, path)
	if err == nil {
		id, err = e.fs.w.CreateSubvol(ctx, p.Sub, p.Dir, p.Name, a.mode(0o040000))
	}
	return id, pathError("create subvolume", path, err)
}

// Snapshot makes a subvolume that shows what the subvolume at from shows now.
// Everything that was done before is durable then.
func (e *Editor) Snapshot(ctx context.Context, from, path string, readOnly bool) (id disk.ObjectID, err error) {
	sub, ino, err := e.at(ctx, from)
	if err == nil && ino != disk.RootDirObjectID {
		err = fmt.Errorf("no subvolume: %w", syscall.EINVAL)
	}
	if err != nil {
		return 0, pathError("snapshot", from, err)
	}
	p, err := e.name(ctx, path)
	if err == nil {
		id, err = e.fs.w.Snapshot(ctx, sub, p.Sub, p.Dir, p.Name, readOnly)
	}
	return id, pathError("snapshot", path, err)
}

// DeleteSubvolume removes a subvolume in which there are no others. It returns
// when all that only it used was given back; if it is ended before, the rest
// is given back when the filesystem is opened for writing again.
func (e *Editor) DeleteSubvolume(ctx context.Context, path string) error {
	p, err := e.name(ctx, path)
	switch {
	case err != nil:
	case !p.Exists():
		err = p.Missing()
	case p.Child == 0:
		err = fmt.Errorf("no subvolume: %w", syscall.EINVAL)
	default:
		err = e.fs.w.DeleteSubvol(ctx, p.Sub, p.Dir, p.Name)
	}
	return pathError("delete subvolume", path, err)
}

// SetReadOnly makes a subvolume read-only, or writable again.
func (e *Editor) SetReadOnly(ctx context.Context, path string, readOnly bool) error {
	sub, ino, err := e.at(ctx, path)
	if err == nil && ino != disk.RootDirObjectID {
		err = fmt.Errorf("no subvolume: %w", syscall.EINVAL)
	}
	if err == nil {
		err = e.fs.w.SetReadOnly(ctx, sub, readOnly)
	}
	return pathError("set read-only", path, err)
}

// SetDefault makes a subvolume the one that is mounted when none is named.
func (e *Editor) SetDefault(ctx context.Context, path string) error {
	sub, ino, err := e.at(ctx, path)
	if err == nil && ino != disk.RootDirObjectID {
		err = fmt.Errorf("no subvolume: %w", syscall.EINVAL)
	}
	if err == nil {
		err = e.fs.w.SetDefault(ctx, sub)
	}
	return pathError("set default subvolume", path, err)
}
