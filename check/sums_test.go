package check

import (
	"math/rand/v2"
	"testing"

	"gobtrfs/disk"
)

// TestRangesThatPartitionCancel: the terms of extents and free space are those of
// the group exactly when they cover it once.
func TestRangesThatPartitionCancel(t *testing.T) {
	t.Parallel()
	h := newHasher()
	rng := rand.New(rand.NewPCG(2, 2))
	for range 200 {
		var cuts []uint64
		for at := uint64(0); at < 1000; at += 1 + rng.Uint64N(50) {
			cuts = append(cuts, at)
		}
		cuts = append(cuts, 1000)
		var sum uint64
		for i := 1; i < len(cuts); i++ {
			sum += h.position(cuts[i]) - h.position(cuts[i-1])
		}
		if sum != h.position(1000)-h.position(0) {
			t.Fatal("a partition does not cancel")
		}
		i := 1 + rng.IntN(len(cuts)-1)
		if left := sum - (h.position(cuts[i]) - h.position(cuts[i-1])); left == h.position(1000)-h.position(0) {
			t.Fatal("a gap cancels")
		}
		if more := sum + h.position(cuts[i]) - h.position(cuts[i-1]); more == h.position(1000)-h.position(0) {
			t.Fatal("an overlap cancels")
		}
	}
}

// TestReferencesTellEverythingApart: no two different facts about extents have
// the same term.
func TestReferencesTellEverythingApart(t *testing.T) {
	t.Parallel()
	h := newHasher()
	seen := map[uint64]string{}
	add := func(v uint64, what string) {
		if old, ok := seen[v]; ok {
			t.Errorf("%s and %s have one term", old, what)
		}
		seen[v] = what
	}
	for a := uint64(4096); a <= 3*4096; a += 4096 {
		for x := uint64(4096); x <= 3*4096; x += 4096 {
			r := disk.ExtentRef{Root: disk.ObjectID(x), Parent: disk.Logical(x), ObjectID: 256, Offset: 0}
			for _, typ := range []disk.KeyType{disk.KeyTreeBlockRef, disk.KeySharedBlockRef, disk.KeySharedDataRef, disk.KeyExtentDataRef} {
				r.Type = typ
				add(h.ref(a, &r), typ.String())
			}
			r.Offset = x
			add(h.ref(a, &r), "data reference with an offset")
			add(h.shape(a, x, 0, true), "data shape")
			add(h.shape(a, x, 0, false), "tree block shape")
			add(h.shape(a, x, 1, false), "tree block shape of level 1")
		}
		add(h.total(a), "total")
	}
}

// TestInodeStatesMerge: an inode that is cut anywhere adds up to the same.
func TestInodeStatesMerge(t *testing.T) {
	t.Parallel()
	type item func(*inodeState)
	extent := func(start, end uint64) item {
		return func(s *inodeState) { s.extent(start, end); s.found += end - start }
	}
	items := []item{
		func(s *inodeState) { s.has |= hasItem; s.size, s.nlink = 40960, 2 },
		func(s *inodeState) { s.names++ }, func(s *inodeState) { s.names++ },
		extent(0, 4096), extent(8192, 12288), extent(12288, 20480), extent(16384, 24576), extent(24576, 40960),
	}
	build := func(list []item) inodeState {
		s := newInodeState(257, 4096)
		for _, f := range list {
			f(&s)
		}
		return s
	}
	want := build(items)
	if want.gap != 4096 || want.overlap != 16384 || want.end != 40960 || want.extents != 5 {
		t.Fatalf("%+v", want)
	}
	for i := range len(items) + 1 {
		for j := i; j <= len(items); j++ {
			got := build(items[:i])
			mid, end := build(items[i:j]), build(items[j:])
			got.merge(&mid)
			got.merge(&end)
			if got != want {
				t.Errorf("cut at %d and %d: %+v, want %+v", i, j, got, want)
			}
		}
	}
}
