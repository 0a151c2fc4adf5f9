package check

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"gobtrfs/disk"
)

// maxRecords bounds the memory of a diagnosis; what is beyond is counted by the
// buckets that were left out.
const maxRecords = 1 << 20

// checkRefs compares the references in the extent tree with those that trees
// and files make. While the sums of all buckets are zero nothing more is to be
// done; else the records of the buckets that are not are collected and matched
// one by one.
func (c *checker) checkRefs() error {
	bad := make(map[int]bool)
	for b := range buckets {
		var sum uint64
		for _, w := range c.workers {
			sum += w.refs[b]
		}
		if sum != 0 {
			bad[b] = true
		}
	}
	if len(bad) == 0 {
		return nil
	}
	records, cut, err := c.collectRefs(bad)
	if err != nil {
		return err
	}
	slices.SortFunc(records, func(a, b refRecord) int {
		return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(a.kind, b.kind), compareRefs(&a.ref, &b.ref), cmp.Compare(a.from, b.from))
	})
	moved := movedRoots(records)
	for len(records) > 0 {
		n := sameAddress(records)
		c.matchRefs(records[:n], moved)
		records = records[n:]
	}
	if cut {
		c.find.add(Finding{Code: CodeSearchCut, What: "references of more extents differ than could be compared one by one; check again after repair"})
	}
	return nil
}

// sameAddress is how many records at the beginning are about one extent.
func sameAddress(records []refRecord) int {
	n := 1
	for n < len(records) && records[n].addr == records[0].addr {
		n++
	}
	return n
}

// movedRoots are the trees that have an extent which nothing uses: if their root
// item points to what is not in use, it is of an older state.
func movedRoots(records []refRecord) map[disk.ObjectID]bool {
	moved := make(map[disk.ObjectID]bool)
	for len(records) > 0 {
		n := sameAddress(records)
		group := records[:n]
		records = records[n:]
		if slices.ContainsFunc(group, func(r refRecord) bool { return r.kind == refObserved }) {
			continue
		}
		for i := range group {
			if r := &group[i]; r.kind == refDeclared && r.ref.Type == disk.KeyTreeBlockRef {
				moved[r.ref.Root] = true
			}
		}
	}
	return moved
}

func compareRefs(a, b *disk.ExtentRef) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Root, b.Root), cmp.Compare(a.ObjectID, b.ObjectID),
		cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Parent, b.Parent))
}

