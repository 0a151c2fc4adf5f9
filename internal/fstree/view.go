package fstree

import (
	"context"

	"github.com/tidwall/btree"

	"gobtrfs/disk"
	gbtree "gobtrfs/internal/btree"
)

// view is the items of a subvolume as a reader must see them: the tree, and
// over it what a pending log changes.
type view struct {
	tree *gbtree.Tree
	over *overlay // nil: nothing
}

// patch is one item of an overlay: new data, or nil for an item that is gone.
type patch struct {
	key  disk.Key
	data []byte
}

// overlay holds the changes to a tree in key order. It is built by one
// goroutine and only read afterwards.
type overlay struct{ items *btree.BTreeG[patch] }

func newOverlay() *overlay {
	return &overlay{btree.NewBTreeGOptions(
		func(a, b patch) bool { return a.key.Less(b.key) }, btree.Options{NoLocks: true})}
}

func (o *overlay) put(k disk.Key, data []byte) {
	if data == nil {
		data = []byte{}
	}
	o.items.Set(patch{k, data})
}

func (o *overlay) remove(k disk.Key) { o.items.Set(patch{k, nil}) }

func (v view) get(ctx context.Context, k disk.Key) ([]byte, bool, error) {
	if v.over != nil {
		if p, ok := v.over.items.Get(patch{key: k}); ok {
			return p.data, p.data != nil, nil
		}
	}
	return v.tree.Get(ctx, k)
}

// cursor walks a view upwards.
type cursor struct {
	base gbtree.Iterator
	over *overlay
	// ahead is the overlay's first patch not below base, if hasAhead.
	ahead    patch
	hasAhead bool
	useAhead bool // the cursor stands on ahead
}

func (v view) seek(ctx context.Context, k disk.Key) cursor {
	c := cursor{base: v.tree.Seek(ctx, k), over: v.over}
	if c.over != nil {
		c.advanceOver(k)
		c.settle()
	}
	return c
}

// seekLast is the position of the last item not above k.
func (v view) seekLast(ctx context.Context, k disk.Key) cursor {
	if v.over == nil {
		return cursor{base: v.tree.SeekLast(ctx, k)}
	}
	base := v.tree.SeekLast(ctx, k)
	best, ok := disk.Key{}, false
	v.over.items.Descend(patch{key: k}, func(p patch) bool {
		// Base items above this patch are not shadowed by it.
		if base.Valid() && p.key.Less(base.Key()) {
			best, ok = base.Key(), true
			return false
		}
		if base.Valid() && base.Key() == p.key {
			base.Prev()
		}
		if p.data != nil {
			best, ok = p.key, true
			return false
		}
		return true
	})
	if !ok {
		if base.Err() != nil || !base.Valid() {
			return cursor{base: base}
		}
		best = base.Key()
	}
	return v.seek(ctx, best)
}

func (c *cursor) advanceOver(k disk.Key) {
	c.hasAhead = false
	c.over.items.Ascend(patch{key: k}, func(p patch) bool {
		c.ahead, c.hasAhead = p, true
		return false
	})
}

// settle decides whether the cursor stands on the tree's item or on the
// overlay's, and skips what the overlay removed.
func (c *cursor) settle() {
	for c.hasAhead && c.base.Err() == nil {
		same := false
		if c.base.Valid() {
			switch order := c.ahead.key.Compare(c.base.Key()); {
			case order > 0:
				c.useAhead = false
				return
			default:
				same = order == 0
			}
		}
		if c.ahead.data != nil {
			c.useAhead = true
			return
		}
		if same {
			c.base.Next()
		}
		c.advanceOver(c.ahead.key.Next())
	}
	c.useAhead = false
}

func (c *cursor) valid() bool { return c.useAhead || c.base.Valid() }

func (c *cursor) err() error { return c.base.Err() }

func (c *cursor) key() disk.Key {
	if c.useAhead {
		return c.ahead.key
	}
	return c.base.Key()
}

func (c *cursor) data() []byte {
	if c.useAhead {
		return c.ahead.data
	}
	return c.base.Data()
}

func (c *cursor) next() {
	if c.over == nil {
		c.base.Next()
		return
	}
	if c.useAhead {
		if c.base.Valid() && c.base.Key() == c.ahead.key {
			c.base.Next()
		}
		c.advanceOver(c.ahead.key.Next())
	} else {
		c.base.Next()
	}
	c.settle()
}
