package check

import (
	"fmt"

	"gobtrfs/disk"
)

// folded is what the leaves below a block add up to, in key order.
type folded struct {
	seg   segment
	rare  []*rareItems
	edge  edge
	first disk.Key // of the first leaf
	last  disk.Key // of the last leaf
	any   bool     // there was a leaf with items
	gap   bool     // something below could not be read
	// the first or the last thing below could not be read, so that the inode
	// beside it may not be whole
	gapHead, gapTail bool
}

// folder puts the leaves of one forest together, tree by tree. What several
// trees share is put together once.
type folder struct {
	c      *checker
	f      *forest
	shared map[disk.Logical]int // how often a block is pointed to, where more than once
	memo   map[disk.Logical]*folded
	tree   disk.ObjectID
}

func newFolder(c *checker, f *forest) *folder {
	fo := &folder{c: c, f: f, shared: make(map[disk.Logical]int), memo: make(map[disk.Logical]*folded)}
	for l := range f.levels {
		if l == 0 {
			continue
		}
		// The kids of one level are the distinct blocks of the next, in any
		// order; a bitmap of those seen finds the shared ones.
		next := f.levels[l-1]
		seen := make([]bool, len(next))
		for i := range f.levels[l] {
			for j := range f.levels[l][i].kids {
				a := f.levels[l][i].kids[j].addr
				if k, ok := search(next, a); ok {
					if seen[k] {
						fo.shared[a]++
					}
					seen[k] = true
				}
			}
		}
	}
	for i := range f.roots {
		fo.shared[f.roots[i].addr]++
	}
	return fo
}

