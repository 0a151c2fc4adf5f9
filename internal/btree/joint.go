package btree

import (
	"context"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/lockrank"
)

// Changes by several goroutines at a time. What needs no more than room in one
// private leaf is done "in place", under the leaf's latch: no node is made,
// moved or dropped, no interior node changes, and the tree keeps its shape. So
// all that those who work in place need is that nobody else changes a tree; the
// others exclude them.

// Latches keep those apart who work in place on one leaf. Trees may share
// them: a goroutine has one latch at a time and does nothing but copy under it.
type Latches struct {
	stripes [64]struct {
		lockrank.Mutex
		_ [56]byte // a cache line each
	}
}

// rankLatch: no lock is taken under a latch.
const rankLatch lockrank.Rank = 95

// Init must be called before anything else.
func (l *Latches) Init() {
	for i := range l.stripes {
		l.stripes[i].Init(rankLatch, 0)
	}
}

func (l *Latches) of(leaf disk.Node) *lockrank.Mutex {
	h := uint64(leaf.Bytenr()) >> 12 * 0x9e3779b97f4a7c15
	return &l.stripes[h>>58].Mutex
}

// leafInPlace finds k's leaf, nil if that is not private. bounded says that
// keys from bound on belong into another one.
func (e *Editor) leafInPlace(k disk.Key) (leaf disk.Node, bound disk.Key, bounded bool) {
	n := e.src.Private(e.root.Bytenr)
	for n != nil && !n.IsLeaf() {
		slot := n.ChildSlot(k)
		if slot+1 < n.NrItems() {
			bound, bounded = n.Key(slot+1), true
		}
		n = e.src.Private(n.BlockPtr(slot))
	}
	return n, bound, bounded
}

// InsertInPlace adds items that follow each other, if that can be done in
// place; done says so. The error is ErrExists if the first key is taken, or
// another item would come between them; then nothing has changed.
func (e *Editor) InsertInPlace(l *Latches, items ...Item) (done bool, err error) {
	leaf, bound, bounded := e.leafInPlace(items[0].Key)
	last := items[len(items)-1].Key
	if leaf == nil || bounded && !last.Less(bound) {
		return false, nil
	}
	need := 0
	for _, it := range items {
		need += len(it.Data) + disk.ItemHeaderSize
	}
	m := l.of(leaf)
	m.Lock()
	defer m.Unlock()
	slot, found := leaf.Search(items[0].Key)
	switch {
	case found || slot < leaf.NrItems() && !last.Less(leaf.Key(slot)):
		return false, fmt.Errorf("key %v: %w", items[0].Key, ErrExists)
	case slot == 0 || leaf.LeafFree() < need: // the first key is in the parent, too
		return false, nil
	}
	for i, it := range items {
		insertItem(leaf, slot+i, it.Key, it.Data)
	}
	return true, nil
}

// UpdateInPlace has change overwrite the data of the item with key k, if that
// can be done in place; done says so. The error is change's.
func (e *Editor) UpdateInPlace(l *Latches, k disk.Key, change func(data []byte) error) (done bool, err error) {
	leaf, _, _ := e.leafInPlace(k)
	if leaf == nil {
		return false, nil
	}
	m := l.of(leaf)
	m.Lock()
	defer m.Unlock()
	slot, found := leaf.Search(k)
	if !found {
		return false, nil
	}
	return true, change(leaf.ItemData(slot))
}

// GetInPlace calls use with the data of the item with key k, which it must not
// keep, beside others who work in place.
func (e *Editor) GetInPlace(ctx context.Context, l *Latches, k disk.Key, use func(data []byte) error) (found bool, err error) {
	n, private, err := e.readRoot(ctx)
	for err == nil && !n.IsLeaf() {
		n, private, err = e.readNext(ctx, n, n.ChildSlot(k), private)
	}
	if err != nil {
		return false, err
	}
	if private {
		m := l.of(n)
		m.Lock()
		defer m.Unlock()
	}
	slot, found := n.Search(k)
	if !found {
		return false, nil
	}
	return true, use(n.ItemData(slot))
}
