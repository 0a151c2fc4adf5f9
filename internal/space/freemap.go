package space

import "math/bits"

// freeMap is the free-space index of one block group: which sectors are free,
// by offset and by size at once.
//
// It is a radix tree over the group's sectors. A leaf is a bitmap of 512
// sectors; a node has 16 children; and of each child its parent keeps three
// numbers: the free sectors at its start, the longest free run inside it, the
// free sectors at its end. The middle one is the index by size: a search for n
// free sectors walks down only where a run of n is known to be, so it visits
// O(log size) nodes however many holes there are. The other two join runs that
// cross children.
//
// A child that is wholly free or wholly used has no node below it. So one
// extent costs a path, whatever its length, and bitmaps exist only where holes
// are many: the tree is the "extents here, bitmaps there" of other
// implementations without a conversion between the two. The bound that follows
// is in maxMemory, and a test holds the tree to it.
//
// freeMap is not safe for concurrent use; Group.mu protects it.
type freeMap struct {
	size  uint32 // sectors
	free  uint32 // sectors that are free
	span  uint32 // log2 of the sectors under root, at least leafBits
	root  child  // the part beyond size counts as used
	nodes int    // nodes and
	leafs int    // leaves alive, for the memory bound
}

const (
	leafBits   = 9 // log2 sectors per leaf: 2 MiB of 4 KiB sectors
	leafSize   = 1 << leafBits
	fanBits    = 4
	fan        = 1 << fanBits
	leafBytes  = leafSize / 8
	nodeBytes  = fan*12 + 16 + fan*8 // sums, two pointers, the array that one of them points to
	maxSectors = 1 << 31             // so that sums and ends of ranges fit 32 bits
)

// sum describes a run of sectors for whoever looks for free ones.
type sum struct {
	head uint32 // free at the start
	best uint32 // longest free run
	tail uint32 // free at the end
}

// child is a subtree: sum always holds; node or leaf is nil where the subtree
// is uniform, that is, where best is 0 or everything.
type child struct {
	sum
	node *node
	leaf *leaf
}

type leaf [leafSize / 64]uint64 // a set bit is a free sector

// node has its children in one of two arrays, so that a pointer costs one word.
type node struct {
	sums   [fan]sum
	nodes  *[fan]*node
	leaves *[fan]*leaf
}

// newFreeMap makes an index of size sectors, all used. size must be in
// [1, maxSectors].
func newFreeMap(size uint32) *freeMap {
	m := &freeMap{size: size, span: leafBits}
	for uint64(1)<<m.span < uint64(size) {
		m.span += fanBits
	}
	return m
}

// maxMemory bounds the bytes of an index of size sectors under the worst
// possible fragmentation: every leaf and every node exists.
func maxMemory(size uint32) Bytes {
	n := (Bytes(size) + leafSize - 1) / leafSize
	total := n * leafBytes
	for n > 1 {
		n = (n + fan - 1) / fan
		total += n * nodeBytes
	}
	return total + 64
}

// memory is what the tree occupies now, not counting the allocator's rounding.
func (m *freeMap) memory() Bytes {
	return Bytes(m.leafs)*leafBytes + Bytes(m.nodes)*nodeBytes + 64
}

// largest is the length of the longest free run.
func (m *freeMap) largest() uint32 { return m.root.best }

// all says whether every sector of [lo, hi) is in the given state.
func (m *freeMap) all(lo, hi uint32, free bool) bool {
	return lo < hi && hi <= m.size && m.root.all(m.span, uint64(lo), uint64(hi), free)
}

func (c *child) all(span uint32, lo, hi uint64, free bool) bool {
	if c.node == nil && c.leaf == nil {
		return (c.best != 0) == free
	}
	if c.leaf != nil {
		return c.leaf.all(uint32(lo), uint32(hi), free)
	}
	span -= fanBits
	for i := lo >> span; i<<span < hi; i++ {
		k := c.node.child(int(i), span)
		if !k.all(span, clampLow(lo, i<<span), min(hi-i<<span, 1<<span), free) {
			return false
		}
	}
	return true
}

// set changes every sector of [lo, hi) from the opposite state to the given
// one. It reports false and changes nothing if any sector is already there.
func (m *freeMap) set(lo, hi uint32, free bool) bool {
	if !m.all(lo, hi, !free) {
		return false
	}
	m.paint(&m.root, m.span, uint64(lo), uint64(hi), free)
	if free {
		m.free += hi - lo
	} else {
		m.free -= hi - lo
	}
	return true
}

