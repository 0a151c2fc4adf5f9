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
	c.haveCsum.compare(c.allocated, false, func(start, length uint64) bool {
		c.find.add(Finding{Code: CodeCsumUnused, Place: Place{Tree: disk.TreeCsum, Logical: disk.Logical(start)}, What: fmt.Sprintf("checksums of %d bytes in which there is no data extent", length)})
		return c.find.counted(CodeCsumUnused) < maxRanges
	})
	if c.hasBroken() {
		return nil // what uses the data may be what cannot be read
	}
	var missing, unwanted []dataRange
	c.needCsum.compare(c.haveCsum, false, func(start, length uint64) bool {
		missing = append(missing, dataRange{start: start, length: length})
		return len(missing) < maxRanges
	})
	c.noCsum.compare(c.haveCsum, true, func(start, length uint64) bool {
		if !c.needCsum.has(start, length) {
			unwanted = append(unwanted, dataRange{start: start, length: length})
		}
		return len(unwanted) < maxRanges
	})
	c.neverCsum.compare(c.haveCsum, true, func(start, length uint64) bool {
		unwanted = append(unwanted, dataRange{start: start, length: length})
		return len(unwanted) < maxRanges
	})
	if len(missing) == 0 && len(unwanted) == 0 {
		return nil
	}
	byStart := func(a, b dataRange) int { return int(int64(a.start - b.start)) }
	slices.SortFunc(missing, byStart)
	slices.SortFunc(unwanted, byStart)
	return c.filesOf(missing, unwanted)
}

// filesOf finds the files that use ranges of data and reports them.
func (c *checker) filesOf(missing, unwanted []dataRange) error {
	var mu sync.Mutex
	named := make(map[uint64]bool) // starts of ranges for which a file was found
	report := func(code Code, r dataRange, tree disk.ObjectID, k disk.Key) {
		mu.Lock()
		named[r.start] = true
		mu.Unlock()
		what := "data has no checksums"
		if code == CodeCsumUnwanted {
			what = "data that must not have checksums has some"
		}
		c.find.add(Finding{Code: code, Place: Place{Tree: tree, Inode: uint64(k.ObjectID), Key: &k, Logical: disk.Logical(r.start)}, What: fmt.Sprintf("%s: %d bytes", what, r.length)})
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
				report(CodeCsumMissing, r, n.Owner(), k)
			}
			for _, r := range within(unwanted, start, length) {
				report(CodeCsumUnwanted, r, n.Owner(), k)
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
