package space

import (
	"cmp"
	"slices"

	"gobtrfs/disk"
)

// superOffsets are where each device keeps the copies of its superblock.
var superOffsets = [...]Physical{64 << 10, 64 << 20, 256 << 30}

// SuperblockRanges are the logical ranges of a chunk that map to copies of the
// superblock on any device, in order and disjoint. They are never allocated
// (I9). On disk they count as free all the same: the free-space tree is the
// complement of the extent items and nothing else.
func (c *Chunk) SuperblockRanges() []Range {
	p := disk.ProfileOf(c.Flags)
	var out []Range
	for i, s := range c.Stripes {
		for _, super := range superOffsets {
			lo, hi := max(super, s.Off), min(super+Physical(superLen), s.Off+Physical(c.StripeSize))
			for at := lo; at < hi; {
				delta := Bytes(at - s.Off)
				n := min(Bytes(hi-at), stripeLen-delta%stripeLen)
				out = append(out, c.mapStripe(p, i, delta, n))
				at += Physical(n)
			}
		}
	}
	if c.Start < disk.Logical(superLen) {
		out = append(out, Range{c.Start, min(superLen-Bytes(c.Start), c.Length)})
	}
	return mergeRanges(out)
}

// mapStripe is the logical range behind n bytes at delta of the i-th stripe;
// they do not cross a stripe unit. With parity it is the whole row, because
// which stripe of a row holds what rotates.
func (c *Chunk) mapStripe(p *disk.Profile, i int, delta, n Bytes) Range {
	row, within := delta/stripeLen, delta%stripeLen
	unit := row // position in the chunk, in stripe units
	switch {
	case p.Parity > 0:
		width := Bytes(p.DataStripes(len(c.Stripes))) * stripeLen
		within, n, unit = 0, width, row*width/stripeLen
	case p.Flag&(disk.BlockGroupRAID0|disk.BlockGroupRAID10) != 0:
		columns := Bytes(len(c.Stripes) / p.SubStripes)
		unit = row*columns + Bytes(i/p.SubStripes)
	}
	at := min(unit*stripeLen+within, c.Length)
	return Range{c.Start + disk.Logical(at), min(n, c.Length-at)}
}

// mergeRanges sorts ranges and joins those that overlap or touch.
func mergeRanges(rs []Range) []Range {
	slices.SortFunc(rs, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	out := rs[:0]
	for _, r := range rs {
		if r.Length <= 0 {
			continue
		}
		if n := len(out); n > 0 && r.Start <= out[n-1].End() {
			out[n-1].Length = max(out[n-1].Length, Bytes(r.End()-out[n-1].Start))
			continue
		}
		out = append(out, r)
	}
	return out
}
