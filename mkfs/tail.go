package mkfs

import (
	"encoding/binary"
	"fmt"

	"gobtrfs/disk"
)

var le = binary.LittleEndian

// Trees of the tail, in the order in which their nodes are placed. The chunk tree
// goes to the system region, the others to the metadata region.
const (
	tailChunk = iota
	tailDev
	tailGroups
	tailFree
	tailExtent
	tailRoot
	tailTrees
)

var tailOwner = [tailTrees]disk.ObjectID{disk.TreeChunk, disk.TreeDev, disk.TreeBlockGroup, disk.TreeFreeSpace, disk.TreeExtent, disk.TreeRoot}

// tail is one attempt at the trees that describe all trees, themselves included.
// How many nodes each of them needs depends on how many nodes there are, and on
// the chunks that hold them. solve starts with one node for each and counts again
// until the numbers agree. No number ever falls on the way, because more nodes
// never mean fewer items (see region.spare), so this ends at the smallest
// solution.
type tail struct {
	m        *maker
	l        *layout
	counts   [tailTrees]uint64
	addrs    [tailTrees][]disk.Logical
	blocks   []block // all of the filesystem's, by rising address
	firsts   []disk.Key
	tailFrom [tailTrees]int // index into blocks of each tree's first
}

// solve finds the tail's nodes and chunks.
func (m *maker) solve() (*tail, error) {
	var counts [tailTrees]uint64
	for k := range counts {
		counts[k] = 1
	}
	if !m.plan.features.blockGroupTree() {
		counts[tailGroups] = 0
	}
	if !m.plan.features.freeSpaceTree() {
		counts[tailFree] = 0
	}
	for range 100 {
		t, err := m.tryTail(counts)
		if err != nil {
			return nil, err
		}
		needs := t.needs()
		if needs == counts {
			return t, nil
		}
		for k := range counts {
			counts[k] = max(counts[k], needs[k])
		}
	}
	return nil, fmt.Errorf("sizes of the trees do not settle at %v", counts)
}

// tryTail places so many nodes on a copy of the layout.
func (m *maker) tryTail(counts [tailTrees]uint64) (*tail, error) {
	t := &tail{m: m, counts: counts, l: m.layout.clone()}
	sys, meta := m.system.region.on(t.l), m.meta.region.on(t.l)
	for k, n := range counts {
		r := meta
		if k == tailChunk {
			r = sys
		}
		for range n {
			at, _, _, err := r.take(uint64(m.plan.format.size), true)
			if err != nil {
				return nil, err
			}
			t.addrs[k] = append(t.addrs[k], at)
		}
	}
	if meta.virtual {
		if err := m.placeMetadata(t.l, meta, &counts); err != nil {
			return nil, err
		}
	}
	if m.plan.Shrink {
		t.l.shrinkDevices(m.plan.Slack)
	}
	t.collect()
	return t, nil
}

// collect lists the blocks of the whole filesystem. Levels and first keys of the
// tail's are filled in by describe.
func (t *tail) collect() {
	add := func(k int) {
		t.tailFrom[k] = len(t.blocks)
		for _, at := range t.addrs[k] {
			t.blocks = append(t.blocks, block{at: at, owner: tailOwner[k]})
		}
	}
	add(tailChunk)
	t.blocks = append(t.blocks, t.m.meta.blocks...)
	for k := tailDev; k < tailTrees; k++ {
		add(k)
	}
	if t.m.meta.keys {
		t.firsts = make([]disk.Key, len(t.blocks))
		copy(t.firsts[t.counts[tailChunk]:], t.m.meta.firsts)
	}
}

// items makes one of the small trees.
func (t *tail) items(k int, roots []treeRoot) []item {
	switch k {
	case tailChunk:
		return chunkItems(t.l, &t.m.plan.format)
	case tailDev:
		return devItems(t.l, &t.m.plan.format)
	case tailGroups:
		return groupItems(t.l)
	case tailFree:
		return freeItems(t.l)
	case tailRoot:
		return rootItems(t.m.plan, t.m.tree, t.m.subvols, roots)
	}
	return nil
}

// needs counts the nodes that each tree wants, given where everything is.
func (t *tail) needs() (n [tailTrees]uint64) {
	for k := range n {
		switch {
		case t.counts[k] == 0:
		case k == tailExtent:
			c := packCounter{size: t.m.plan.format.size}
			t.extents(func(e *extentRow) error { c.add(e.size); return nil }) //nolint:errcheck // the function never fails
			n[k] = c.nodes()
		case k == tailRoot:
			roots := append(t.m.roots[:len(t.m.roots):len(t.m.roots)], t.dummyRoots()...)
			n[k] = countNodes(&t.m.plan.format, t.items(k, roots))
		default:
			n[k] = countNodes(&t.m.plan.format, t.items(k, nil))
		}
	}
	return n
}

// dummyRoots stand for the tail's trees while only sizes matter.
func (t *tail) dummyRoots() (out []treeRoot) {
	for k := tailDev; k < tailRoot; k++ {
		if t.counts[k] > 0 {
			out = append(out, treeRoot{owner: tailOwner[k]})
		}
	}
	return out
}

// extentRow is an item of the extent tree: a data extent, a block, or a block
// group.
type extentRow struct {
	key   disk.Key
	size  int
	data  *extent
	block int
	group *chunk
}

