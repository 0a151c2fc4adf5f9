package btree

import (
	"bytes"
	"context"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
)

// Walk calls visit with every node of the tree, parents first. It does not
// descend from a node for which visit says no.
func (t *Tree) Walk(ctx context.Context, visit func(n disk.Node) (descend bool, err error)) error {
	n, err := t.rootNode(ctx)
	if err != nil {
		return err
	}
	return t.walk(ctx, n, visit)
}

func (t *Tree) rootNode(ctx context.Context) (disk.Node, error) {
	return t.cache.Get(ctx, t.root.Bytenr, block.Expect{
		Level: t.root.Level, Generation: t.root.Generation, Owner: t.root.ID,
	})
}

func (t *Tree) walk(ctx context.Context, n disk.Node, visit func(n disk.Node) (bool, error)) error {
	descend, err := visit(n)
	if err != nil || !descend || n.IsLeaf() {
		return err
	}
	for slot := range n.NrItems() {
		child, err := t.child(ctx, n, slot)
		if err != nil {
			return err
		}
		if err := t.walk(ctx, child, visit); err != nil {
			return err
		}
	}
	return nil
}

// Change is a key for which two states of a tree differ. Old and New are nil
// where that state has no item; an empty item is not nil. They alias nodes.
type Change struct {
	Key      disk.Key
	Old, New []byte
}

// Diff calls visit, in order of key, with what differs between from and to in
// two states of one tree: old, which is committed, and now, whose nodes of
// generation since and later are not part of old. What both share is not
// looked at, so the cost is that of the nodes that were changed.
func Diff(ctx context.Context, old, now *Tree, since disk.TransID, from, to disk.Key, visit func(Change) error) error {
	d := differ{since: since, from: from, to: to, shared: make(map[disk.Logical]bool)}
	if r := now.Root(); r.Generation < since {
		return nil
	}
	n, err := now.rootNode(ctx)
	if err != nil {
		return err
	}
	if err := d.ofNow(ctx, now, n); err != nil {
		return err
	}
	// The old root may have become a part of a taller tree.
	if !d.shared[old.Root().Bytenr] {
		if n, err = old.rootNode(ctx); err != nil {
			return err
		}
		if err := d.ofOld(ctx, old, n); err != nil {
			return err
		}
	}
	return d.merge(visit)
}

// differ gathers the items that may differ: those in nodes that are in one
// state only.
type differ struct {
	since    disk.TransID
	from, to disk.Key
	shared   map[disk.Logical]bool // nodes of now that may be in old, too
	old, now []Item
}

// covers says whether a node's child in slot may hold keys of the range.
func (d *differ) covers(n disk.Node, slot int) bool {
	if d.to.Less(n.Key(slot)) {
		return false
	}
	return slot+1 >= n.NrItems() || d.from.Less(n.Key(slot+1))
}

func (d *differ) ofNow(ctx context.Context, t *Tree, n disk.Node) error {
	if n.IsLeaf() {
		d.now = d.items(d.now, n)
		return nil
	}
	for slot := range n.NrItems() {
		if !d.covers(n, slot) {
			continue
		}
		if n.PtrGeneration(slot) < d.since {
			d.shared[n.BlockPtr(slot)] = true
			continue
		}
		child, err := t.child(ctx, n, slot)
		if err != nil {
			return err
		}
		if err := d.ofNow(ctx, t, child); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) ofOld(ctx context.Context, t *Tree, n disk.Node) error {
	if n.IsLeaf() {
		d.old = d.items(d.old, n)
		return nil
	}
	for slot := range n.NrItems() {
		if !d.covers(n, slot) || d.shared[n.BlockPtr(slot)] {
			continue
		}
		child, err := t.child(ctx, n, slot)
		if err != nil {
			return err
		}
		if err := d.ofOld(ctx, t, child); err != nil {
			return err
		}
	}
	return nil
}

// items appends a leaf's items in the range.
func (d *differ) items(list []Item, n disk.Node) []Item {
	slot, _ := n.Search(d.from)
	for ; slot < n.NrItems(); slot++ {
		k := n.Key(slot)
		if d.to.Less(k) {
			break
		}
		data := n.ItemData(slot)
		list = append(list, Item{k, data[:len(data):len(data)]})
	}
	return list
}

// merge calls visit with the items that are not the same in both lists.
func (d *differ) merge(visit func(Change) error) error {
	for len(d.old) > 0 || len(d.now) > 0 {
		order := 0
		switch {
		case len(d.old) == 0:
			order = 1
		case len(d.now) == 0:
			order = -1
		default:
			order = d.old[0].Key.Compare(d.now[0].Key)
		}
		var c Change
		if order <= 0 {
			c.Key, c.Old, d.old = d.old[0].Key, d.old[0].Data, d.old[1:]
		}
		if order >= 0 {
			c.Key, c.New, d.now = d.now[0].Key, d.now[0].Data, d.now[1:]
		}
		if order == 0 && bytes.Equal(c.Old, c.New) {
			continue
		}
		if err := visit(c); err != nil {
			return err
		}
	}
	return nil
}
