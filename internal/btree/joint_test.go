package btree

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"gobtrfs/disk"
)

// TestJointEditors: several goroutines insert, count and read in place, and
// alone what cannot be done so. Of two who insert one key one wins; no count is
// lost; everything is there in the end. Run it with -race.
func TestJointEditors(t *testing.T) {
	const workers, each, keys = 4, 800, 2000
	ctx := t.Context()
	h := newHeap(t, 4096)
	n, err := h.New(ctx, 5, 0)
	if err != nil {
		t.Fatal(err)
	}
	e := Edit(h, Root{ID: 5, Bytenr: n.Bytenr(), Generation: h.gen}, h.size)
	counter := disk.Key{ObjectID: 1, Type: 1}
	if err := e.Insert(ctx, counter, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	j := jointTree{e: e}
	j.latches.Init()
	var wg sync.WaitGroup
	won := make([]map[disk.Key]string, workers)
	var counted, inPlace atomic.Int64
	for w := range workers {
		won[w] = make(map[disk.Key]string)
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(*editSeed, uint64(w)))
			for range each {
				k := disk.Key{ObjectID: 2, Type: 1, Offset: 2 * rnd.Uint64N(keys)}
				next := k.Next()
				data := make([]byte, 1+rnd.IntN(60))
				data[0] = byte(w)
				done, err := j.insert(ctx, Item{k, data}, Item{next, data})
				switch {
				case errors.Is(err, ErrExists):
				case err != nil:
					t.Error(err)
				default:
					won[w][k], won[w][next] = string(data), string(data)
				}
				if done {
					inPlace.Add(1)
				}
				if found, err := j.has(ctx, k); err != nil || !found {
					t.Errorf("key %v is not there: %v", k, err)
				}
				if rnd.IntN(4) == 0 {
					if err := j.count(ctx, counter); err != nil {
						t.Error(err)
					}
					counted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	got := h.verify(e)
	if n := binary.LittleEndian.Uint64([]byte(got[counter])); n != uint64(counted.Load()) {
		t.Errorf("counted %d, want %d", n, counted.Load())
	}
	delete(got, counter)
	total := 0
	for _, mine := range won {
		total += len(mine)
		for k, data := range mine {
			if got[k] != data {
				t.Fatalf("item %v is not its maker's", k)
			}
		}
	}
	if len(got) != total {
		t.Errorf("%d items, want %d", len(got), total)
	}
	if inPlace.Load() < each {
		t.Errorf("only %d insertions were made in place", inPlace.Load())
	}
}

// jointTree does alone what cannot be done in place.
type jointTree struct {
	e       *Editor
	latches Latches
	shape   sync.RWMutex
}

func (j *jointTree) insert(ctx context.Context, items ...Item) (inPlace bool, err error) {
	j.shape.RLock()
	done, err := j.e.InsertInPlace(&j.latches, items...)
	j.shape.RUnlock()
	if done || err != nil {
		return done, err
	}
	j.shape.Lock()
	defer j.shape.Unlock()
	for _, it := range items {
		if err := j.e.Insert(ctx, it.Key, it.Data); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (j *jointTree) has(ctx context.Context, k disk.Key) (found bool, err error) {
	j.shape.RLock()
	defer j.shape.RUnlock()
	return j.e.GetInPlace(ctx, &j.latches, k, func([]byte) error { return nil })
}

func (j *jointTree) count(ctx context.Context, k disk.Key) error {
	j.shape.RLock()
	defer j.shape.RUnlock()
	done, err := j.e.UpdateInPlace(&j.latches, k, func(data []byte) error {
		binary.LittleEndian.PutUint64(data, binary.LittleEndian.Uint64(data)+1)
		return nil
	})
	if err == nil && !done {
		err = ErrNotFound
	}
	return err
}

// TestInPlaceRefuses: what needs more than room in one private leaf is not done
// in place, and changes nothing.
func TestInPlaceRefuses(t *testing.T) {
	ctx := t.Context()
	h := newHeap(t, 4096)
	n, err := h.New(ctx, 5, 0)
	if err != nil {
		t.Fatal(err)
	}
	e := Edit(h, Root{ID: 5, Bytenr: n.Bytenr(), Generation: h.gen}, h.size)
	var l Latches
	l.Init()
	at := func(o uint64) disk.Key { return disk.Key{ObjectID: 1, Type: 1, Offset: o} }
	for o := range uint64(200) {
		if err := e.Insert(ctx, at(10*o), make([]byte, 40)); err != nil {
			t.Fatal(err)
		}
	}
	before := h.verify(e)
	leaf, _, _ := e.leafInPlace(at(0))
	last := leaf.Key(leaf.NrItems() - 1).Offset
	small, large := make([]byte, 1), make([]byte, 3000)
	for _, c := range []struct {
		name  string
		items []Item
		taken bool
	}{
		{"the key is taken", []Item{{at(50), small}}, true},
		{"another item lies between", []Item{{at(51), small}, {at(61), small}}, true},
		{"no room", []Item{{at(51), large}}, false},
		{"in front of everything", []Item{{disk.Key{}, small}}, false},
		{"the second belongs into the next leaf", []Item{{at(last + 1), small}, {at(last + 11), small}}, false},
	} {
		done, err := e.InsertInPlace(&l, c.items...)
		if done || errors.Is(err, ErrExists) != c.taken || err != nil && !c.taken {
			t.Errorf("%s: done %v, %v", c.name, done, err)
		}
	}
	if done, err := e.UpdateInPlace(&l, at(51), func([]byte) error { return nil }); done || err != nil {
		t.Errorf("an item that is not there was changed: %v", err)
	}
	h.freeze()
	if done, err := e.InsertInPlace(&l, Item{at(51), small}); done || err != nil {
		t.Errorf("a node that is not private was changed: %v", err)
	}
	if done, err := e.UpdateInPlace(&l, at(50), func([]byte) error { return nil }); done || err != nil {
		t.Errorf("a node that is not private was changed: %v", err)
	}
	if found, err := e.GetInPlace(ctx, &l, at(50), func([]byte) error { return nil }); !found || err != nil {
		t.Errorf("an item of a frozen node: found %v, %v", found, err)
	}
	after := h.verify(e)
	if len(after) != len(before) {
		t.Errorf("%d items, want %d", len(after), len(before))
	}
}
