package space

import (
	"cmp"
	"fmt"
	"slices"

	"gobtrfs/disk"
)

// Stripe is one device's part of a chunk.
type Stripe struct {
	Dev disk.DevID
	Off Physical
}

// Chunk is a mapping from logical addresses to devices, as it is written to
// the chunk tree.
type Chunk struct {
	Start      disk.Logical
	Length     Bytes
	Flags      disk.BlockGroupFlags
	StripeSize Bytes // length of each device extent
	Stripes    []Stripe
}

// Range is the chunk's piece of the logical address space.
func (c *Chunk) Range() Range { return Range{c.Start, c.Length} }

// sysArrayEntry is what the chunk occupies in the superblock's array of system
// chunks: a key and the chunk item.
func (c *Chunk) sysArrayEntry() int { return disk.KeySize + 48 + 32*len(c.Stripes) }

// chunkRules are the inputs of a chunk's size that do not depend on holes.
type chunkRules struct {
	flags    disk.BlockGroupFlags
	maxChunk Bytes // largest chunk of this type
	writable Bytes // sum of the sizes of the writable devices
	leafMax  int   // most stripes whose item fits a leaf
	stripe   Bytes // additional cap on a stripe, 0 for none
}

// DefaultChunkSize is the largest chunk of a type in a filesystem of the given
// writable size (kernel: calc_chunk_size and its callers, 6.x).
func DefaultChunkSize(flags disk.BlockGroupFlags, writable Bytes) Bytes {
	switch {
	case flags&disk.BlockGroupData != 0:
		return 10 * GiB
	case flags&disk.BlockGroupSystem != 0:
		return 32 * MiB
	case writable > 50*GiB:
		return GiB
	}
	return 256 * MiB
}

// leafStripes is the number of stripes of the largest chunk item that fits a
// leaf: its header has 101 bytes, an item's 25, the chunk's first stripe is in
// its 80 bytes.
func leafStripes(nodeSize Bytes) int { return int((nodeSize-101-25-80)/32) + 1 }

// plan decides where the next chunk lies: which devices, which holes, how
// long. Start is left to the caller. The error says what was missing; it is
// always "no space".
//
// The rules are the kernel's (btrfs_create_chunk and helpers in volumes.c,
// 6.x), so that a filesystem grows the same way whoever writes it.
func plan(devs []*device, r chunkRules) (*Chunk, error) {
	p := disk.ProfileOf(r.flags)
	dup := Bytes(p.DevStripes)
	smallest := dup * stripeLen
	maxChunk := min(r.maxChunk, r.writable/10)
	stripe := min(r.maxChunk, maxStripe)
	if r.stripe > 0 {
		stripe = min(stripe, r.stripe)
	}
	cands := candidates(devs, stripe*dup, smallest)
	n := len(cands) - len(cands)%p.Increment
	if n < p.DevsMin {
		return nil, fmt.Errorf("%s needs %d devices with a hole of %v, there are %d", p.Name, p.DevsMin, smallest, len(cands))
	}
	n = min(n, deviceLimit(p, r))
	stripe = min(stripe, cands[n-1].size/dup)
	data := Bytes(p.DataStripes(n * p.DevStripes))
	if stripe*data > maxChunk {
		stripe = min(stripe, roundUp(maxChunk/data, 16*MiB))
	}
	stripe = roundDown(stripe, stripeLen)
	c := &Chunk{Length: stripe * data, Flags: r.flags, StripeSize: stripe}
	for _, h := range cands[:n] {
		for k := range p.DevStripes {
			c.Stripes = append(c.Stripes, Stripe{h.dev.ID, h.at + Physical(k)*Physical(stripe)})
		}
	}
	return c, nil
}

type candidate struct {
	dev  *device
	at   Physical
	size Bytes
}

// candidates are the devices that have a useful hole, the roomiest first. The
// device number decides between equals, so that the layout is reproducible.
func candidates(devs []*device, want, smallest Bytes) []candidate {
	var cands []candidate
	for _, d := range devs {
		if d.ReadOnly || d.usable < smallest {
			continue
		}
		if at, size := d.hole(want); size >= smallest {
			cands = append(cands, candidate{d, at, size})
		}
	}
	slices.SortFunc(cands, func(a, b candidate) int {
		return cmp.Or(-cmp.Compare(a.size, b.size), -cmp.Compare(a.dev.usable, b.dev.usable), cmp.Compare(a.dev.ID, b.dev.ID))
	})
	return cands
}

// deviceLimit is the largest number of devices of one chunk.
func deviceLimit(p *disk.Profile, r chunkRules) int {
	limit := r.leafMax
	if r.flags&disk.BlockGroupSystem != 0 {
		limit = min(limit, systemStripes)
	}
	if p.DevsMax > 0 {
		return min(limit, p.DevsMax)
	}
	return limit - limit%p.Increment
}

// estimate is how many logical bytes of a profile the given free bytes of the
// devices can still become. It looks at amounts per device, not at holes.
//
// For profiles on a fixed number k of devices the answer is exact: T bytes fit
// iff, for each m < k, the devices other than the m roomiest hold (k-m)*T. The
// profiles that use every device are followed level by level: all devices give
// until the smallest is empty. Where rounding to an even number leaves one
// device out (RAID10), steps of a sixteenth make the omission rotate. What is
// ignored is the last chunk's rounding, so the truth may be lower by up to one
// stripe; overcommit keeps a whole data chunk of distance for that reason.
func estimate(p *disk.Profile, free []Bytes) Bytes {
	f := slices.DeleteFunc(slices.Clone(free), func(b Bytes) bool { return b < stripeLen*Bytes(p.DevStripes) })
	byRoom := func(a, b Bytes) int { return cmp.Compare(b, a) }
	slices.SortFunc(f, byRoom)
	if len(f) < p.DevsMin {
		return 0
	}
	if k := p.DevsMax; k > 0 {
		rest := Bytes(0)
		for _, b := range f {
			rest += b
		}
		best := noBytes
		for m := range min(k, len(f)) {
			best = min(best, rest/Bytes(k-m))
			rest -= f[m]
		}
		return roundDown(best/Bytes(p.DevStripes), stripeLen)
	}
	total := Bytes(0)
	for {
		n := len(f) - len(f)%p.Increment
		if n < p.DevsMin {
			return total
		}
		step := roundDown(f[n-1], stripeLen)
		if n < len(f) {
			step = min(step, roundUp(max(step/16, GiB), stripeLen))
		}
		total += step * Bytes(p.DataStripes(n))
		for i := range n {
			f[i] -= step
		}
		f = slices.DeleteFunc(f, func(b Bytes) bool { return b < stripeLen })
		slices.SortFunc(f, byRoom)
	}
}

// reduceProfile picks the profile of the next chunk of a type: target if a
// conversion is under way, else the best of those in use that the writable
// devices can still carry (kernel: btrfs_reduce_alloc_profile, 6.x).
func reduceProfile(inUse disk.BlockGroupFlags, devices int, target *disk.Profile) disk.BlockGroupFlags {
	if target != nil {
		return target.Flag
	}
	for _, f := range []disk.BlockGroupFlags{
		disk.BlockGroupRAID1C4, disk.BlockGroupRAID6, disk.BlockGroupRAID1C3, disk.BlockGroupRAID5, disk.BlockGroupRAID10,
		disk.BlockGroupRAID1, disk.BlockGroupDUP, disk.BlockGroupRAID0,
	} {
		if inUse&f != 0 && disk.ProfileOf(f).DevsMin <= devices {
			return f
		}
	}
	return 0
}
