package check

import (
	"cmp"
	"fmt"
	"slices"

	"gobtrfs/disk"
)

// visitCsum reads a leaf of the checksum tree.
func (c *checker) visitCsum(w *worker, info *nodeInfo, n disk.Node) {
	e := &info.edge
	size := c.geo.CsumType.Size()
	for i := range n.NrItems() {
		k := n.Key(i)
		if k.Type != disk.KeyExtentCsum {
			continue
		}
		length := uint64(n.ItemSize(i)/size) * uint64(c.geo.SectorSize)
		w.span(spanCsum, k.Offset, length, 0)
		w.stats.CsumBytes += length
		e.add(k.Offset, k.Offset+length)
	}
}

// wantCsums notes whether data that a file uses should have checksums. leaf is
// where it is used; known is whether flags are those of the inode.
func (w *worker) wantCsums(tree disk.ObjectID, leaf int, known bool, flags uint64, r dataRange) {
	if tree == disk.TreeDataReloc {
		return // its inodes stand for data on the move
	}
	chunks := w.c.chunks
	i := findChunk(chunks, r.start)
	if i < 0 {
		return // reported with the extent
	}
	r.length = min(r.length, chunks[i].Length-(r.start-uint64(chunks[i].Logical)))
	kind := spanNeed
	switch {
	case r.prealloc || tree == disk.TreeRoot:
		kind = spanPrealloc
	case r.compressed:
	case !known:
		kind = spanDeferred
	case flags&disk.InodeNoDataSum != 0:
		kind = spanNever
	}
	w.span(kind, r.start, r.length, int64(leaf))
}

// bitmapEdge is what has to be known of a free-space bitmap to count the runs
// of bits that go on in the next one.
type bitmapEdge struct {
	chunk       int
	start, end  uint64
	first, last bool // the first or the last sector is free
}

// freeInfo is a FREE_SPACE_INFO item.
type freeInfo struct {
	key  disk.Key
	info disk.FreeSpaceInfo
	from disk.Logical
}

// visitFreeSpace reads a leaf of the free-space tree.
func (c *checker) visitFreeSpace(w *worker, info *nodeInfo, n disk.Node) {
	for i := range n.NrItems() {
		k := n.Key(i)
		start, end := uint64(k.ObjectID), uint64(k.ObjectID)+k.Offset
		switch k.Type {
		case disk.KeyFreeSpaceInfo:
			if fi, err := disk.ParseFreeSpaceInfo(n.ItemData(i)); err == nil {
				c.mu.Lock()
				c.freeInfos = append(c.freeInfos, freeInfo{k, fi, info.addr})
				c.mu.Unlock()
			}
		case disk.KeyFreeSpaceExtent, disk.KeyFreeSpaceBitmap:
			g := w.chunkOf(start)
			if g < 0 && c.lost {
				continue
			}
			if g < 0 || end > uint64(c.chunks[g].End()) || end <= start {
				code, what := CodeFreeSpaceItem, "free space is in no block group, or reaches behind its end"
				if g < 0 {
					code = CodeFreeSpaceStale
				}
				w.bad(code, Place{Tree: disk.TreeFreeSpace, Key: keyOf(k), Logical: info.addr}, what)
				continue
			}
			if k.Type == disk.KeyFreeSpaceExtent {
				w.groups[g].items++
				w.groups[g].free += c.hash.position(end) - c.hash.position(start)
			} else {
				w.bitmap(g, start, end, n.ItemData(i))
			}
		}
	}
}

// bitmap enters the runs of set bits of a free-space bitmap.
func (w *worker) bitmap(g int, start, end uint64, bitmap []byte) {
	c := w.c
	sector := uint64(c.geo.SectorSize)
	sectors := (end - start) / sector
	if uint64(len(bitmap))*8 < sectors {
		return
	}
	w.groups[g].bitmaps++
	w.bitmapRuns(bitmap, sectors, func(from, to uint64) {
		w.groups[g].runs++
		w.groups[g].free += c.hash.position(start+to*sector) - c.hash.position(start+from*sector)
	})
	bit := func(i uint64) bool { return bitmap[i/8]>>(i%8)&1 != 0 }
	w.maps = append(w.maps, bitmapEdge{g, start, end, bit(0), bit(sectors - 1)})
}