// paint makes [lo, hi) of a subtree of 1<<span sectors free or used and brings
// its sum up to date.
func (m *freeMap) paint(c *child, span uint32, lo, hi uint64, free bool) {
	size := uint64(1) << span
	if lo == 0 && hi == size {
		m.drop(c, span)
		c.setUniform(span, free)
		return
	}
	if span == leafBits {
		if c.leaf == nil {
			c.leaf = newLeaf(c.best != 0)
			m.leafs++
		}
		c.leaf.paint(uint32(lo), uint32(hi), free)
		c.sum = c.leaf.sum()
		if c.best == 0 || c.best == leafSize {
			c.leaf = nil
			m.leafs--
		}
		return
	}
	if c.node == nil {
		c.node = newNode(span, c.best != 0)
		m.nodes++
	}
	below := span - fanBits
	for i := lo >> below; i<<below < hi; i++ {
		k := c.node.child(int(i), below)
		m.paint(&k, below, clampLow(lo, i<<below), min(hi-i<<below, 1<<below), free)
		c.node.setChild(int(i), &k)
	}
	c.sum = c.node.sum(below)
	if c.best == 0 || uint64(c.best) == size {
		c.node = nil
		m.nodes--
	}
}

// drop forgets the nodes below c.
func (m *freeMap) drop(c *child, span uint32) {
	if c.leaf != nil {
		c.leaf = nil
		m.leafs--
	}
	if c.node == nil {
		return
	}
	for i := range fan {
		k := c.node.child(i, span-fanBits)
		m.drop(&k, span-fanBits)
	}
	c.node = nil
	m.nodes--
}

// find returns the start of the first run of n free sectors that begins at or
// after from and, after rounding its start up to the next position congruent
// to phase modulo align, still holds n. The caller bounds n by largest.
func (m *freeMap) find(n, align, phase, from uint32) (uint32, bool) {
	s := search{n: uint64(n), align: uint64(align), phase: uint64(phase), from: uint64(from)}
	ok := s.run(m)
	return uint32(s.found), ok
}

// search is one walk over the sectors in ascending order. start and length
// describe the free run that reaches up to where the walk is.
type search struct {
	n, align, phase, from uint64
	start, length         uint64
	found                 uint64
	visited               int // nodes, leaves and uniform children looked at
}

func (s *search) run(m *freeMap) bool {
	if s.n > 0 && s.n <= uint64(m.root.best) && (s.walk(&m.root, m.span, 0) || s.end(uint64(1)<<m.span)) {
		return true
	}
	s.found = 0
	return false
}

// fits closes over the current run: does it hold an aligned piece?
func (s *search) fits() bool {
	if s.length < s.n {
		return false
	}
	at := max(s.start, s.from)
	if rest := (at + s.align - s.phase%s.align) % s.align; rest != 0 {
		at += s.align - rest
	}
	s.found = at
	return at+s.n <= s.start+s.length
}

// end closes the current run, which ends before position at.
func (s *search) end(at uint64) bool {
	ok := s.fits()
	s.start, s.length = at, 0
	return ok
}

// add takes the next k sectors at position at.
func (s *search) add(at, k uint64, free bool) bool {
	if !free {
		return s.end(at + k)
	}
	if s.length == 0 {
		s.start = at
	}
	s.length += k
	return s.fits() // stops at the first fit, not at the end of the run
}

func (s *search) walk(c *child, span uint32, at uint64) bool {
	s.visited++
	size := uint64(1) << span
	switch {
	case c.node == nil && c.leaf == nil:
		return s.add(at, size, c.best != 0)
	case at+size <= s.from, uint64(c.best) < s.n:
		return s.edges(at, size, uint64(c.head), uint64(c.tail))
	case c.leaf != nil:
		return s.walkLeaf(c.leaf, at)
	}
	span -= fanBits
	for i := range fan {
		k := c.node.child(i, span)
		if s.walk(&k, span, at+uint64(i)<<span) {
			return true
		}
	}
	return false
}

// edges passes over size sectors inside which nothing can start and end: only
// the free sectors at their ends matter, and the first may complete the run
// before.
func (s *search) edges(at, size, head, tail uint64) bool {
	if head > 0 && s.add(at, head, true) || s.end(at+size) {
		return true
	}
	s.start, s.length = at+size-tail, tail
	return false
}

func (s *search) walkLeaf(l *leaf, at uint64) bool {
	for w, word := range l {
		base := at + uint64(w)*64
		switch {
		case word == 0 || word == ^uint64(0):
			if s.add(base, 64, word != 0) {
				return true
			}
			continue
		case uint64(longestRun(word)) < s.n:
			head, tail := bits.TrailingZeros64(^word), bits.LeadingZeros64(^word)
			if s.edges(base, 64, uint64(head), uint64(tail)) {
				return true
			}
			continue
		}
		for i := 0; i < 64; {
			free := word>>i&1 == 1
			run := bits.TrailingZeros64(word >> i)
			if free {
				run = bits.TrailingZeros64(^(word >> i))
			}
			run = min(run, 64-i)
			if s.add(base+uint64(i), uint64(run), free) {
				return true
			}
			i += run
		}
	}
	return false
}

