package btree

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
)

var editSeed = flag.Uint64("edit.seed", 1, "seed of the random edits")

// heap is a Source in memory. freeze makes all nodes public, as a commit does.
type heap struct {
	t     *testing.T
	size  int
	next  disk.Logical
	gen   disk.TransID
	nodes map[disk.Logical]disk.Node
	mine  map[disk.Logical]bool
	saved map[disk.Logical][]byte // what public nodes looked like
}

func newHeap(t *testing.T, size int) *heap {
	return &heap{t: t, size: size, next: 1 << 20, gen: 7,
		nodes: map[disk.Logical]disk.Node{}, mine: map[disk.Logical]bool{}, saved: map[disk.Logical][]byte{}}
}

func (h *heap) Private(a disk.Logical) disk.Node {
	if h.mine[a] {
		return h.nodes[a]
	}
	return nil
}

func (h *heap) Read(_ context.Context, a disk.Logical, _ block.Expect) (disk.Node, bool, error) {
	n := h.nodes[a]
	if n == nil {
		return nil, false, fmt.Errorf("no node at %d", a)
	}
	return n, h.mine[a], nil
}

func (h *heap) New(_ context.Context, id disk.ObjectID, level int) (disk.Node, error) {
	n := make(disk.Node, h.size)
	n.InitHeader(h.next, disk.UUID{}, disk.UUID{}, h.gen, id, level)
	h.nodes[h.next], h.mine[h.next] = n, true
	h.next += disk.Logical(h.size)
	return n, nil
}

func (h *heap) Copy(ctx context.Context, id disk.ObjectID, n disk.Node, _ bool) (disk.Node, error) {
	c, err := h.New(ctx, id, n.Level())
	addr := c.Bytenr()
	copy(c, n)
	c.SetBytenr(addr)
	c.SetGeneration(h.gen)
	return c, err
}

func (h *heap) Drop(_ context.Context, _ disk.ObjectID, n disk.Node) error {
	if !h.mine[n.Bytenr()] {
		h.t.Errorf("node %d is dropped but not private", n.Bytenr())
	}
	delete(h.nodes, n.Bytenr())
	delete(h.mine, n.Bytenr())
	return nil
}

func (h *heap) freeze() {
	for a := range h.mine {
		h.saved[a] = bytes.Clone(h.nodes[a])
	}
	clear(h.mine)
	h.gen++
}

// verify walks the tree: layout, order, the keys in parents, the invariants of
// Editor, and that nodes which are not private were left alone.
func (h *heap) verify(e *Editor) map[disk.Key]string {
	h.t.Helper()
	got := map[disk.Key]string{}
	private := 0
	var walk func(a disk.Logical, level int, first *disk.Key)
	walk = func(a disk.Logical, level int, first *disk.Key) {
		n := h.nodes[a]
		if n == nil {
			h.t.Fatalf("node %d is gone", a)
		}
		if h.mine[a] {
			private++
		}
		if err := n.ValidateLayout(); err != nil {
			h.t.Fatal(err)
		}
		if n.Level() != level || n.Bytenr() != a {
			h.t.Fatalf("node %d: level %d, want %d", a, n.Level(), level)
		}
		if first != nil && (n.NrItems() == 0 || n.Key(0) != *first) {
			h.t.Fatalf("node %d: first key is not %v", a, *first)
		}
		for i := range n.NrItems() {
			if level == 0 {
				got[n.Key(i)] = string(n.ItemData(i))
				continue
			}
			k := n.Key(i)
			walk(n.BlockPtr(i), level-1, &k)
		}
		if first == nil && level > 0 && n.NrItems() < 2 {
			h.t.Fatalf("root with %d children", n.NrItems())
		}
	}
	walk(e.Root().Bytenr, e.Root().Level, nil)
	if private != len(h.mine) {
		h.t.Fatalf("%d private nodes, %d in the tree", len(h.mine), private)
	}
	for a, b := range h.saved {
		if n := h.nodes[a]; !h.mine[a] && !bytes.Equal(n, b) {
			h.t.Fatalf("public node %d was changed", a)
		}
	}
	return got
}

// TestEditorAgainstMap compares random edits with a map, and holds after each
// round everything that a tree promises.
func TestEditorAgainstMap(t *testing.T) {
	t.Logf("-edit.seed=%d", *editSeed)
	for _, size := range []int{4096, 16384} {
		for _, big := range []int{40, 1200, disk.LeafDataSize(size) - disk.ItemHeaderSize} {
			t.Run(fmt.Sprint(size, " items to ", big), func(t *testing.T) { editRounds(t, size, big) })
		}
	}
}