// search is the index of the block at a.
func search(l []nodeInfo, a disk.Logical) (int, bool) {
	lo, hi := 0, len(l)
	for lo < hi {
		mid := (lo + hi) / 2
		if l[mid].addr < a {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(l) && l[lo].addr == a
}

// fold puts together what is below a block. at is who points to it.
func (fo *folder) fold(at *link) *folded {
	info := fo.f.find(int(at.level), at.addr)
	if info == nil || info.bad {
		return &folded{gap: true, gapHead: true, gapTail: true, seg: segment{empty: true}}
	}
	fo.compare(at, info)
	if m := fo.memo[at.addr]; m != nil {
		return m
	}
	var out *folded
	if info.level == 0 {
		out = fo.leaf(info)
	} else {
		// What an unfinished deletion has released leaves the first inode
		// behind it cut off.
		cut := info.dropped > 0
		out = &folded{seg: segment{empty: true}, gap: cut, gapHead: cut, gapTail: cut}
		by := info.owner
		if info.full {
			by = 0
		}
		for i := range info.kids {
			k := &info.kids[i]
			sub := fo.fold(&link{addr: k.addr, gen: k.gen, first: k.key, parent: info.addr, owner: at.owner, level: info.level - 1, kind: at.kind, by: by})
			fo.follow(info, i, out, sub)
		}
	}
	if fo.shared[at.addr] > 0 {
		fo.memo[at.addr] = out
	}
	return out
}

// compare checks a block against one more pointer to it; scan has compared one.
func (fo *folder) compare(at *link, info *nodeInfo) {
	info.owned = info.owned || at.by == info.owner
	if at.gen != info.gen {
		fo.c.find.add(Finding{Code: CodeNodeGeneration, Place: at.place(), What: "a tree block has not the generation that " + at.source() + " wants",
			Expected: fmt.Sprint(uint64(at.gen)), Found: fmt.Sprint(uint64(info.gen))})
	}
	if !at.root && info.items > 0 && info.first != at.first {
		fo.c.find.add(Finding{Code: CodeNodeParent, Place: at.place(), What: "the first key of a tree block is not the key of its parent's pointer",
			Expected: at.first.String(), Found: info.first.String()})
	}
}

func (fo *folder) leaf(info *nodeInfo) *folded {
	out := &folded{first: info.first, last: info.last, any: info.items > 0}
	if info.seg != nil {
		out.seg = *info.seg
	} else {
		out.seg.empty = true
	}
	if info.edge != nil {
		out.edge = *info.edge
	}
	if info.rare != nil {
		out.rare = []*rareItems{info.rare}
	}
	return out
}

// follow appends what is below kid i of info.
func (fo *folder) follow(info *nodeInfo, i int, out, sub *folded) {
	c := fo.c
	if i+1 < len(info.kids) && sub.any && !sub.last.Less(info.kids[i+1].key) {
		k := info.kids[i+1].key
		c.find.add(Finding{Code: CodeNodeOrder, Place: Place{Tree: fo.tree, Logical: info.kids[i].addr, Key: &k},
			What: "a key is not below the first key of the tree block beside it", Expected: "below " + k.String(), Found: sub.last.String()})
		fo.skip(out)
		return
	}
	if out.any && sub.any && !out.last.Less(sub.first) {
		k := info.kids[i].key
		c.find.add(Finding{Code: CodeNodeOrder, Place: Place{Tree: fo.tree, Logical: info.kids[i].addr, Key: &k},
			What: "a key is not above those of the tree block before it", Expected: "above " + out.last.String(), Found: sub.first.String()})
		fo.skip(out)
		return
	}
	if out.edge.any && sub.edge.any && sub.edge.start < out.edge.end {
		code := CodeExtentOverlap
		if info.kind == kindCsum {
			code = CodeCsumOverlap
		}
		c.find.add(Finding{Code: code, Place: Place{Tree: fo.tree, Logical: info.kids[i].addr},
			What: fmt.Sprintf("a range that starts at %d overlaps the one before, which ends at %d", sub.edge.start, out.edge.end)})
	}
	if sub.edge.any {
		out.edge.add(sub.edge.start, sub.edge.end)
		out.edge.end = sub.edge.end
	}
	if sub.any {
		if !out.any {
			out.first = sub.first
		}
		out.last, out.any = sub.last, true
	}
	out.gap = out.gap || sub.gap
	fo.append(out, sub)
	for _, x := range sub.rare {
		if !x.done() {
			out.rare = append(out.rare, x)
		}
	}
}

// skip leaves out a piece that is out of order. Without it what is put together
// could grow without bound: in order, a tree has no block twice.
func (fo *folder) skip(out *folded) {
	out.gap, out.gapTail = true, true
	if !out.seg.empty {
		out.seg.last().has |= partial
	}
}

// append puts two neighbouring pieces of a tree of files together.
func (fo *folder) append(out, sub *folded) {
	a, b := &out.seg, &sub.seg
	if b.empty {
		if sub.gapTail && !a.empty {
			a.last().has |= partial
		}
		out.gapHead = out.gapHead || a.empty && sub.gapHead
		out.gapTail = out.gapTail || sub.gapTail
		return
	}
	head := b.head
	if out.gapTail || sub.gapHead {
		head.has |= partial
	}
	if sub.gapHead && !a.empty {
		a.last().has |= partial
	}
	wasEmpty, sums := a.empty, a.sums
	out.gapHead, out.gapTail = out.gapHead || a.empty && sub.gapHead, sub.gapTail
	switch {
	case wasEmpty:
		*a = *b
		a.head = head
	case a.last().ino == head.ino:
		a.last().merge(&head)
		fo.settle(sub, a.last())
		if b.single {
			break
		}
		fo.close(out)
		a.tail, a.single = b.tail, false
	default:
		fo.close(out)
		a.tail, a.single = head, false
		if !b.single {
			fo.close(out)
			a.tail = b.tail
		}
	}
	if wasEmpty {
		a.sums.add(sums)
	} else {
		a.sums.add(b.sums)
	}
}

// last is the last inode of a piece that is not empty.
func (s *segment) last() *inodeState {
	if s.single {
		return &s.head
	}
	return &s.tail
}

// close finishes the last inode of out, unless it is the first one too, of
// which more may be further left.
func (fo *folder) close(out *folded) {
	if !out.seg.single {
		fo.finish(out, &out.seg.tail)
	}
}

func (fo *folder) finish(out *folded, s *inodeState) {
	var x *rareItems
	fo.c.inodes.finish(fo.tree, s, &out.seg.sums, &x)
	if x != nil {
		out.rare = append(out.rare, x)
	}
}

// settle deals with the data ranges of the leaves at the beginning of sub, whose
// first inode is s, once the flags of s are known.
func (fo *folder) settle(sub *folded, s *inodeState) {
	if s.has&hasItem == 0 {
		return
	}
	for _, x := range sub.rare {
		if len(x.deferred) == 0 || x.deferredIno != s.ino {
			continue
		}
		for _, r := range x.deferred {
			fo.c.wantCsums(fo.tree, s, r)
		}
		x.deferred = nil
	}
}

// owners checks that each block whose references are not by parent has one in
// the name of the tree that it was made for, or at least stands in that tree.
// When the tree gives the block up while others use it, Linux turns the
// references into ones by parent.
func (fo *folder) owners() {
	for l := range fo.f.levels {
		for i := range fo.f.levels[l] {
			n := &fo.f.levels[l][i]
			if n.bad || n.full || n.owned || n.kind != kindFile || n.owner == disk.TreeReloc || fo.stands(n) {
				continue
			}
			fo.c.find.add(Finding{Code: CodeNodeOwner, Place: Place{Logical: n.addr, Tree: n.owner},
				What: "a tree block is not used by the tree that it says it was made for"})
		}
	}
}

// stands says whether a search for the block's first key in the tree that owns
// it comes to it. On the way are blocks that have been read.
func (fo *folder) stands(n *nodeInfo) bool {
	for i := range fo.f.roots {
		r := &fo.f.roots[i]
		if r.id != n.owner {
			continue
		}
		at := r.addr
		for level := int(r.level); level > int(n.level); level-- {
			info := fo.f.find(level, at)
			if info == nil || len(info.kids) == 0 {
				return false
			}
			k := 0
			for k+1 < len(info.kids) && !n.first.Less(info.kids[k+1].key) {
				k++
			}
			at = info.kids[k].addr
		}
		return at == n.addr
	}
	return false
}
