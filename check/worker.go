package check

import (
	"gobtrfs/disk"
)

const (
	bucketBits = 12
	buckets    = 1 << bucketBits
)

// worker is what one goroutine of the scanner adds up; nothing in it is shared.
type worker struct {
	c       *checker
	stats   Stats
	refs    [buckets]uint64 // terms of the extent tree less those of what refers to extents
	groups  []groupSums     // by chunk
	last    int             // chunk of the last address looked up
	below   *sorter[link]   // the next level
	links   batch[link]     // to it
	full    batch[disk.Logical]
	spans   [spanKinds]batch[span]
	maps    []bitmapEdge
	collect func(w *worker, r *refRecord) // diagnosis: records in place of sums
}

// groupSums is what the extents and the free space in one chunk add up to.
type groupSums struct {
	used    uint64 // bytes of extents
	extents uint64 // position terms of extents
	free    uint64 // position terms of free space
	items   uint32 // FREE_SPACE_EXTENTs
	runs    uint32 // of bits in bitmaps; those that go on in the next bitmap twice
	bitmaps uint32
}

func (g *groupSums) add(o *groupSums) {
	g.used += o.used
	g.extents += o.extents
	g.free += o.free
	g.items += o.items
	g.runs += o.runs
	g.bitmaps += o.bitmaps
}

func newWorker(c *checker) *worker {
	w := &worker{c: c, groups: make([]groupSums, len(c.chunks))}
	w.links.max, w.full.max = c.limits.links, c.limits.full
	for k := range w.spans {
		w.spans[k].max = c.limits.spans
	}
	return w
}

// chunkOf is the index of the chunk that holds addr, -1 if none does.
func (w *worker) chunkOf(addr uint64) int {
	chunks := w.c.chunks
	if w.last < len(chunks) {
		if c := &chunks[w.last]; addr >= uint64(c.Logical) && addr-uint64(c.Logical) < c.Length {
			return w.last
		}
	}
	i := findChunk(chunks, addr)
	if i >= 0 {
		w.last = i
	}
	return i
}

func findChunk(chunks []disk.ChunkMapping, addr uint64) int {
	lo, hi := 0, len(chunks)
	for lo < hi {
		mid := (lo + hi) / 2
		if uint64(chunks[mid].Logical) > addr {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo == 0 || addr-uint64(chunks[lo-1].Logical) >= chunks[lo-1].Length {
		return -1
	}
	return lo - 1
}

func (w *worker) bad(code Code, p Place, what string) {
	w.c.find.add(Finding{Code: code, Place: p, What: what})
}

// bucket is where the terms about the extent at addr go. Sums are kept by
// bucket, so that a difference says where to look.
func (w *worker) bucket(addr uint64) int {
	return int(w.c.hash.mix(addr, 0xb0c4e7) >> (64 - bucketBits))
}

// refKind says which side of the comparison a record is of.
type refKind uint8

const (
	refItem     refKind = iota // the extent item itself: its reference count
	refDeclared                // a reference that the extent tree has
	refObserved                // a reference that another tree makes
)

// refRecord is one fact about an extent; only diagnosis keeps them.
type refRecord struct {
	addr   uint64
	length uint64
	count  uint64
	gen    disk.TransID // of tree blocks
	ref    disk.ExtentRef
	from   disk.Logical // tree block that says so
	owner  disk.ObjectID
	kind   refKind
	level  int8
	data   bool
}

// observeData takes a file extent's reference.
func (w *worker) observeData(addr, length uint64, ref *disk.ExtentRef) {
	if w.collect != nil {
		w.collect(w, &refRecord{addr: addr, length: length, count: 1, ref: *ref, kind: refObserved, data: true})
		return
	}
	h := w.c.hash
	w.refs[w.bucket(addr)] -= h.shape(addr, length, 0, true) + h.ref(addr, ref)
}

// observeBlock takes a reference to a tree block, as a parent or a root item
// makes it.
func (w *worker) observeBlock(addr disk.Logical, level int, gen disk.TransID, ref *disk.ExtentRef) {
	size := uint64(w.c.geo.NodeSize)
	if w.collect != nil {
		w.collect(w, &refRecord{addr: uint64(addr), length: size, count: 1, gen: gen, ref: *ref, kind: refObserved, level: int8(level)})
		return
	}
	h := w.c.hash
	w.refs[w.bucket(uint64(addr))] -= h.shape(uint64(addr), size+uint64(gen)<<20, level, false) + h.ref(uint64(addr), ref)
}

// declare takes a reference that the extent tree has.
func (w *worker) declare(addr uint64, ref *disk.ExtentRef) {
	if ref.Type == disk.KeyExtentOwnerRef {
		return
	}
	if w.collect != nil {
		w.collect(w, &refRecord{addr: addr, count: uint64(ref.Count), ref: *ref, kind: refDeclared})
		return
	}
	h, n := w.c.hash, uint64(ref.Count)
	w.refs[w.bucket(addr)] += n*h.ref(addr, ref) - n*h.total(addr)
}

// item takes an extent item.
func (w *worker) item(addr, length uint64, level int, data bool, e *disk.ExtentItem) {
	if w.collect != nil {
		w.collect(w, &refRecord{addr: addr, length: length, count: e.Refs, gen: e.Generation, kind: refItem, level: int8(level), data: data})
		return
	}
	h := w.c.hash
	shape := length
	if !data {
		shape += uint64(e.Generation) << 20
	}
	w.refs[w.bucket(addr)] += e.Refs * (h.shape(addr, shape, level, data) + h.total(addr))
}
