package btree_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/specimen"
	"gobtrfs/internal/volume"
)

type item struct {
	key  disk.Key
	data []byte
}

// specimenTree is the top-level subvolume of a filesystem that Linux wrote.
func specimenTree(t *testing.T, cacheBytes int64) (*btree.Tree, *volume.Volume) {
	t.Helper()
	ctx := context.Background()
	raw := specimen.Unclean(t)
	mem := blockdev.NewMemory(int64(len(raw)))
	if _, err := mem.WriteAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(ctx, []blockdev.Device{mem}, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cache := block.New(v, block.Options{Bytes: cacheBytes})
	sb := v.Super()
	roots := btree.New(cache, btree.Root{ID: disk.TreeRoot, Bytenr: sb.Root, Level: int(sb.RootLevel), Generation: sb.Generation})
	data, ok, err := roots.Get(ctx, disk.Key{ObjectID: disk.TreeFS, Type: disk.KeyRootItem})
	if err != nil || !ok {
		t.Fatalf("no root item: %v", err)
	}
	ri, err := disk.ParseRootItem(data)
	if err != nil {
		t.Fatal(err)
	}
	if ri.Level == 0 {
		t.Fatal("the specimen's tree has one leaf only: it tests nothing")
	}
	return btree.New(cache, btree.Root{ID: disk.TreeFS, Bytenr: ri.Bytenr, Level: int(ri.Level), Generation: ri.Generation}), v
}

// naive lists a tree by plain recursion over the volume: the model.
func naive(t *testing.T, v *volume.Volume, addr disk.Logical) []item {
	t.Helper()
	n := make(disk.Node, v.Super().NodeSize)
	if err := v.ReadNode(context.Background(), addr, n, nil); err != nil {
		t.Fatal(err)
	}
	var out []item
	for i := range n.NrItems() {
		if n.IsLeaf() {
			out = append(out, item{n.Key(i), n.ItemData(i)})
		} else {
			out = append(out, naive(t, v, n.BlockPtr(i))...)
		}
	}
	return out
}

func TestIterate(t *testing.T) {
	for _, cacheBytes := range []int64{1, 0} { // one node a shard, and plenty
		t.Run(fmt.Sprint("cache ", cacheBytes), func(t *testing.T) {
			tree, v := specimenTree(t, cacheBytes)
			want := naive(t, v, tree.Root().Bytenr)
			ctx := context.Background()

			var up []item
			it := tree.Seek(ctx, disk.Key{})
			for ; it.Valid(); it.Next() {
				up = append(up, item{it.Key(), it.Data()})
			}
			if err := it.Err(); err != nil {
				t.Fatal(err)
			}
			compareItems(t, "upwards", want, up)

			var down []item
			it = tree.SeekLast(ctx, disk.MaxKey)
			for ; it.Valid(); it.Prev() {
				down = append(down, item{it.Key(), it.Data()})
			}
			if err := it.Err(); err != nil {
				t.Fatal(err)
			}
			slices.Reverse(down)
			compareItems(t, "downwards", want, down)
		})
	}
}

func compareItems(t *testing.T, how string, want, got []item) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("%s: %d items, want %d", how, len(got), len(want))
	}
	for i := range want {
		if want[i].key != got[i].key || !bytes.Equal(want[i].data, got[i].data) {
			t.Fatalf("%s: item %d is %v, want %v", how, i, got[i].key, want[i].key)
		}
	}
}

// TestSearch asks for every key, and for the keys just before and behind it.
func TestSearch(t *testing.T) {
	tree, v := specimenTree(t, 0)
	want := naive(t, v, tree.Root().Bytenr)
	ctx := context.Background()
	for i, w := range want {
		if data, ok, err := tree.Get(ctx, w.key); err != nil || !ok || !bytes.Equal(data, w.data) {
			t.Fatalf("Get(%v): %v, %v", w.key, ok, err)
		}
		if it := tree.Seek(ctx, w.key); !it.Valid() || it.Key() != w.key {
			t.Fatalf("Seek(%v) is elsewhere", w.key)
		}
		if it := tree.SeekLast(ctx, w.key); !it.Valid() || it.Key() != w.key {
			t.Fatalf("SeekLast(%v) is elsewhere", w.key)
		}
		gap := w.key.Next()
		last := i == len(want)-1
		if !last && want[i+1].key == gap {
			continue
		}
		if _, ok, err := tree.Get(ctx, gap); err != nil || ok {
			t.Fatalf("Get(%v), which is not there: %v, %v", gap, ok, err)
		}
		if it := tree.Seek(ctx, gap); it.Valid() == last || !last && it.Key() != want[i+1].key {
			t.Fatalf("Seek(%v) is not on the item behind it", gap)
		}
		if it := tree.SeekLast(ctx, gap); !it.Valid() || it.Key() != w.key {
			t.Fatalf("SeekLast(%v) is not on the item before it", gap)
		}
	}
	if it := tree.SeekLast(ctx, disk.Key{}); it.Valid() || it.Err() != nil {
		t.Fatalf("SeekLast before the first item: %v", it.Err())
	}
}

// TestConcurrentReaders walks one tree from many goroutines over a cache that
// holds next to nothing, with some readers cancelled; the race detector and
// the comparison judge.
func TestConcurrentReaders(t *testing.T) {
	tree, v := specimenTree(t, 1)
	want := len(naive(t, v, tree.Root().Bytenr))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 20 {
				ctx, cancel := context.WithCancel(context.Background())
				n := 0
				it := tree.Seek(ctx, disk.Key{})
				for ; it.Valid(); it.Next() {
					if n++; i%4 == 0 && n == want/2 {
						cancel()
					}
				}
				if i%4 != 0 && (it.Err() != nil || n != want) {
					t.Errorf("%d items, want %d: %v", n, want, it.Err())
				}
				cancel()
			}
		})
	}
	wg.Wait()
}