func editRounds(t *testing.T, size, big int) {
	ctx := context.Background()
	rnd := rand.New(rand.NewPCG(*editSeed, uint64(size+big)))
	h := newHeap(t, size)
	root, err := h.New(ctx, 300, 0)
	if err != nil {
		t.Fatal(err)
	}
	e := Edit(h, Root{ID: 300, Bytenr: root.Bytenr(), Generation: h.gen}, size)
	model := map[disk.Key]string{}
	rising := uint64(1 << 40)
	for round := range 24 {
		grow := round%8 < 5
		for range 250 {
			k := disk.Key{ObjectID: disk.ObjectID(rnd.IntN(600)), Type: disk.KeyExtentData, Offset: uint64(rnd.IntN(4))}
			if rnd.IntN(4) == 0 {
				rising++
				k = disk.Key{ObjectID: disk.ObjectID(rising), Type: disk.KeyInodeItem}
			}
			data := bytes.Repeat([]byte{byte(rnd.IntN(256))}, rnd.IntN(big+1))
			if !grow && rnd.IntN(4) > 0 && len(model) > 0 {
				it, ok, err := e.Ceil(ctx, k)
				if err != nil {
					t.Fatal(err)
				}
				if ok {
					k = it.Key
				}
				editDelete(t, e, model, k)
				continue
			}
			switch rnd.IntN(3) {
			case 0:
				editUpdate(t, e, model, k, data)
			default:
				err := e.Insert(ctx, k, data)
				if _, ok := model[k]; ok != errors.Is(err, ErrExists) || !ok && err != nil {
					t.Fatalf("insert %v: %v, exists: %v", k, err, ok)
				}
				if err == nil {
					model[k] = string(data)
				}
			}
		}
		if round == 23 {
			for k := range maps.Clone(model) {
				editDelete(t, e, model, k)
			}
		}
		if got := h.verify(e); !maps.Equal(got, model) {
			t.Fatalf("round %d: %d items, want %d", round, len(got), len(model))
		}
		editSeek(t, e, model, rnd)
		if round%3 == 0 {
			h.freeze()
		}
	}
	if e.Root().Level != 0 {
		t.Errorf("an empty tree has level %d", e.Root().Level)
	}
}

func editDelete(t *testing.T, e *Editor, model map[disk.Key]string, k disk.Key) {
	t.Helper()
	err := e.Delete(context.Background(), k)
	if _, ok := model[k]; ok != (err == nil) || !ok && !errors.Is(err, ErrNotFound) {
		t.Fatalf("delete %v: %v, exists: %v", k, err, ok)
	}
	delete(model, k)
}

func editUpdate(t *testing.T, e *Editor, model map[disk.Key]string, k disk.Key, data []byte) {
	t.Helper()
	err := e.Update(context.Background(), k, data)
	if _, ok := model[k]; ok != (err == nil) || !ok && !errors.Is(err, ErrNotFound) {
		t.Fatalf("update %v: %v, exists: %v", k, err, ok)
	} else if ok {
		model[k] = string(data)
	}
}

// editSeek compares Floor and Ceil with a search in the sorted keys.
func editSeek(t *testing.T, e *Editor, model map[disk.Key]string, rnd *rand.Rand) {
	t.Helper()
	ctx := context.Background()
	keys := slices.SortedFunc(maps.Keys(model), disk.Key.Compare)
	for range 100 {
		k := disk.Key{ObjectID: disk.ObjectID(rnd.IntN(620)), Type: disk.KeyExtentData, Offset: uint64(rnd.IntN(5))}
		at, found := slices.BinarySearchFunc(keys, k, disk.Key.Compare)
		up, ok, err := e.Ceil(ctx, k)
		if err != nil || ok != (at < len(keys)) || ok && (up.Key != keys[at] || string(up.Data) != model[up.Key]) {
			t.Fatalf("ceil of %v: %v, %v, %v", k, up.Key, ok, err)
		}
		if !found {
			at--
		}
		down, ok, err := e.Floor(ctx, k)
		if err != nil || ok != (at >= 0) || ok && down.Key != keys[at] {
			t.Fatalf("floor of %v: %v, %v, %v", k, down.Key, ok, err)
		}
	}
}