// collectRefs reads the leaves that hold references again and keeps the records
// of the bad buckets. Interior blocks are still known.
func (c *checker) collectRefs(bad map[int]bool) (records []refRecord, cut bool, err error) {
	var mu sync.Mutex
	keep := func(w *worker, r *refRecord) {
		if !bad[w.bucket(r.addr)] {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if len(records) >= maxRecords {
			cut = true
			return
		}
		records = append(records, *r)
	}
	for _, w := range c.workers {
		w.collect = keep
		defer func() { w.collect = nil }()
	}
	w := c.workers[0]
	for i := range c.forests {
		f := &c.forests[i]
		for j := range f.roots {
			w.observeRoot(&f.roots[j])
		}
		for l := range f.levels {
			for j := range f.levels[l] {
				info := &f.levels[l][j]
				for k := range info.kids {
					c.observeKid(w, &link{kind: info.kind}, info, &info.kids[k])
				}
			}
		}
	}
	err = c.again(func(n *nodeInfo) bool {
		return n.kind == kindFile || n.kind == kindRoot || n.kind == kindExtent
	}, func(w *worker, info *nodeInfo, n disk.Node) {
		if info.kind == kindExtent {
			c.visitExtent(w, &nodeInfo{addr: info.addr}, n)
			return
		}
		for i := range n.NrItems() {
			if k := n.Key(i); k.Type == disk.KeyExtentData {
				if f, err := disk.ParseFileExtent(n.ItemData(i)); err == nil && f.Type != disk.FileExtentInline && f.DiskBytenr != 0 {
					w.observeExtent(info, n.Owner(), k, &f)
				}
			}
		}
	})
	return records, cut, err
}

// again reads leaves a second time, for a diagnosis.
func (c *checker) again(want func(*nodeInfo) bool, visit func(w *worker, info *nodeInfo, n disk.Node)) error {
	for i := range c.forests {
		f := &c.forests[i]
		var links []link
		var infos []*nodeInfo
		for j := range f.levels[0] {
			info := &f.levels[0][j]
			if info.bad || !want(info) {
				continue
			}
			links = append(links, link{addr: info.addr, gen: info.gen, level: 0, kind: info.kind, owner: info.owner, root: true})
			infos = append(infos, info)
		}
		err := c.scan.scan(c.ctx, links, func(w, i int, n disk.Node) { visit(c.workers[w], infos[i], n) }, func(int) {})
		if err != nil {
			return err
		}
	}
	return nil
}

// matchRefs compares all records about one extent.
func (c *checker) matchRefs(r []refRecord, moved map[disk.ObjectID]bool) {
	var items, declared, observed []refRecord
	for i := range r {
		switch r[i].kind {
		case refItem:
			items = append(items, r[i])
		case refDeclared:
			declared = append(declared, r[i])
		default:
			observed = append(observed, r[i])
		}
	}
	declared, observed = sumRefs(declared), sumRefs(observed)
	at := Place{Logical: disk.Logical(r[0].addr), Tree: disk.TreeExtent}
	switch {
	case len(items) == 0 && c.treeBroken(disk.TreeExtent):
		return // what is missing may be below what cannot be read
	case len(items) == 0 && len(observed) > 0:
		p := refPlace(&observed[0])
		if id := c.rootAt(disk.Logical(r[0].addr)); moved[id] && !observed[0].data {
			p.Tree = id
			c.find.add(Finding{Code: CodeTreeRoot, Place: p, What: "the root item points to a tree block that is not in use any more: it is of an older state of the tree"})
			return
		}
		c.find.add(Finding{Code: CodeExtentMissing, Place: p, What: fmt.Sprintf("%s uses an extent that the extent tree does not have", observed[0].describe()),
			Expected: fmt.Sprintf("an extent of %d bytes", observed[0].length)})
		return
	case len(items) == 0:
		c.find.add(Finding{Code: CodeExtentBackref, Place: at, What: fmt.Sprintf("%s is recorded for an extent that does not exist", declared[0].describe())})
		return
	case len(observed) == 0 && c.hasBroken():
		c.find.add(Finding{Code: CodeExtentUnused, Place: at, What: "an extent that nothing that could be read uses", Severity: Warning,
			Found: fmt.Sprintf("%d bytes with %d references", items[0].length, items[0].count), Means: "what uses it may be below the tree blocks that cannot be read"})
		return
	case len(observed) == 0:
		c.find.add(Finding{Code: CodeExtentUnused, Place: at, What: "an extent that nothing uses", Found: fmt.Sprintf("%d bytes with %d references", items[0].length, items[0].count)})
		return
	}
	c.matchShape(at, items, observed)
	c.matchCounts(at, items, declared)
	c.matchEach(at, declared, observed)
}

// matchShape compares length, level, generation and kind.
func (c *checker) matchShape(at Place, items, observed []refRecord) {
	it := &items[0]
	if len(items) > 1 {
		c.find.add(Finding{Code: CodeExtentShape, Place: at, What: fmt.Sprintf("%d extent items at one address", len(items))})
	}
	for i := range observed {
		o := &observed[i]
		p := refPlace(o)
		p.Logical = at.Logical
		bad := func(what string, want, got any) {
			c.find.add(Finding{Code: CodeExtentShape, Place: p, What: fmt.Sprintf("the extent item does not describe what %s uses: %s", o.describe(), what), Expected: fmt.Sprint(want), Found: fmt.Sprint(got)})
		}
		switch {
		case o.data != it.data:
			bad("data or tree block", kindWord(o.data), kindWord(it.data))
		case o.length != it.length:
			bad("its length", o.length, it.length)
		case !o.data && o.level != it.level:
			bad("its level", o.level, it.level)
		case !o.data && o.gen != it.gen:
			c.find.add(Finding{Code: CodeExtentGen, Place: p, What: "the generation in the extent item is not that of the tree block", Expected: fmt.Sprint(o.gen), Found: fmt.Sprint(it.gen)})
		}
	}
}

func kindWord(data bool) string {
	if data {
		return "data"
	}
	return "a tree block"
}

// matchCounts compares the number of references with the references recorded.
func (c *checker) matchCounts(at Place, items, declared []refRecord) {
	var sum uint64
	for i := range declared {
		sum += declared[i].count
	}
	if sum != items[0].count {
		c.find.add(Finding{Code: CodeExtentRefs, Place: at, What: "the reference count of an extent is not the sum of its references", Expected: fmt.Sprint(sum), Found: fmt.Sprint(items[0].count)})
	}
}

// matchEach compares the references one by one; both lists are sorted.
func (c *checker) matchEach(at Place, declared, observed []refRecord) {
	for len(declared) > 0 || len(observed) > 0 {
		d := 0
		switch {
		case len(declared) == 0:
			d = 1
		case len(observed) == 0:
			d = -1
		default:
			d = compareRefs(&declared[0].ref, &observed[0].ref)
		}
		switch {
		case d < 0:
			r := &declared[0]
			if !c.hasBroken() {
				c.find.add(Finding{Code: CodeExtentBackref, Place: at, What: fmt.Sprintf("the extent tree records %s, which does not exist", r.describe()), Expected: "0", Found: fmt.Sprint(r.count)})
			}
			declared = declared[1:]
		case d > 0:
			o := &observed[0]
			p := refPlace(o)
			p.Logical = at.Logical
			c.find.add(Finding{Code: CodeExtentBackref, Place: p, What: fmt.Sprintf("the extent tree does not record %s", o.describe()), Expected: fmt.Sprint(o.count), Found: "0"})
			observed = observed[1:]
		default:
			if o := &observed[0]; declared[0].count != o.count && !(c.hasBroken() && declared[0].count > o.count) {
				p := refPlace(o)
				p.Logical = at.Logical
				c.find.add(Finding{Code: CodeExtentBackref, Place: p, What: fmt.Sprintf("the count of %s", o.describe()), Expected: fmt.Sprint(o.count), Found: fmt.Sprint(declared[0].count)})
			}
			declared, observed = declared[1:], observed[1:]
		}
	}
}

// sumRefs adds up the records of the same reference.
func sumRefs(r []refRecord) []refRecord {
	var out []refRecord
	for i := range r {
		if n := len(out); n > 0 && compareRefs(&out[n-1].ref, &r[i].ref) == 0 && out[n-1].length == r[i].length {
			out[n-1].count += r[i].count
			continue
		}
		out = append(out, r[i])
	}
	return out
}

// describe says who refers, in words.
func (r *refRecord) describe() string {
	switch r.ref.Type {
	case disk.KeyTreeBlockRef:
		return fmt.Sprintf("a reference of tree %v", r.ref.Root)
	case disk.KeySharedBlockRef:
		return fmt.Sprintf("a reference of tree block %d", uint64(r.ref.Parent))
	case disk.KeySharedDataRef:
		return fmt.Sprintf("a reference of leaf %d", uint64(r.ref.Parent))
	}
	return fmt.Sprintf("a reference of tree %v, inode %d, offset %d", r.ref.Root, uint64(r.ref.ObjectID), int64(r.ref.Offset))
}

// refPlace is where a reference is made.
func refPlace(r *refRecord) Place {
	p := Place{Logical: disk.Logical(r.addr), Tree: r.ref.Root}
	if r.ref.Type == disk.KeyExtentDataRef {
		p.Inode = uint64(r.ref.ObjectID)
	}
	if p.Tree == 0 {
		p.Tree = r.owner
	}
	return p
}

// collectFull makes the sorted list of the blocks whose references are by
// parent.
func (c *checker) collectFull() {
	for _, w := range c.workers {
		c.full = append(c.full, w.full...)
		w.full = nil
	}
	slices.Sort(c.full)
}

// rootAt is the tree whose root item points to a, 0 if none does.
func (c *checker) rootAt(a disk.Logical) disk.ObjectID {
	for i := range c.forests {
		for j := range c.forests[i].roots {
			if r := &c.forests[i].roots[j]; r.addr == a {
				return r.id
			}
		}
	}
	return 0
}