// bitmapRuns calls f for each run [from, to) of set bits.
func (w *worker) bitmapRuns(bitmap []byte, n uint64, f func(from, to uint64)) {
	in, from := false, uint64(0)
	for i := uint64(0); i < n; {
		b := bitmap[i/8]
		if i%8 == 0 && (b == 0 && !in || b == 0xff && in) {
			i += 8
			continue
		}
		set := b>>(i%8)&1 != 0
		if set != in {
			if in {
				f(from, i)
			}
			in, from = set, i
		}
		i++
	}
	if in {
		f(from, n)
	}
}

// freeRanges calls f for each free range of one item of the free-space tree.
func (w *worker) freeRanges(k disk.Key, b []byte, f func(start, end uint64)) {
	start := uint64(k.ObjectID)
	if k.Type == disk.KeyFreeSpaceExtent {
		f(start, start+k.Offset)
		return
	}
	sector := uint64(w.c.geo.SectorSize)
	if n := k.Offset / sector; uint64(len(b))*8 >= n {
		w.bitmapRuns(b, n, func(from, to uint64) { f(start+from*sector, start+to*sector) })
	}
}

// checkFreeSpace compares the free-space tree with the complement of the extent
// tree, group by group. The position terms of ranges that meet cancel, so the
// terms of extents and free space together are those of the whole group exactly
// when each byte of it is in one of them and none is in two.
func (c *checker) checkFreeSpace(sums []groupSums, maps []bitmapEdge) {
	infos := make(map[disk.Logical]freeInfo, len(c.freeInfos))
	for _, fi := range c.freeInfos {
		k := fi.key
		i := findChunk(c.chunks, uint64(k.ObjectID))
		if i < 0 || uint64(c.chunks[i].Logical) != uint64(k.ObjectID) || c.chunks[i].Length != k.Offset {
			if c.lost {
				continue
			}
			c.find.add(Finding{Code: c.staleCode(k), Place: Place{Tree: disk.TreeFreeSpace, Key: keyOf(k), Logical: fi.from},
				What: "free-space info of a block group that does not exist"})
			continue
		}
		infos[disk.Logical(k.ObjectID)] = fi
	}
	joined := joinedRuns(maps)
	for i := range c.chunks {
		chunk, g := &c.chunks[i], &sums[i]
		at := Place{Tree: disk.TreeFreeSpace, Logical: chunk.Logical}
		fi, ok := infos[chunk.Logical]
		if !ok {
			if c.hasGroup(chunk.Logical) {
				c.find.add(Finding{Code: CodeFreeSpaceItem, Place: at, What: "a block group has no free-space info"})
			}
			continue
		}
		at.Key = &fi.key
		using := fi.info.Flags&disk.FreeSpaceUsingBitmaps != 0
		if using && g.items > 0 || !using && g.bitmaps > 0 {
			c.find.add(Finding{Code: CodeFreeSpaceItem, Place: at, What: "free space stands in extents and in bitmaps, or not in the form that the info says"})
		}
		if n := uint64(g.items) + uint64(g.runs) - joined[i]; n != uint64(fi.info.ExtentCount) {
			c.find.add(Finding{Code: CodeFreeSpaceItem, Place: at, What: "the number of free ranges is wrong", Expected: fmt.Sprint(n), Found: fmt.Sprint(fi.info.ExtentCount)})
		}
		want := c.hash.position(uint64(chunk.End())) - c.hash.position(uint64(chunk.Logical))
		if g.extents+g.free != want {
			c.badGroups = append(c.badGroups, i)
		}
	}
}

// staleCode: what stands in no chunk at all is left over from the temporary
// groups of old versions of mkfs.
func (c *checker) staleCode(k disk.Key) Code {
	if findChunk(c.chunks, uint64(k.ObjectID)) < 0 {
		return CodeFreeSpaceStale
	}
	return CodeFreeSpaceItem
}

// joinedRuns counts, for each chunk, the runs that were counted in two bitmaps.
func joinedRuns(maps []bitmapEdge) map[int]uint64 {
	slices.SortFunc(maps, func(a, b bitmapEdge) int { return cmp.Compare(a.start, b.start) })
	joined := make(map[int]uint64)
	for i := 1; i < len(maps); i++ {
		p, m := &maps[i-1], &maps[i]
		if p.chunk == m.chunk && p.end == m.start && p.last && m.first {
			joined[m.chunk]++
		}
	}
	return joined
}