// extents calls fn for each item of the extent tree in order.
func (t *tail) extents(fn func(*extentRow) error) error {
	var row extentRow
	data, d, b, g := t.m.asm.extents, 0, 0, 0
	groups := t.l.chunks
	if t.m.plan.features.blockGroupTree() {
		groups = nil
	}
	for d < len(data) || b < len(t.blocks) || g < len(groups) {
		best := disk.MaxKey
		which := 0
		if d < len(data) {
			best, which = disk.Key{ObjectID: disk.ObjectID(data[d].at), Type: disk.KeyExtentItem, Offset: uint64(data[d].n)}, 1
		}
		if b < len(t.blocks) {
			if k := t.blockKey(b); which == 0 || k.Less(best) {
				best, which = k, 2
			}
		}
		if g < len(groups) {
			k := disk.Key{ObjectID: disk.ObjectID(groups[g].Logical), Type: disk.KeyBlockGroupItem, Offset: groups[g].Length}
			if which == 0 || k.Less(best) {
				best, which = k, 3
			}
		}
		row = extentRow{key: best}
		switch which {
		case 1:
			row.data, row.size = &data[d], 24+disk.InlineRefSize(disk.KeyExtentDataRef)
			d++
		case 2:
			row.block, row.size = b, 24+disk.InlineRefSize(disk.KeyTreeBlockRef)
			if !t.m.plan.features.skinny() {
				row.size += 18
			}
			b++
		default:
			row.group, row.size = groups[g], 24
			g++
		}
		if err := fn(&row); err != nil {
			return err
		}
	}
	return nil
}

func (t *tail) blockKey(b int) disk.Key {
	k := &t.blocks[b]
	if t.m.plan.features.skinny() {
		return disk.Key{ObjectID: disk.ObjectID(k.at), Type: disk.KeyMetadataItem, Offset: uint64(k.level)}
	}
	return disk.Key{ObjectID: disk.ObjectID(k.at), Type: disk.KeyExtentItem, Offset: uint64(t.m.plan.format.size)}
}

// packExtents packs the extent tree.
func (t *tail) packExtents(p *packer) error {
	return t.extents(func(e *extentRow) error {
		b, err := p.add(e.key, e.size)
		if err != nil {
			return err
		}
		b = b[:0]
		switch {
		case e.group != nil:
			g := disk.BlockGroupItem{Used: e.group.used, ChunkObjectID: disk.FirstChunkTree, Flags: e.group.Type}
			g.Append(b)
		case e.data != nil:
			b = disk.ExtentItem{Refs: 1, Generation: generation, Flags: disk.ExtentFlagData}.Append(b)
			ref := disk.ExtentRef{
				Type: disk.KeyExtentDataRef, Root: t.m.subvols[e.data.subvol].id,
				ObjectID: disk.ObjectID(firstIno + uint64(e.data.ino)), Offset: e.data.file, Count: 1,
			}
			ref.AppendInline(b)
		default:
			k := &t.blocks[e.block]
			b = disk.ExtentItem{Refs: 1, Generation: generation, Flags: disk.ExtentFlagTreeBlock}.Append(b)
			if !t.m.plan.features.skinny() {
				b = disk.TreeBlockInfo{FirstKey: t.firsts[e.block], Level: k.level}.Append(b)
			}
			ref := disk.ExtentRef{Type: disk.KeyTreeBlockRef, Root: k.owner}
			ref.AppendInline(b)
		}
		return nil
	})
}

// shapeSink learns the shape of a tree without keeping it.
type shapeSink struct {
	t    *tail
	next int
	node disk.Node
}

func (s *shapeSink) place(_ disk.ObjectID, level int, first disk.Key) (disk.Logical, error) {
	if s.next == len(s.t.blocks) {
		return 0, fmt.Errorf("a tree has more nodes than were counted")
	}
	b := &s.t.blocks[s.next]
	b.level = uint8(level)
	if s.t.firsts != nil {
		s.t.firsts[s.next] = first
	}
	s.next++
	return b.at, nil
}

func (s *shapeSink) buffer() disk.Node {
	n := s.node
	s.node = nil
	if n == nil {
		n = make(disk.Node, s.t.m.plan.format.size)
	}
	return n
}

func (s *shapeSink) put(_ disk.Logical, n disk.Node) error {
	s.node = n
	return nil
}

// pack packs tree k into a sink.
func (t *tail) pack(k int, sink nodeSink, roots []treeRoot) (treeRoot, error) {
	p := newPacker(&t.m.plan.format, sink, tailOwner[k])
	if k == tailExtent {
		if err := t.packExtents(p); err != nil {
			return treeRoot{}, err
		}
		return p.finish()
	}
	for _, i := range t.items(k, roots) {
		if err := p.addBytes(i.key, i.data); err != nil {
			return treeRoot{}, err
		}
	}
	return p.finish()
}

// write writes the tail. The extent tree names the level of every node, so each
// tree is packed twice: once for its shape, once for good.
func (t *tail) write() (roots [tailTrees]treeRoot, err error) {
	for k := range roots {
		if t.counts[k] == 0 {
			continue
		}
		r := append(t.m.roots[:len(t.m.roots):len(t.m.roots)], t.dummyRoots()...)
		if roots[k], err = t.pack(k, &shapeSink{t: t, next: t.tailFrom[k]}, r); err != nil {
			return roots, err
		}
	}
	all := t.m.roots[:len(t.m.roots):len(t.m.roots)]
	for k := range roots {
		if t.counts[k] == 0 {
			continue
		}
		store := t.m.meta
		if k == tailChunk {
			store = t.m.system
		}
		sink := &listSink{nodeStore: store, l: t.l, addrs: t.addrs[k], virt: store.spill != nil}
		if roots[k], err = t.pack(k, sink, all); err != nil {
			return roots, err
		}
		if uint64(sink.next) != t.counts[k] {
			return roots, fmt.Errorf("tree %v has %d nodes, %d were counted", tailOwner[k], sink.next, t.counts[k])
		}
		all = append(all, roots[k])
	}
	return roots, nil
}
