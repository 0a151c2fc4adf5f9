package check

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// The v1 free-space cache of a block group is a file in the root tree, in pages
// of 4 KiB: the checksums of all pages, the generation, then entries of 17 bytes
// that do not cross pages, then one page for each bitmap.
const (
	cachePage        = 4096
	cacheEntrySize   = 17
	cacheEntryExtent = 1
	cacheEntryBitmap = 2
	maxCacheBytes    = 16 << 20
)

// cacheExtent is a piece of a cache file.
type cacheExtent struct {
	ino, off, start, length uint64
}

// cacheInode is the file of a cache.
type cacheInode struct {
	gen  disk.TransID
	size uint64
}

// noteCacheItem keeps what has to be known to read cache files.
func (c *checker) noteCacheItem(k disk.Key, b []byte) {
	switch k.Type {
	case disk.KeyInodeItem:
		if it, err := disk.ParseInodeItem(b); err == nil {
			c.cacheInodes[uint64(k.ObjectID)] = cacheInode{it.Generation, it.Size}
		}
	case disk.KeyExtentData:
		f, err := disk.ParseFileExtent(b)
		if err == nil && f.Type != disk.FileExtentInline && f.DiskBytenr != 0 && f.Compression == disk.CompressNone {
			c.cacheExtents = append(c.cacheExtents, cacheExtent{uint64(k.ObjectID), k.Offset, uint64(f.DiskBytenr) + f.Offset, f.NumBytes})
		}
	}
}

// checkSpaceCaches compares the v1 caches with the complement of the extent
// tree. Caches that Linux does not use, because the generation in the superblock
// is not the current one, are left alone.
func (c *checker) checkSpaceCaches(sums []groupSums) {
	if c.sb.CompatROFlags&disk.CompatROFreeSpaceTree != 0 || c.sb.CacheGeneration != uint64(c.sb.Generation) || c.treeBroken(disk.TreeExtent) {
		return
	}
	for i := range c.caches {
		h := &c.caches[i]
		n := findChunk(c.chunks, uint64(h.group))
		if n < 0 || c.chunks[n].Logical != h.group {
			continue // of a block group that is gone
		}
		at := Place{Tree: disk.TreeRoot, Inode: uint64(h.Location.ObjectID), Logical: h.group}
		ranges, err := c.readCache(h)
		if err != nil {
			c.find.add(Finding{Code: CodeSpaceCacheStale, Place: at, What: fmt.Sprintf("the free-space cache of a block group is not valid: %v", err)})
			continue
		}
		chunk := &c.chunks[n]
		sum := sums[n].extents
		for _, r := range append(ranges, c.superRanges(chunk)...) {
			sum += c.hash.position(r.end) - c.hash.position(r.start)
		}
		if sum == c.hash.position(uint64(chunk.End()))-c.hash.position(uint64(chunk.Logical)) {
			continue
		}
		extents, err := c.spaceOf(chunk)
		if err != nil {
			return // a cancelled context: run returns it
		}
		all := append(append(extents, ranges...), c.superRanges(chunk)...)
		slices.SortFunc(all, func(a, b spaceRange) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end)) })
		c.sweepSpace(chunk, all)
	}
}

var errCacheShort = errors.New("it ends early")

// readCache reads the free ranges of one cache.
func (c *checker) readCache(h *cacheHeader) ([]spaceRange, error) {
	in, ok := c.cacheInodes[uint64(h.Location.ObjectID)]
	switch {
	case !ok:
		return nil, errors.New("its file does not exist")
	case in.gen != h.Generation:
		return nil, fmt.Errorf("its file is of generation %d, its header of %d", in.gen, h.Generation)
	case in.size == 0 && h.NumEntries == 0:
		return nil, nil
	case in.size%cachePage != 0 || in.size > maxCacheBytes || in.size == 0:
		return nil, fmt.Errorf("its file has %d bytes", in.size)
	}
	b := make([]byte, in.size)
	var got uint64
	for _, e := range c.cacheExtents {
		if e.ino != uint64(h.Location.ObjectID) || e.off >= in.size {
			continue
		}
		n := min(e.length, in.size-e.off)
		if err := c.vol.ReadData(c.ctx, disk.Logical(e.start), b[e.off:e.off+n], nil); err != nil {
			return nil, err
		}
		got += n
	}
	if got != in.size {
		return nil, errCacheShort
	}
	return parseCache(b, h, uint64(c.geo.SectorSize))
}

