package fstree

import (
	"context"
	"fmt"
)

// Recover finishes what was under way when the filesystem was last left:
// inodes and subvolumes without names go.
func (w *Writer) Recover(ctx context.Context) error {
	ids, err := w.base.SubvolIDs(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := w.CleanOrphans(ctx, id); err != nil {
			return fmt.Errorf("orphans of subvolume %d: %w", uint64(id), err)
		}
	}
	return w.dropOrphanSubvols(ctx)
}
