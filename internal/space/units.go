package space

import (
	"fmt"
	"math"

	"gobtrfs/disk"
)

type (
	// Bytes is an amount of space. It is signed because free space goes below
	// zero where metadata is overcommitted.
	Bytes int64
	// Physical is an address on one device, in bytes.
	Physical uint64
	// Gen counts the growths of one space info: it rises whenever a hole may
	// have appeared in it. Whoever searched in vain remembers the Gen it saw;
	// a later Gen is the answer to its need.
	Gen uint64
	// Epoch counts the events that can create room for chunks on the devices.
	// What was learnt about unallocated space in one epoch is void in the next.
	Epoch uint64
)

// Sizes that recur in the rules for chunks.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
	TiB Bytes = 1 << 40

	stripeLen     = 64 * KiB // the unit of striping, and of stripe sizes
	deviceStart   = MiB      // no new extent lies below it on any device
	superLen      = 64 * KiB // kept free around each copy of the superblock
	maxStripe     = GiB
	systemStripes = 58 // most stripes whose chunk item still fits the array in the superblock
	sysArrayBytes = 2048
)

// noBytes is more than any filesystem holds.
const noBytes = Bytes(math.MaxInt64)

// String is the exact number in the largest unit that divides it.
func (b Bytes) String() string {
	for _, u := range []struct {
		n    Bytes
		name string
	}{{TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}} {
		if b != 0 && b%u.n == 0 {
			return fmt.Sprintf("%d %s", b/u.n, u.name)
		}
	}
	return fmt.Sprintf("%d B", int64(b))
}

func roundDown(b, unit Bytes) Bytes { return b - b%unit }
func roundUp(b, unit Bytes) Bytes   { return roundDown(b+unit-1, unit) }

// Range is a piece of the logical address space.
type Range struct {
	Start  disk.Logical
	Length Bytes
}

// End is the first address behind the range.
func (r Range) End() disk.Logical { return r.Start + disk.Logical(r.Length) }

// overlaps says whether the two ranges share a byte.
func (r Range) overlaps(o Range) bool { return r.Start < o.End() && o.Start < r.End() }
