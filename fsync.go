package btrfs

import (
	"context"
	"fmt"

	"gobtrfs/disk"
)

// Fsync makes durable what is known of one inode, as fsync(2) does, and of a
// directory its names: mostly at the cost of a few blocks, in the log tree.
// With dataOnly, as fdatasync(2), times may be left out.
func (f *FS) Fsync(ctx context.Context, sub, ino disk.ObjectID, dataOnly bool) error {
	if f.w == nil {
		return ErrReadOnly
	}
	if err := f.w.Fsync(ctx, sub, ino, dataOnly); err != nil {
		return fmt.Errorf("btrfs: %w", err)
	}
	return nil
}

// Fsync is FS.Fsync of what is at path.
func (e *Editor) Fsync(ctx context.Context, path string, dataOnly bool) error {
	sub, ino, err := e.at(ctx, path)
	if err == nil {
		err = e.fs.w.Fsync(ctx, sub, ino, dataOnly)
	}
	return pathError("fsync", path, err)
}
