package check

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"gobtrfs/disk"
)

// qgroupInfo is a QGROUP_INFO item.
type qgroupInfo struct {
	id uint64
	disk.QgroupInfo
}

// quotaState is what the quota tree says.
type quotaState struct {
	status    disk.QgroupStatus
	hasStatus bool
	infos     []qgroupInfo
	limits    []uint64
	above     map[uint64][]uint64 // member: the qgroups that it is in
	relations []disk.Key
}

// rootSets are interned sets of subvolumes, so that a set is a small number.
// Set 0 is empty.
type rootSets struct {
	ids   map[string]int32
	sets  [][]disk.ObjectID
	union map[[2]int32]int32
	left  int64 // bytes that sets may still take; below 0: sets are not right any more
}

func newRootSets(most int64) *rootSets {
	return &rootSets{ids: map[string]int32{"": 0}, sets: [][]disk.ObjectID{nil}, union: make(map[[2]int32]int32), left: most}
}

func (r *rootSets) intern(set []disk.ObjectID) int32 {
	var key []byte
	for _, id := range set {
		key = binary.LittleEndian.AppendUint64(key, uint64(id))
	}
	if n, ok := r.ids[string(key)]; ok {
		return n
	}
	if r.left -= 2*int64(len(key)) + setOverhead; r.left < 0 {
		return 0
	}
	n := int32(len(r.sets))
	r.ids[string(key)] = n
	r.sets = append(r.sets, set)
	return n
}

// setOverhead is about what a set takes beside its members, in bytes.
const setOverhead = 100

func (r *rootSets) join(a, b int32) int32 {
	switch {
	case a == b || b == 0:
		return a
	case a == 0:
		return b
	case a > b:
		a, b = b, a
	}
	if n, ok := r.union[[2]int32{a, b}]; ok {
		return n
	}
	set := append(slices.Clone(r.sets[a]), r.sets[b]...)
	slices.Sort(set)
	n := r.intern(slices.Compact(set))
	if r.left -= setOverhead; r.left < 0 {
		return 0
	}
	r.union[[2]int32{a, b}] = n
	return n
}

// checkQuota counts what each qgroup refers to, and what nobody else does, and
// compares.
func (c *checker) checkQuota() error {
	q := &c.quota
	if !q.hasStatus {
		return nil
	}
	c.checkQgroupItems()
	const unsure = disk.QgroupStatusRescan | disk.QgroupStatusInconsistent
	switch {
	case q.status.Flags&disk.QgroupStatusOn == 0:
		return nil
	case q.status.Flags&unsure != 0:
		c.find.add(Finding{Code: CodeQgroupState, Place: Place{Tree: disk.TreeQuota}, What: "quotas are marked as inconsistent, or a rescan has not finished"})
		return nil
	case c.hasBroken():
		return nil
	case q.status.Flags&disk.QgroupStatusSimpleMode != 0:
		return c.checkSimpleQuota()
	}
	sets := newRootSets(c.limits.sets)
	bytes, err := c.bytesBySet(sets)
	if err != nil {
		return err
	}
	if sets.left < 0 || !c.compareQgroups(sets, bytes) {
		c.quotaCut()
	}
	return nil
}

// quotaCut says that there was too much to compare.
func (c *checker) quotaCut() {
	c.find.add(Finding{Code: CodeSearchCut, Place: Place{Tree: disk.TreeQuota}, What: "the counts of qgroups were not compared: too many subvolumes share too much, or are in too many qgroups"})
}

// checkQgroupItems checks that every qgroup has an info and a limit, and that
// relations are kept in both directions.
func (c *checker) checkQgroupItems() {
	infos, limits := make(map[uint64]bool), make(map[uint64]bool)
	for _, i := range c.quota.infos {
		infos[i.id] = true
	}
	for _, l := range c.quota.limits {
		limits[l] = true
		if !infos[l] {
			c.find.add(Finding{Code: CodeQgroup, Place: Place{Tree: disk.TreeQuota}, What: fmt.Sprintf("qgroup %s has a limit but no info", qgroupName(l))})
		}
	}
	both := make(map[disk.Key]bool)
	for _, k := range c.quota.relations {
		both[k] = true
	}
	for _, k := range c.quota.relations {
		if !both[disk.Key{ObjectID: disk.ObjectID(k.Offset), Type: k.Type, Offset: uint64(k.ObjectID)}] {
			c.find.add(Finding{Code: CodeQgroup, Place: Place{Tree: disk.TreeQuota, Key: keyOf(k)}, What: "a relation of qgroups is kept in one direction only"})
		}
	}
}

func qgroupName(id uint64) string { return fmt.Sprintf("%d/%d", id>>48, id&(1<<48-1)) }

