package btree

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
)

// snapshot is the tree as it is now, for reading.
func (h *heap) snapshot(root Root) *Tree {
	d := block.NewDirty()
	for _, n := range h.nodes {
		d.Add(bytes.Clone(n))
	}
	return New(new(block.Cache).Over(d), root)
}

// Diff finds exactly what two maps differ in, whatever the trees look like,
// and reads few nodes of what did not change.
func TestDiffAgainstMaps(t *testing.T) {
	t.Logf("-edit.seed=%d", *editSeed)
	rnd := rand.New(rand.NewPCG(*editSeed, 3))
	ctx := context.Background()
	h := newHeap(t, 4096)
	root, err := h.New(ctx, disk.TreeFS, 0)
	if err != nil {
		t.Fatal(err)
	}
	e := Edit(h, Root{ID: disk.TreeFS, Bytenr: root.Bytenr(), Generation: h.gen}, h.size)
	key := func() disk.Key { return disk.Key{ObjectID: disk.ObjectID(rnd.IntN(3000)), Type: 1} }
	change := func(n int, del int) {
		for range n {
			k := key()
			_, ok, _ := e.Get(ctx, k)
			switch data := bytes.Repeat([]byte{byte(rnd.Uint32())}, rnd.IntN(60)); {
			case ok && rnd.IntN(10) < del:
				err = e.Delete(ctx, k)
			case ok:
				err = e.Update(ctx, k, data)
			default:
				err = e.Insert(ctx, k, data)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for round := range 60 {
		h.freeze()
		old := h.snapshot(e.Root())
		change(rnd.IntN(200), rnd.IntN(11))
		if round%10 == 9 { // nearly all goes
			for k := range disk.ObjectID(2900) {
				if err := e.Delete(ctx, disk.Key{ObjectID: k, Type: 1}); err == nil && rnd.IntN(500) == 0 {
					break
				}
			}
		}
		from, to := key(), key()
		if to.Less(from) {
			from, to = to, from
		}
		want := map[disk.Key]Change{}
		now := h.snapshot(e.Root())
		for i, tree := range []*Tree{old, now} {
			for it := tree.Seek(ctx, from); it.Valid() && !to.Less(it.Key()); it.Next() {
				c := want[it.Key()]
				if c.Key = it.Key(); i == 0 {
					c.Old = it.Data()
				} else if c.New = it.Data(); c.Old != nil && bytes.Equal(c.Old, c.New) {
					delete(want, it.Key())
					continue
				}
				want[it.Key()] = c
			}
		}
		last := disk.Key{}
		err := Diff(ctx, old, now, h.gen, from, to, func(c Change) error {
			w, ok := want[c.Key]
			if !ok || !bytes.Equal(w.Old, c.Old) || !bytes.Equal(w.New, c.New) || (w.Old == nil) != (c.Old == nil) || (w.New == nil) != (c.New == nil) {
				t.Errorf("round %d: %+v, want %+v", round, c, w)
			}
			if c.Key.Less(last) {
				t.Errorf("key %v after %v", c.Key, last)
			}
			last = c.Key
			delete(want, c.Key)
			return nil
		})
		if err != nil || len(want) > 0 {
			t.Fatalf("round %d: error %v, missed %v", round, err, want)
		}
	}
}
