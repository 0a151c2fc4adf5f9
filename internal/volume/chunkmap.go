package volume

import (
	"cmp"
	"slices"
	"sort"

	"gobtrfs/disk"
)

func sortBackups(b []disk.RootBackup) {
	slices.SortStableFunc(b, func(x, y disk.RootBackup) int { return cmp.Compare(y.TreeRootGen, x.TreeRootGen) })
}

// chunk is a chunk with its devices resolved; immutable.
type chunk struct {
	*disk.ChunkMapping
	profile  *disk.Profile
	data     int       // stripes' worth of distinct data
	devs     []*device // one for every stripe
	remapped bool      // the raid-stripe-tree says where on the devices
}

// chunkMap is the whole logical address space; immutable.
type chunkMap struct {
	chunks   []chunk             // by logical address, not overlapping
	mappings []disk.ChunkMapping // the same; chunks point into it
}

// find is the chunk that holds l, nil if none does.
func (m *chunkMap) find(l disk.Logical) *chunk {
	i := sort.Search(len(m.chunks), func(i int) bool { return m.chunks[i].Logical > l }) - 1
	if i < 0 || l-m.chunks[i].Logical >= disk.Logical(m.chunks[i].Length) {
		return nil
	}
	return &m.chunks[i]
}

// mirrors is the number of ways to read an address of the chunk.
//
// RAID6: the stripe itself, the reconstruction that takes P first, the one that
// distrusts P and uses Q, and one for every other data stripe that might be bad
// at the same time; together as many as there are stripes.
func (c *chunk) mirrors() int {
	switch c.profile.Parity {
	case 1:
		return 2
	case 2:
		return len(c.Stripes)
	}
	return c.profile.Copies
}

// segment is a contiguous piece of one stripe.
type segment struct {
	stripe int    // index into the chunk's stripes
	phys   uint64 // on its device, in bytes
	n      uint64 // bytes until the stripe's or the chunk's end
}

// locate says where mirror's copy of chunk offset off stands. For RAID5 and
// RAID6 that is the data stripe, whatever the mirror.
func (c *chunk) locate(off uint64, mirror int) segment {
	switch c.profile.Flag {
	case disk.BlockGroupRAID0, disk.BlockGroupRAID10:
		sub := uint64(c.profile.SubStripes)
		groups := uint64(len(c.Stripes)) / sub
		nr, in := off/disk.StripeLen, off%disk.StripeLen
		stripe := int(nr%groups*sub) + mirror - 1
		return segment{stripe, c.Stripes[stripe].Offset + nr/groups*disk.StripeLen + in, c.clip(off, disk.StripeLen-in)}
	case disk.BlockGroupRAID5, disk.BlockGroupRAID6:
		nr, in := off/disk.StripeLen, off%disk.StripeLen
		row := nr / uint64(c.data)
		stripe := c.rotated(nr%uint64(c.data), row)
		return segment{stripe, c.Stripes[stripe].Offset + row*disk.StripeLen + in, c.clip(off, disk.StripeLen-in)}
	}
	return segment{mirror - 1, c.Stripes[mirror-1].Offset + off, c.Length - off}
}

// rotated is the index of the stripe that holds member i of a full stripe of
// RAID5 or RAID6: data stripes first, then P, then Q. Every row moves them one
// device on.
func (c *chunk) rotated(i, row uint64) int { return int((i + row) % uint64(len(c.Stripes))) }

func (c *chunk) clip(off, n uint64) uint64 { return min(n, c.Length-off) }

// order walks the mirrors of one address from the one to try first to the one
// to try last.
type order struct {
	c     *chunk
	off   uint64
	start int
	rank  int
	i     int
}

// order prefers mirrors on devices that are there and not stale. Among those,
// copies on different devices share the reads by address, in pieces large
// enough for a device's read-ahead.
func (c *chunk) order(off uint64) order {
	o := order{c: c, off: off}
	if c.profile.Copies > 1 && c.profile.DevStripes == 1 {
		o.start = int((uint64(c.Logical) + off) / (1 << 20) % uint64(c.profile.Copies))
	}
	return o
}

// Ranks of a mirror, from good to hopeless.
const (
	rankGood = iota
	rankStale
	rankMissing
	rankEnd
)

func (o *order) next() (mirror int, ok bool) {
	n := o.c.mirrors()
	for ; o.rank < rankEnd; o.rank++ {
		for o.i < n {
			m := (o.start+o.i)%n + 1
			o.i++
			if o.c.rankOf(o.off, m) == o.rank {
				return m, true
			}
		}
		o.i = 0
	}
	return 0, false
}

func (c *chunk) rankOf(off uint64, mirror int) int {
	if c.profile.Parity > 0 && mirror > 1 {
		return rankGood
	}
	switch d := c.devs[c.locate(off, mirror).stripe]; {
	case d.dev == nil:
		return rankMissing
	case d.stale:
		return rankStale
	}
	return rankGood
}