// bytesBySet adds up the bytes of all extents by the set of subvolumes that
// reach them.
func (c *checker) bytesBySet(sets *rootSets) (map[int32]uint64, error) {
	f := &c.forests[2]
	reach := func(level int, addr disk.Logical, set int32) {
		if j, ok := f.levels[level].search(addr); ok {
			if n := f.levels[level].nodes.at(j); n.set != sets.join(n.set, set) {
				f.levels[level].nodes.edit(j).set = sets.join(n.set, set)
			}
		}
	}
	for i := range f.roots {
		if r := &f.roots[i]; r.id.IsSubvolume() {
			reach(int(r.level), r.addr, sets.intern([]disk.ObjectID{r.id}))
		}
	}
	bytes := make(map[int32]uint64)
	f.each(func(n *nodeInfo) bool {
		if n.set == 0 {
			return true
		}
		bytes[n.set] += uint64(c.geo.NodeSize)
		for k := range int(n.kidN) {
			reach(int(n.level)-1, f.kid(n, k).addr, n.set)
		}
		return true
	})
	return bytes, c.dataBySet(sets, bytes)
}

// dataBySet is bytesBySet for data. Extents are looked at in as many passes as
// keep memory within bounds.
func (c *checker) dataBySet(sets *rootSets, bytes map[int32]uint64) error {
	type extent struct {
		set    int32
		length uint64
	}
	var count uint64
	for _, w := range c.workers {
		count += w.stats.Extents
	}
	passes := count/c.limits.quotaExtents + 1
	for p := range passes {
		var mu sync.Mutex
		extents := make(map[uint64]extent)
		err := c.again(func(n *nodeInfo) bool { return n.kind == kindFile }, func(_ *worker, info *nodeInfo, n disk.Node) {
			if info.set == 0 {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for i := range n.NrItems() {
				if n.Key(i).Type != disk.KeyExtentData {
					continue
				}
				fe, err := disk.ParseFileExtent(n.ItemData(i))
				if err != nil || fe.Type == disk.FileExtentInline || fe.DiskBytenr == 0 || c.hash.mix(uint64(fe.DiskBytenr), 1)%passes != p {
					continue
				}
				e := extents[uint64(fe.DiskBytenr)]
				extents[uint64(fe.DiskBytenr)] = extent{sets.join(e.set, info.set), fe.DiskNumBytes}
			}
		})
		if err != nil {
			return err
		}
		for _, e := range extents {
			bytes[e.set] += e.length
		}
	}
	return nil
}

// quotaUse is what a qgroup is charged with.
type quotaUse struct{ rfer, excl uint64 }

// maxQuotaSteps bounds how long memberships are followed: about a second.
const maxQuotaSteps = 1 << 24

// qgroupsAbove is a qgroup with all that it is a member of, directly or not.
// steps counts what that takes.
func (c *checker) qgroupsAbove(id uint64, steps *int) []uint64 {
	out := []uint64{id}
	if len(c.quota.above[id]) == 0 {
		*steps++
		return out
	}
	seen := map[uint64]bool{id: true}
	for i := 0; i < len(out); i++ {
		for _, p := range c.quota.above[out[i]] {
			if *steps += 16; !seen[p] {
				seen[p] = true
				out = append(out, p)
			}
		}
	}
	return out
}

// compareQgroups compares the counts of all qgroups. It gives up, and returns
// false, when there are too many memberships.
func (c *checker) compareQgroups(sets *rootSets, bytes map[int32]uint64) bool {
	steps := 0
	got := make(map[uint64]quotaUse)
	for s, n := range bytes {
		in := make(map[uint64]int) // qgroup: how many of the set's subvolumes are in it
		for _, root := range sets.sets[s] {
			if steps > maxQuotaSteps {
				return false
			}
			for _, q := range c.qgroupsAbove(uint64(root), &steps) {
				in[q]++
			}
		}
		for q, k := range in {
			u := got[q]
			u.rfer += n
			if k == len(sets.sets[s]) {
				u.excl += n
			}
			got[q] = u
		}
	}
	c.reportQgroups(got)
	return true
}

// reportQgroups reports qgroups whose stored counts differ from got.
func (c *checker) reportQgroups(got map[uint64]quotaUse) {
	// Simple quotas do not keep the two counts of compressed bytes.
	simple := c.quota.status.Flags&disk.QgroupStatusSimpleMode != 0
	slices.SortFunc(c.quota.infos, func(a, b qgroupInfo) int { return cmp.Compare(a.id, b.id) })
	for _, i := range c.quota.infos {
		u := got[i.id]
		if i.Rfer != u.rfer || i.Excl != u.excl || !simple && (i.RferCmpr != u.rfer || i.ExclCmpr != u.excl) {
			k := disk.Key{Type: disk.KeyQgroupInfo, Offset: i.id}
			c.find.add(Finding{Code: CodeQgroup, Place: Place{Tree: disk.TreeQuota, Key: keyOf(k)}, What: fmt.Sprintf("the counts of qgroup %s", qgroupName(i.id)),
				Expected: fmt.Sprintf("%d referenced, %d exclusive", u.rfer, u.excl), Found: fmt.Sprintf("%d (%d) referenced, %d (%d) exclusive", i.Rfer, i.RferCmpr, i.Excl, i.ExclCmpr)})
		}
	}
}
