package check

import (
	"cmp"
	"fmt"

	"gobtrfs/disk"
)

// stripeTreeProfiles are the profiles of data chunks whose places on devices
// stand in the raid-stripe-tree, not in the chunk (btrfs_need_stripe_tree_update,
// Linux 6.18).
const stripeTreeProfiles = disk.BlockGroupDUP | disk.BlockGroupRAID0 | disk.BlockGroupRAID10 | disk.BlockGroupRAID1Mask

func inStripeTree(f disk.BlockGroupFlags) bool {
	return f&disk.BlockGroupData != 0 && f&stripeTreeProfiles != 0
}

// visitStripe reads a leaf of the raid-stripe-tree: where each range of data
// stands on its devices.
func (c *checker) visitStripe(w *worker, info *nodeInfo, n disk.Node) {
	for i := range n.NrItems() {
		k := n.Key(i)
		at := Place{Tree: disk.TreeRaidStripe, Key: keyOf(k), Logical: disk.Logical(k.ObjectID)}
		if k.Type != disk.KeyRaidStripe {
			w.bad(CodeItem, at, "an item that the raid-stripe-tree does not hold")
			continue
		}
		strides, err := disk.ParseRaidStripe(n.ItemData(i))
		if err != nil {
			continue
		}
		start, length := uint64(k.ObjectID), k.Offset
		j := w.chunkOf(start)
		if j < 0 && c.lost {
			continue
		}
		if j < 0 || length == 0 || length > uint64(c.chunks[j].End())-start || length%uint64(c.geo.SectorSize) != 0 {
			w.bad(CodeRaidStripe, at, fmt.Sprintf("an entry of %d bytes is in no chunk, reaches behind its end, or is not whole sectors", length))
			continue
		}
		ch := &c.chunks[j]
		if !inStripeTree(ch.Type) {
			w.bad(CodeRaidStripe, at, fmt.Sprintf("an entry for a chunk of type %v, whose places are in the chunk tree", ch.Type))
			continue
		}
		if info.edge.any && start < info.edge.end {
			w.bad(CodeRaidStripe, at, fmt.Sprintf("an entry overlaps the one before, which ends at %d", info.edge.end))
		}
		info.edge.add(start, start+length)
		w.span(spanStripe, start, length, 0)
		w.strides(at, ch, strides, length)
	}
}

// strides checks the places of one entry.
func (w *worker) strides(at Place, ch *disk.ChunkMapping, strides []disk.RaidStride, length uint64) {
	if want := disk.ProfileOf(ch.Type).Copies; len(strides) != want {
		w.c.find.add(Finding{Code: CodeRaidStripe, Place: at, What: "the number of places of an entry", Expected: fmt.Sprint(want), Found: fmt.Sprint(len(strides))})
	}
	for _, s := range strides {
		inside := false
		for _, x := range ch.Stripes {
			inside = inside || x.DevID == s.DevID && s.Physical >= x.Offset && s.Physical-x.Offset < ch.StripeLength() && length <= ch.StripeLength()-(s.Physical-x.Offset)
		}
		if !inside {
			p := at
			p.Dev, p.Physical = s.DevID, s.Physical
			w.bad(CodeRaidStripe, p, "an entry points to a place outside its chunk's stripes")
			continue
		}
		w.span(spanStride, s.Physical, length, int64(s.DevID))
	}
}

// compareStrides orders by device, then by place.
func compareStrides(a, b span) int {
	return cmp.Or(cmp.Compare(a.leaf, b.leaf), cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end))
}

// keepApart joins nothing.
func keepApart(*span, span) bool { return false }

// checkStripes compares the raid-stripe-tree with the data that there is.
func (c *checker) checkStripes() error {
	if c.sb.IncompatFlags&disk.IncompatRaidStripeTree == 0 || c.treeBroken(disk.TreeRaidStripe) || c.treeBroken(disk.TreeExtent) {
		return nil
	}
	strides := c.readSpans(spanStride)
	var last span
	for s, ok := strides(); ok; s, ok = strides() {
		if s.leaf == last.leaf && s.start < last.end {
			c.find.add(Finding{Code: CodeRaidStripe, Place: Place{Tree: disk.TreeRaidStripe, Dev: disk.DevID(s.leaf), Physical: s.start},
				What: fmt.Sprintf("two entries use the same place: %d bytes", min(s.end, last.end)-s.start)})
		}
		if s.leaf != last.leaf || s.end > last.end {
			last = s
		}
	}
	unused := without(c.readSpans(spanStripe), c.readSpans(spanAllocated))
	for s, ok := unused(); ok && c.find.counted(CodeRaidStripe) < maxRanges; s, ok = unused() {
		c.find.add(Finding{Code: CodeRaidStripe, Place: Place{Tree: disk.TreeRaidStripe, Logical: disk.Logical(s.start)},
			What: fmt.Sprintf("the place of %d bytes in which there is no data extent", s.end-s.start)})
	}
	if c.hasBroken() {
		return c.pool.failure()
	}
	for _, k := range []spanKind{spanNeed, spanNever} {
		missing := both(without(c.readSpans(k), c.readSpans(spanStripe)), c.stripeChunks())
		for s, ok := missing(); ok && c.find.counted(CodeRaidStripe) < maxRanges; s, ok = missing() {
			c.find.add(Finding{Code: CodeRaidStripe, Place: Place{Tree: disk.TreeRaidStripe, Logical: disk.Logical(s.start)},
				What: fmt.Sprintf("the raid-stripe-tree does not say where %d bytes of data are", s.end-s.start)})
		}
	}
	return c.pool.failure()
}

// stripeChunks yields the chunks whose places are in the raid-stripe-tree.
func (c *checker) stripeChunks() spanReader {
	i := 0
	return func() (span, bool) {
		for ; i < len(c.chunks); i++ {
			if ch := &c.chunks[i]; inStripeTree(ch.Type) {
				i++
				return span{start: uint64(ch.Logical), end: uint64(ch.End())}, true
			}
		}
		return span{}, false
	}
}
