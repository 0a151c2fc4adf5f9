package check

import (
	"cmp"
	"fmt"
	"slices"

	"gobtrfs/disk"
)

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
	records := &sorter[refRecord]{pool: c.pool, compare: compareRecords, absorb: sameReference}
	defer records.drop()
	if err := c.collectRefs(records, bad); err != nil {
		return err
	}
	moved := make(map[disk.ObjectID]bool)
	c.eachExtent(records, func(group []refRecord) { movedRoots(group, moved) })
	cut := c.eachExtent(records, func(group []refRecord) { c.matchRefs(group, moved) })
	if cut {
		c.find.add(Finding{Code: CodeSearchCut, What: "an extent has more references than could be compared one by one"})
	}
	return c.pool.failure()
}

func compareRecords(a, b refRecord) int {
	return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(a.kind, b.kind), compareRefs(&a.ref, &b.ref), cmp.Compare(a.length, b.length),
		cmp.Compare(a.level, b.level), cmp.Compare(a.gen, b.gen), cmp.Compare(a.from, b.from))
}

// sameReference counts the same reference once more.
func sameReference(last *refRecord, b refRecord) bool {
	if b.kind == refItem || last.addr != b.addr || last.kind != b.kind || compareRefs(&last.ref, &b.ref) != 0 ||
		last.length != b.length || last.level != b.level || last.gen != b.gen {
		return false
	}
	last.count += b.count
	return true
}

// eachExtent calls do with all records about one extent after the other. It says
// whether there were too many of one.
func (c *checker) eachExtent(records *sorter[refRecord], do func(group []refRecord)) (cut bool) {
	var group []refRecord
	m := records.read()
	for {
		r, ok := m.next()
		if len(group) > 0 && (!ok || r.addr != group[0].addr) {
			do(group)
			group = group[:0]
		}
		switch {
		case !ok:
			return cut
		case len(group) < c.limits.records:
			group = append(group, r)
		default:
			cut = true
		}
	}
}

// movedRoots adds the trees that have an extent which nothing uses: if their
// root item points to what is not in use, it is of an older state. group is what
// is known of one extent.
func movedRoots(group []refRecord, moved map[disk.ObjectID]bool) {
	if slices.ContainsFunc(group, func(r refRecord) bool { return r.kind == refObserved }) {
		return
	}
	for i := range group {
		if r := &group[i]; r.kind == refDeclared && r.ref.Type == disk.KeyTreeBlockRef {
			moved[r.ref.Root] = true
		}
	}
}

func compareRefs(a, b *disk.ExtentRef) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Root, b.Root), cmp.Compare(a.ObjectID, b.ObjectID),
		cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Parent, b.Parent))
}

// collectRefs reads the leaves that hold references again and keeps the records
// of the bad buckets. Interior blocks are still known.
func (c *checker) collectRefs(records *sorter[refRecord], bad map[int]bool) error {
	lists := make([]batch[refRecord], len(c.workers))
	for i, w := range c.workers {
		lists[i].max = max(minBatch, c.limits.records/len(c.workers)/4)
		w.collect = func(w *worker, r *refRecord) {
			if bad[w.bucket(r.addr)] {
				lists[i].put(records, *r)
			}
		}
		defer func() {
			w.collect = nil
			lists[i].flush(records)
		}()
	}
	w := c.workers[0]
	for i := range c.forests {
		f := &c.forests[i]
		for j := range f.roots {
			w.observeRoot(&f.roots[j])
		}
		f.each(func(n *nodeInfo) bool {
			for k := range int(n.kidN) {
				kid := f.kid(n, k)
				c.observeKid(w, &link{kind: n.kind}, n, &kid)
			}
			return true
		})
	}
	return c.again(func(n *nodeInfo) bool {
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
}

// again reads leaves a second time, for a diagnosis.
func (c *checker) again(want func(*nodeInfo) bool, visit func(w *worker, info *nodeInfo, n disk.Node)) error {
	for i := range c.forests {
		leaves := &c.forests[i].levels[0]
		var links []link
		var infos []nodeInfo
		for j := range leaves.len() {
			if info := leaves.nodes.at(j); !info.bad && want(info) {
				links = append(links, link{addr: info.addr, gen: info.gen, level: 0, kind: info.kind, owner: info.owner, root: true})
				infos = append(infos, *info)
			}
			if len(links) < c.limits.leafBatch && j+1 < leaves.len() {
				continue
			}
			err := c.scan.scan(c.ctx, links, func(w, i int, n disk.Node) { visit(c.workers[w], &infos[i], n) }, func(int) {})
			if err != nil {
				return err
			}
			links, infos = links[:0], infos[:0]
		}
	}
	return c.pool.failure()
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
		w.full.flush(c.fullBlocks)
	}
	c.full = c.fullBlocks.settle()
}

// fullReader finds blocks in c.full. It is asked with rising addresses.
type fullReader struct {
	list *paged[disk.Logical]
	at   int // everything below is smaller than what was asked for last
}

func (c *checker) fullReader() *fullReader { return &fullReader{list: c.full} }

// has searches in steps that double, so that it costs little whether the
// addresses asked for are many or few.
func (r *fullReader) has(a disk.Logical) bool {
	if r.list == nil {
		return false
	}
	n := r.list.len()
	step := 1
	for r.at+step <= n && *r.list.at(r.at + step - 1) < a {
		r.at += step
		step *= 2
	}
	hi := min(r.at+step-1, n)
	for r.at < hi {
		if mid := (r.at + hi) / 2; *r.list.at(mid) < a {
			r.at = mid + 1
		} else {
			hi = mid
		}
	}
	return r.at < n && *r.list.at(r.at) == a
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
