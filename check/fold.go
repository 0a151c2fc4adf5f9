package check

import (
	"fmt"
	"slices"

	"gobtrfs/disk"
)

// folded is what the leaves below a block add up to, in key order.
type folded struct {
	foldedSums
	rare []*rareItems
}

// foldedSums is the part of folded that has a fixed size.
type foldedSums struct {
	seg   segment
	edge  edge
	first disk.Key // of the first leaf
	last  disk.Key // of the last leaf
	any   bool     // there was a leaf with items
	gap   bool     // something below could not be read
	// the first or the last thing below could not be read, so that the inode
	// beside it may not be whole
	gapHead, gapTail bool
}

// memo keeps what an interior block adds up to, for the other trees that share
// it.
type memo struct {
	sums foldedSums
	list int64 // 1 + the place in forest.lists; 0: nothing rare
}

// folder puts the leaves of one forest together, tree by tree. What is below an
// interior block is put together once.
type folder struct {
	c    *checker
	f    *forest
	tree disk.ObjectID
	outs [disk.MaxLevel]folded // what fold returns, by level
}

// fold puts together what is below a block. at is who points to it. The result
// is valid until the next call for a block of the same level.
func (fo *folder) fold(at *link) *folded {
	if at.level < 0 {
		return new(folded)
	}
	f := fo.f
	out := &fo.outs[at.level]
	*out = folded{}
	level := &f.levels[at.level]
	i, ok := level.search(at.addr)
	if !ok || level.nodes.at(i).bad {
		out.gap, out.gapHead, out.gapTail, out.seg.empty = true, true, true, true
		return out
	}
	if at.by == level.nodes.at(i).owner && !level.nodes.at(i).owned {
		level.nodes.edit(i).owned = true
	}
	info := *level.nodes.at(i)
	fo.compare(at, &info)
	switch {
	case info.level == 0:
		fo.leaf(&info, out)
		return out
	case info.memo > 0:
		m := f.memos.at(int(info.memo) - 1)
		out.foldedSums = m.sums
		if m.list > 0 {
			out.rare = f.lists[m.list-1]
		}
		return out
	}
	// What an unfinished deletion has released leaves the first inode behind it
	// cut off.
	cut := info.dropped > 0
	out.seg.empty, out.gap, out.gapHead, out.gapTail = true, cut, cut, cut
	by := info.owner
	if info.full {
		by = 0
	}
	for k := range int(info.kidN) {
		kid := f.kid(&info, k)
		sub := fo.fold(&link{addr: kid.addr, gen: kid.gen, first: kid.key, parent: info.addr, owner: at.owner, level: info.level - 1, kind: at.kind, by: by})
		fo.follow(&info, k, out, sub)
	}
	m := memo{sums: out.foldedSums}
	if len(out.rare) > 0 {
		f.lists = append(f.lists, slices.Clip(out.rare))
		m.list = int64(len(f.lists))
	}
	n := f.memos.add(m)
	level.nodes.edit(i).memo = int64(n) + 1
	return out
}

// compare checks a block against one more pointer to it; scan has compared one.
func (fo *folder) compare(at *link, info *nodeInfo) {
	if at.gen != info.gen {
		fo.c.find.add(Finding{Code: CodeNodeGeneration, Place: at.place(), What: "a tree block has not the generation that " + at.source() + " wants",
			Expected: fmt.Sprint(uint64(at.gen)), Found: fmt.Sprint(uint64(info.gen))})
	}
	if !at.root && info.items > 0 && info.first != at.first {
		fo.c.find.add(Finding{Code: CodeNodeParent, Place: at.place(), What: "the first key of a tree block is not the key of its parent's pointer",
			Expected: at.first.String(), Found: info.first.String()})
	}
}

func (fo *folder) leaf(info *nodeInfo, out *folded) {
	out.first, out.last, out.any, out.edge = info.first, info.last, info.items > 0, info.edge
	out.seg.empty = true
	if info.seg > 0 {
		out.seg = *fo.f.segs.at(int(info.seg) - 1)
	}
	if info.rare > 0 {
		out.rare = fo.f.rares[info.rare-1 : info.rare : info.rare]
	}
}

// follow appends what is below kid i of info.
func (fo *folder) follow(info *nodeInfo, i int, out, sub *folded) {
	c := fo.c
	at := fo.f.kid(info, i)
	if i+1 < int(info.kidN) && sub.any {
		if k := fo.f.kid(info, i+1).key; !sub.last.Less(k) {
			c.find.add(Finding{Code: CodeNodeOrder, Place: Place{Tree: fo.tree, Logical: at.addr, Key: keyOf(k)},
				What: "a key is not below the first key of the tree block beside it", Expected: "below " + k.String(), Found: sub.last.String()})
			fo.skip(out)
			return
		}
	}
	if out.any && sub.any && !out.last.Less(sub.first) {
		k := at.key
		c.find.add(Finding{Code: CodeNodeOrder, Place: Place{Tree: fo.tree, Logical: at.addr, Key: keyOf(k)},
			What: "a key is not above those of the tree block before it", Expected: "above " + out.last.String(), Found: sub.first.String()})
		fo.skip(out)
		return
	}
	if out.edge.any && sub.edge.any && sub.edge.start < out.edge.end {
		code := CodeExtentOverlap
		switch info.kind {
		case kindCsum:
			code = CodeCsumOverlap
		case kindStripe:
			code = CodeRaidStripe
		}
		c.find.add(Finding{Code: code, Place: Place{Tree: fo.tree, Logical: at.addr},
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
	fo.append(out, sub, &at, info.level-1)
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
func (fo *folder) append(out, sub *folded, at *kid, level int8) {
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
		if a.last().has&hasItem != 0 {
			fo.settle(at.addr, int(level), a.last())
		}
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

// settle notes in the leaves below a block that begin with more of inode s what
// the flags of s say about its data, because the inode's item stands further
// left. It says whether the block ends with s.
func (fo *folder) settle(addr disk.Logical, level int, s *inodeState) bool {
	list := &fo.f.levels[level]
	i, ok := list.search(addr)
	if !ok || list.nodes.at(i).bad {
		return false
	}
	info := *list.nodes.at(i)
	if level > 0 {
		for k := range int(info.kidN) {
			if !fo.settle(fo.f.kid(&info, k).addr, level-1, s) {
				return false
			}
		}
		return true
	}
	if info.seg == 0 || info.headKnown {
		return false
	}
	seg := *fo.f.segs.at(int(info.seg) - 1)
	if seg.empty || seg.head.ino != s.ino {
		return false
	}
	n := list.nodes.edit(i)
	n.headKnown, n.headNoSum = true, s.iflags&disk.InodeNoDataSum != 0
	return seg.single
}

// owners checks that each block whose references are not by parent has one in
// the name of the tree that it was made for, or at least stands in that tree.
// When the tree gives the block up while others use it, Linux turns the
// references into ones by parent.
func (fo *folder) owners() {
	fo.f.each(func(n *nodeInfo) bool {
		if n.bad || n.full || n.owned || n.kind != kindFile || n.owner == disk.TreeReloc || fo.stands(n) {
			return true
		}
		fo.c.find.add(Finding{Code: CodeNodeOwner, Place: Place{Logical: n.addr, Tree: n.owner},
			What: "a tree block is not used by the tree that it says it was made for"})
		return true
	})
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
			info, ok := fo.f.find(level, at)
			if !ok || info.kidN == 0 {
				return false
			}
			at = fo.f.kid(&info, fo.f.childFor(&info, n.first)).addr
		}
		return at == n.addr
	}
	return false
}
