package check

import (
	"slices"
	"testing"

	"gobtrfs/disk"
)

// TestRootSets: sets are joined and interned, until they take too much.
func TestRootSets(t *testing.T) {
	t.Parallel()
	r := newRootSets(1 << 20)
	a, b := r.intern([]disk.ObjectID{5}), r.intern([]disk.ObjectID{300})
	ab := r.join(a, b)
	if ab != r.join(b, a) || ab != r.join(ab, a) || r.join(ab, 0) != ab || !slices.Equal(r.sets[ab], []disk.ObjectID{5, 300}) {
		t.Errorf("sets %v, union %d", r.sets, ab)
	}
	r = newRootSets(100000)
	all := int32(0)
	for id := range disk.ObjectID(1000) {
		all = r.join(all, r.intern([]disk.ObjectID{256 + id}))
	}
	if r.left >= 0 || len(r.sets) > 500 {
		t.Errorf("%d bytes left, %d sets", r.left, len(r.sets))
	}
}

// TestManyMemberships: a qgroup in a long chain, and many sets of its members,
// do not take for ever.
func TestManyMemberships(t *testing.T) {
	t.Parallel()
	c := &checker{find: newCollector(10, nil)}
	c.quota.above = make(map[uint64][]uint64)
	for level := range uint64(1<<16 - 1) {
		c.quota.above[level<<48|300] = []uint64{(level+1)<<48 | 300}
	}
	steps := 0
	if n := len(c.qgroupsAbove(300, &steps)); n != 1<<16 || steps != 16*(1<<16-1) {
		t.Errorf("%d qgroups, %d steps", n, steps)
	}
	sets, bytes := newRootSets(1<<20), make(map[int32]uint64)
	for id := range disk.ObjectID(300) {
		bytes[sets.intern([]disk.ObjectID{300, 1000 + id})] = 4096
	}
	if c.compareQgroups(sets, bytes) {
		t.Error("all were compared")
	}
}