// parseCache decodes the contents of a cache file.
func parseCache(b []byte, h *cacheHeader, sector uint64) ([]spaceRange, error) {
	pages := len(b) / cachePage
	head := 4 * pages
	if head+8 > cachePage {
		return nil, errors.New("too many pages")
	}
	// The checksums are of what is behind them in the first page, and of the
	// other pages as they are. Pages that were never used have none.
	page := func(i int) ([]byte, error) {
		if i >= pages {
			return nil, errCacheShort
		}
		p := b[i*cachePage : (i+1)*cachePage]
		if i == 0 {
			p = p[head:]
		}
		if !csum.Verify(disk.CsumCRC32C, b[4*i:4*i+4], p) {
			return nil, fmt.Errorf("checksum mismatch in page %d", i)
		}
		return p, nil
	}
	p, err := page(0)
	if err != nil {
		return nil, err
	}
	if gen := binary.LittleEndian.Uint64(p); gen != uint64(h.Generation) {
		return nil, fmt.Errorf("its contents are of generation %d, its header of %d", gen, h.Generation)
	}
	p = p[8:]
	next := 1
	var out []spaceRange
	var bitmaps []uint64
	for range h.NumEntries {
		if len(p) < cacheEntrySize {
			if p, err = page(next); err != nil {
				return nil, err
			}
			next++
		}
		start, length := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
		switch p[16] {
		case cacheEntryExtent:
			out = append(out, spaceRange{start, start + length, true})
		case cacheEntryBitmap:
			bitmaps = append(bitmaps, start)
		default:
			return nil, fmt.Errorf("an entry of type %d", p[16])
		}
		p = p[cacheEntrySize:]
	}
	w := &worker{}
	for _, start := range bitmaps {
		if p, err = page(next); err != nil {
			return nil, err
		}
		next++
		w.bitmapRuns(p, cachePage*8, func(from, to uint64) {
			out = append(out, spaceRange{start + from*sector, start + to*sector, true})
		})
	}
	return out, nil
}

// superRanges are the ranges of a chunk that lie on copies of the superblock;
// caches do not have them as free.
func (c *checker) superRanges(chunk *disk.ChunkMapping) []spaceRange {
	p := disk.ProfileOf(chunk.Type)
	count := uint64(len(chunk.Stripes))
	seen := make(map[spaceRange]bool)
	var out []spaceRange
	for m := range disk.SuperMirrorMax {
		for i := range chunk.Stripes {
			off := disk.SuperOffset(m)
			s := chunk.Stripes[i].Offset
			if off+disk.StripeLen <= s || off >= s+chunk.StripeLength() {
				continue
			}
			in := uint64(0)
			if off > s {
				in = off - s
			}
			r := spaceRange{start: uint64(chunk.Logical) + in, free: true}
			r.end = r.start + disk.StripeLen
			nr := in / disk.StripeLen
			switch {
			case p.Parity > 0:
				row := disk.StripeLen * uint64(p.DataStripes(len(chunk.Stripes)))
				r.start = uint64(chunk.Logical) + nr*row
				r.end = r.start + row
			case p.Flag == disk.BlockGroupRAID0 || p.Flag == disk.BlockGroupRAID10:
				r.start = uint64(chunk.Logical) + (nr*count+uint64(i))/uint64(p.SubStripes)*disk.StripeLen
				r.end = r.start + disk.StripeLen
			}
			r.end = min(r.end, uint64(chunk.End()))
			if !seen[r] && r.start < r.end {
				seen[r] = true
				out = append(out, r)
			}
		}
	}
	return out
}
