package check

import (
	"fmt"
	"slices"
	"sync"

	"gobtrfs/disk"
)

// maxRanges bounds how many ranges of data are looked for in files.
const maxRanges = 1000

// checkCsums compares the data that has checksums with the data that files use
// and with the data extents that there are.
func (c *checker) checkCsums() error {
	if c.treeBroken(disk.TreeCsum) || c.treeBroken(disk.TreeExtent) {
		return nil
	}
	// Data of a log tree gets its extent when the log is replayed.
	unused := without(without(c.readSpans(spanCsum), c.readSpans(spanAllocated)), c.readSpans(spanLogNeed))
	for s, ok := unused(); ok && c.find.counted(CodeCsumUnused) < maxRanges; s, ok = unused() {
		c.find.add(Finding{Code: CodeCsumUnused, Place: Place{Tree: disk.TreeCsum, Logical: disk.Logical(s.start)}, What: fmt.Sprintf("checksums of %d bytes in which there is no data extent", s.end-s.start)})
	}
	if c.hasBroken() {
		return c.pool.failure() // what uses the data may be what cannot be read
	}
	missing := firstRanges(without(c.readSpans(spanNeed), c.readSpans(spanCsum)))
	unwanted := firstRanges(both(c.readSpans(spanNever), c.readSpans(spanCsum)))
	odd := firstRanges(without(both(c.readSpans(spanPrealloc), c.readSpans(spanCsum)), c.readSpans(spanNeed)))
	if err := c.pool.failure(); err != nil || len(missing)+len(unwanted)+len(odd) == 0 {
		return err
	}
	return c.filesOf(missing, unwanted, odd)
}

// firstRanges are the first maxRanges ranges of a reader.
func firstRanges(read spanReader) []dataRange {
	var out []dataRange
	for len(out) < maxRanges {
		s, ok := read()
		if !ok {
			break
		}
		out = append(out, dataRange{start: s.start, length: s.end - s.start})
	}
	return out
}

// filesOf finds the files that use ranges of data and reports them.
func (c *checker) filesOf(missing, unwanted, odd []dataRange) error {
	var mu sync.Mutex
	named := make(map[uint64]bool) // starts of ranges for which a file was found
	report := func(code Code, what string, r dataRange, tree disk.ObjectID, k disk.Key) {
		mu.Lock()
		named[r.start] = true
		mu.Unlock()
		c.find.add(Finding{Code: code, Place: Place{Tree: tree, Inode: uint64(k.ObjectID), Key: keyOf(k), Logical: disk.Logical(r.start)}, What: fmt.Sprintf("%s: %d bytes", what, r.length)})
	}
	err := c.again(func(n *nodeInfo) bool { return n.kind == kindFile }, func(_ *worker, info *nodeInfo, n disk.Node) {
		for i := range n.NrItems() {
			k := n.Key(i)
			if k.Type != disk.KeyExtentData {
				continue
			}
			f, err := disk.ParseFileExtent(n.ItemData(i))
			if err != nil || f.Type == disk.FileExtentInline || f.DiskBytenr == 0 {
				continue
			}
			start, length := uint64(f.DiskBytenr)+f.Offset, f.NumBytes
			if f.Compression != disk.CompressNone {
				start, length = uint64(f.DiskBytenr), f.DiskNumBytes
			}
			for _, r := range within(missing, start, length) {
				report(CodeCsumMissing, "data has no checksums", r, n.Owner(), k)
			}
			for _, r := range within(unwanted, start, length) {
				report(CodeCsumUnwanted, "data that must not have checksums has some", r, n.Owner(), k)
			}
			for _, r := range within(odd, start, length) {
				if f.Type == disk.FileExtentPrealloc {
					report(CodeCsumPrealloc, "preallocated space has checksums", r, n.Owner(), k)
				}
			}
		}
	})
	for _, r := range missing {
		if !named[r.start] {
			c.find.add(Finding{Code: CodeCsumMissing, Place: Place{Tree: disk.TreeCsum, Logical: disk.Logical(r.start)}, What: fmt.Sprintf("data has no checksums: %d bytes", r.length)})
		}
	}
	return err
}

// within are the ranges of a sorted list that meet [start, start+length).
func within(list []dataRange, start, length uint64) []dataRange {
	lo, _ := slices.BinarySearchFunc(list, start, func(r dataRange, s uint64) int {
		if r.start+r.length <= s {
			return -1
		}
		return 1
	})
	hi := lo
	for hi < len(list) && list[hi].start < start+length {
		hi++
	}
	return list[lo:hi]
}
