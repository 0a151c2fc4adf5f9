package txn

import (
	"context"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
)

// Simple quotas charge an extent to the tree that made it until the last
// reference goes. A tree block's header says who that was; data has a reference
// for it that does not count, before all others in its item.

// setMaker adds that reference to a fresh item.
func (x *extentItem) setMaker(id disk.ObjectID) {
	x.inline = slices.Insert(x.inline, 0, disk.ExtentRef{Type: disk.KeyExtentOwnerRef, Root: id})
	x.size += disk.InlineRefSize(disk.KeyExtentOwnerRef)
}

// takeMaker takes it out; 0: there is none.
func (x *extentItem) takeMaker() disk.ObjectID {
	if len(x.inline) == 0 || x.inline[0].Type != disk.KeyExtentOwnerRef {
		return 0
	}
	id := x.inline[0].Root
	x.inline = x.inline[1:]
	x.size -= disk.InlineRefSize(disk.KeyExtentOwnerRef)
	return id
}

// charged counts n bytes that a tree made, or below 0 that went.
func (q *quota) charged(maker disk.ObjectID, n int64) {
	if !maker.IsSubvolume() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range q.reach(uint64(maker)) {
		q.add(id, n, n)
	}
}

// uncharge counts an extent that went, unless it is older than the counting.
// maker is that of data.
func (f *FS) uncharge(ctx context.Context, h *head, made disk.TransID, maker disk.ObjectID) error {
	q := f.quota.Load()
	if !q.simple() || made < q.status.EnableGen {
		return nil
	}
	if h.level != dataLevel {
		n, err := f.Running().Get(ctx, h.addr, block.Expect{Level: h.level})
		if err != nil {
			return err
		}
		maker = n.Owner()
	}
	q.charged(maker, -int64(h.size))
	return nil
}