// runs calls yield with every free run [lo, hi) in ascending order.
func (m *freeMap) runs(yield func(lo, hi uint32) bool) {
	var start, end uint64
	ok := m.root.eachFree(m.span, 0, func(lo, hi uint64) bool {
		if lo == end && hi > lo && end > start {
			end = hi
			return true
		}
		if end > start && !yield(uint32(start), uint32(end)) {
			return false
		}
		start, end = lo, hi
		return true
	})
	if ok && end > start {
		yield(uint32(start), uint32(end))
	}
}

func (c *child) eachFree(span uint32, at uint64, yield func(lo, hi uint64) bool) bool {
	if c.best == 0 {
		return true
	}
	if c.node == nil && c.leaf == nil {
		return yield(at, at+uint64(1)<<span)
	}
	if c.leaf != nil {
		for w, word := range c.leaf {
			for word != 0 {
				lo := bits.TrailingZeros64(word)
				run := bits.TrailingZeros64(^(word >> lo))
				base := at + uint64(w)*64 + uint64(lo)
				if !yield(base, base+uint64(run)) {
					return false
				}
				word &^= (^uint64(0) >> (64 - run)) << lo
			}
		}
		return true
	}
	span -= fanBits
	for i := range fan {
		k := c.node.child(i, span)
		if !k.eachFree(span, at+uint64(i)<<span, yield) {
			return false
		}
	}
	return true
}

func (c *child) setUniform(span uint32, free bool) {
	c.sum = sum{}
	if free {
		n := uint32(1) << span
		c.sum = sum{n, n, n}
	}
}

func newLeaf(free bool) *leaf {
	l := new(leaf)
	if free {
		for i := range l {
			l[i] = ^uint64(0)
		}
	}
	return l
}

// paint sets the bits [lo, hi).
func (l *leaf) paint(lo, hi uint32, free bool) {
	for w := lo / 64; w*64 < hi; w++ {
		mask := wordMask(lo, hi, w)
		if free {
			l[w] |= mask
		} else {
			l[w] &^= mask
		}
	}
}

func (l *leaf) all(lo, hi uint32, free bool) bool {
	for w := lo / 64; w*64 < hi; w++ {
		mask := wordMask(lo, hi, w)
		want := uint64(0)
		if free {
			want = mask
		}
		if l[w]&mask != want {
			return false
		}
	}
	return true
}

// wordMask is the part of [lo, hi) that lies in word w.
func wordMask(lo, hi, w uint32) uint64 {
	mask := ^uint64(0)
	if lo > w*64 {
		mask <<= lo - w*64
	}
	if hi < w*64+64 {
		mask &= ^uint64(0) >> (w*64 + 64 - hi)
	}
	return mask
}

func (l *leaf) sum() sum {
	var s sum
	run := uint32(0) // free sectors up to here
	for w, word := range l {
		switch word {
		case 0:
			run = 0
			continue
		case ^uint64(0):
			run += 64
			s.best = max(s.best, run)
			if run == uint32(w+1)*64 {
				s.head = run
			}
			continue
		}
		lead := uint32(bits.TrailingZeros64(^word))
		if run == uint32(w)*64 {
			s.head = run + lead
		}
		s.best = max(s.best, run+lead, longestRun(word))
		run = uint32(bits.LeadingZeros64(^word))
	}
	s.tail = run
	return s
}

// longestRun is the length of the longest run of ones in a word: each turn
// shortens every run by one.
func longestRun(w uint64) uint32 {
	n := uint32(0)
	for ; w != 0; n++ {
		w &= w << 1
	}
	return n
}

func newNode(span uint32, free bool) *node {
	n := new(node)
	if span-fanBits == leafBits {
		n.leaves = new([fan]*leaf)
	} else {
		n.nodes = new([fan]*node)
	}
	if free {
		k := uint32(1) << (span - fanBits)
		for i := range n.sums {
			n.sums[i] = sum{k, k, k}
		}
	}
	return n
}

// child is a copy of the i-th child, which covers 1<<span sectors.
func (n *node) child(i int, span uint32) child {
	if span == leafBits {
		return child{sum: n.sums[i], leaf: n.leaves[i]}
	}
	return child{sum: n.sums[i], node: n.nodes[i]}
}

func (n *node) setChild(i int, c *child) {
	n.sums[i] = c.sum
	if n.leaves != nil {
		n.leaves[i] = c.leaf
	} else {
		n.nodes[i] = c.node
	}
}

// sum joins the children's sums; each covers 1<<span sectors.
func (n *node) sum(span uint32) sum {
	size := uint32(1) << span
	var s sum
	run := uint32(0)
	whole := true // everything so far is free
	for i := range n.sums {
		k := &n.sums[i]
		s.best = max(s.best, run+k.head, k.best)
		if whole {
			s.head += k.head
			whole = k.head == size
		}
		if k.best == size {
			run += size
		} else {
			run = k.tail
		}
	}
	s.tail = run
	return s
}

// clampLow is lo relative to base, or 0 below it.
func clampLow(lo, base uint64) uint64 {
	if lo < base {
		return 0
	}
	return lo - base
}
