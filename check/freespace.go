package check

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"gobtrfs/disk"
)

// spaceRange is a range of a block group that is in use or free.
type spaceRange struct {
	start, end uint64
	free       bool
}

// diagnoseFreeSpace says where the free space of the block groups is wrong whose
// sums say that it is.
func (c *checker) diagnoseFreeSpace() error {
	if c.treeBroken(disk.TreeExtent) || c.treeBroken(disk.TreeFreeSpace) {
		return nil
	}
	for n, g := range c.badGroups {
		if c.find.counted(CodeFreeSpace) >= c.find.max || n >= maxRanges {
			c.find.add(Finding{Code: CodeFreeSpace, Place: Place{Tree: disk.TreeFreeSpace, Logical: c.chunks[g].Logical}, What: "the free space of a block group is wrong"})
			continue
		}
		ranges, err := c.spaceOf(&c.chunks[g])
		if err != nil {
			return err
		}
		c.sweepSpace(&c.chunks[g], ranges)
	}
	return nil
}

// spaceOf collects the extents and the free ranges in one chunk.
func (c *checker) spaceOf(chunk *disk.ChunkMapping) ([]spaceRange, error) {
	start, end := uint64(chunk.Logical), uint64(chunk.End())
	var mu sync.Mutex
	var out []spaceRange
	add := func(from, to uint64, free bool) {
		if to > start && from < end && to > from {
			mu.Lock()
			out = append(out, spaceRange{max(from, start), min(to, end), free})
			mu.Unlock()
		}
	}
	want := func(n *nodeInfo) bool {
		return (n.kind == kindExtent || n.kind == kindFreeSpace) && n.items > 0 && uint64(n.last.ObjectID) >= start && uint64(n.first.ObjectID) < end
	}
	err := c.again(want, func(w *worker, info *nodeInfo, n disk.Node) {
		for i := range n.NrItems() {
			k := n.Key(i)
			a := uint64(k.ObjectID)
			switch {
			case info.kind == kindExtent && k.Type == disk.KeyExtentItem:
				add(a, a+k.Offset, false)
			case info.kind == kindExtent && k.Type == disk.KeyMetadataItem:
				add(a, a+uint64(c.geo.NodeSize), false)
			case k.Type == disk.KeyFreeSpaceExtent || k.Type == disk.KeyFreeSpaceBitmap:
				if a >= start && a < end {
					w.freeRanges(k, n.ItemData(i), func(from, to uint64) { add(from, to, true) })
				}
			}
		}
	})
	slices.SortFunc(out, func(a, b spaceRange) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end)) })
	return out, err
}

// sweepSpace reports ranges that are both free and in use, twice in use or
// twice free, and ranges that are neither.
func (c *checker) sweepSpace(chunk *disk.ChunkMapping, ranges []spaceRange) {
	at := uint64(chunk.Logical)
	var last spaceRange
	bad := func(start, end uint64, what string) {
		c.find.add(Finding{Code: CodeFreeSpace, Place: Place{Tree: disk.TreeFreeSpace, Logical: disk.Logical(start)}, What: fmt.Sprintf("%s: %d bytes in the block group at %d", what, end-start, uint64(chunk.Logical))})
	}
	for _, r := range ranges {
		switch {
		case r.start > at:
			bad(at, r.start, "space that no extent uses is not listed as free")
		case r.start < at:
			what := "space in use is listed as free"
			if r.free && last.free {
				what = "space is listed as free twice"
			} else if !r.free && !last.free {
				what = "extents overlap"
			}
			bad(r.start, min(at, r.end), what)
		}
		if r.end > at {
			at, last = r.end, r
		}
	}
	if end := uint64(chunk.End()); at < end {
		bad(at, end, "space that no extent uses is not listed as free")
	}
}
