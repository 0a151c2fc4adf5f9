package check

import (
	"fmt"
	"slices"
	"sync"

	"gobtrfs/disk"
	"gobtrfs/scrub"
)

// verifyData reads every copy of everything in use and reports what is wrong,
// with the files that lose something.
func (c *checker) verifyData() error {
	if c.treeBroken(disk.TreeExtent) || c.treeBroken(disk.TreeCsum) {
		c.find.add(Finding{Code: CodeSearchCut, What: "data was not verified, because the extent tree or the checksum tree cannot be read whole"})
		return nil
	}
	var mu sync.Mutex
	var lost []dataRange
	parity := make(map[uint64]bool) // starts of ranges of which only the parity is in doubt
	var differ []Finding            // copies, or parity, of data without checksums: it matters once a file has written there
	r, err := scrub.Verify(c.ctx, c.vol, scrub.Options{
		Workers: c.o.Workers,
		Problem: func(p scrub.Problem) {
			f := dataFinding(&p)
			mu.Lock()
			defer mu.Unlock()
			differs := p.Kind == scrub.KindNoSum || p.Kind == scrub.KindParityNoSum
			if (differs || f.Code == CodeDataBad) && len(lost) < maxRanges {
				at := uint64(p.Logical)
				only, known := parity[at]
				parity[at] = p.Kind == scrub.KindParityNoSum && (only || !known)
				lost = append(lost, dataRange{start: at, length: p.Length})
				if differs {
					differ = append(differ, f)
					return
				}
			}
			if f.Code != "" {
				c.find.add(f)
			}
		},
		Progress: func(done, total uint64) { c.progress("data", done, total) },
	})
	if c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	if err != nil {
		c.find.add(Finding{Code: CodeSearchCut, What: fmt.Sprintf("not all data was verified: %v", err)})
	}
	if r != nil {
		for _, d := range r.Devices {
			c.stats.Verified += d.DataBytesScrubbed
		}
	}
	return c.lostFiles(lost, parity, differ)
}

// dataFinding says one problem; it has no code if another part of the check has
// said so.
func dataFinding(p *scrub.Problem) Finding {
	f := Finding{Place: Place{Dev: p.Dev, DevName: p.DevName, Physical: p.Physical, Logical: p.Logical, Mirror: p.Mirror}, What: fmt.Sprintf("%d bytes: %s", p.Length, p.What)}
	switch {
	case p.Kind == scrub.KindSuper:
		// checkSupers has said so
	case p.Kind == scrub.KindParity || p.Kind == scrub.KindParityNoSum:
		f.Code = CodeParity
	case p.Kind == scrub.KindNoSum:
		f.Code = CodeMirrorsDiffer
	case p.Tree && p.Correctable:
		f.Code = CodeNodeCopy
	case p.Tree:
		f.Code = CodeNodeUnreadable
	case p.Correctable:
		f.Code = CodeDataCopy
	default:
		f.Code = CodeDataBad
	}
	return f
}

// lostFiles names the files that use data of which no copy is known to be good
// (parity says of which ranges that is not so, and only the parity in doubt),
// and reports those of differ that files have written to. Preallocated space
// has no contents, so its copies may differ and its parity is nobody's.
func (c *checker) lostFiles(lost []dataRange, parity map[uint64]bool, differ []Finding) error {
	if len(lost) == 0 {
		return nil
	}
	slices.SortFunc(lost, func(a, b dataRange) int { return int(int64(a.start - b.start)) })
	lost = slices.CompactFunc(lost, func(a, b dataRange) bool { return a.start == b.start })
	var mu sync.Mutex
	written := make(map[uint64]bool)
	err := c.again(func(n *nodeInfo) bool { return n.kind == kindFile }, func(_ *worker, info *nodeInfo, n disk.Node) {
		for i := range n.NrItems() {
			k := n.Key(i)
			if k.Type != disk.KeyExtentData {
				continue
			}
			f, err := disk.ParseFileExtent(n.ItemData(i))
			if err != nil || f.Type != disk.FileExtentRegular || f.DiskBytenr == 0 {
				continue
			}
			start, length := uint64(f.DiskBytenr)+f.Offset, f.NumBytes
			if f.Compression != disk.CompressNone {
				start, length = uint64(f.DiskBytenr), f.DiskNumBytes
			}
			if bad := within(lost, start, length); len(bad) > 0 {
				mu.Lock()
				for _, r := range bad {
					written[r.start] = true
				}
				mu.Unlock()
				bad = slices.DeleteFunc(slices.Clone(bad), func(r dataRange) bool { return parity[r.start] })
				if len(bad) == 0 {
					continue
				}
				c.find.add(Finding{Code: CodeDataBad, Place: Place{Tree: n.Owner(), Inode: uint64(k.ObjectID), Key: keyOf(k), Logical: disk.Logical(bad[0].start)},
					What: fmt.Sprintf("a file has %d bad blocks between its bytes %d and %d", len(bad), k.Offset, k.Offset+f.NumBytes)})
			}
		}
	})
	for _, f := range differ {
		if err != nil || written[uint64(f.Place.Logical)] {
			c.find.add(f)
		}
	}
	return err
}
