package check

import (
	"fmt"
	"slices"

	"gobtrfs/disk"
)

// walkLogs walks the log trees: what was synced after the last commit. Their
// blocks are not in the extent tree, and they hold only part of each inode.
func (c *checker) walkLogs() error {
	if c.sb.LogRoot == 0 {
		return nil
	}
	c.find.add(Finding{Code: CodeLogPending, Place: Place{Logical: c.sb.LogRoot, Tree: disk.TreeLog}, What: "a log of synced changes waits to be replayed"})
	top := &c.logs[0]
	top.roots = []treeRoot{{id: disk.TreeLog, link: link{addr: c.sb.LogRoot, gen: c.sb.Generation + 1, owner: disk.TreeLog, level: int8(c.sb.LogRootLevel), root: true, kind: kindLogRoot}}}
	if err := c.walk(c.ctx, top); err != nil {
		return err
	}
	have := make(map[disk.ObjectID]bool)
	for i := range c.rootItems {
		have[c.rootItems[i].key.ObjectID] = true
	}
	for i := range c.logRoots {
		r := &c.logRoots[i]
		k := r.key
		at := Place{Tree: disk.TreeLog, Key: &k, Logical: r.from}
		if r.item.Bytenr == 0 || r.item.Level >= disk.MaxLevel {
			c.find.add(Finding{Code: CodeLog, Place: at, What: "the root of a log tree is nowhere"})
			continue
		}
		if !have[disk.ObjectID(k.Offset)] {
			c.find.add(Finding{Code: CodeLog, Place: at, What: fmt.Sprintf("a log of subvolume %d, which does not exist", k.Offset)})
		}
		c.logs[1].roots = append(c.logs[1].roots, treeRoot{id: disk.TreeLog, offset: k.Offset,
			link: link{addr: r.item.Bytenr, gen: r.item.Generation, owner: disk.TreeLog, level: int8(r.item.Level), root: true, kind: kindLog}})
	}
	if err := c.walk(c.ctx, &c.logs[1]); err != nil {
		return err
	}
	if err := c.logInUse(); err != nil {
		return err
	}
	c.flushSpans()
	missing := without(without(c.readSpans(spanLogNeed), c.readSpans(spanLogCsum)), c.readSpans(spanCsum))
	for s, ok := missing(); ok && c.find.counted(CodeLog) < maxRanges; s, ok = missing() {
		c.find.add(Finding{Code: CodeLog, Place: Place{Tree: disk.TreeLog, Logical: disk.Logical(s.start)}, What: fmt.Sprintf("logged data has no checksums: %d bytes", s.end-s.start)})
	}
	return c.pool.failure()
}

// visitLogRoot reads a leaf of the tree of log trees.
func (c *checker) visitLogRoot(info *nodeInfo, n disk.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n.NrItems() {
		k := n.Key(i)
		if k.Type != disk.KeyRootItem || k.ObjectID != disk.TreeLog {
			continue
		}
		if r, err := disk.ParseRootItem(n.ItemData(i)); err == nil {
			c.logRoots = append(c.logRoots, rootRecord{k, r, info.addr})
		}
	}
}

// visitLog reads a leaf of a log tree: the data that it names must have
// checksums, in the log or in the checksum tree.
func (c *checker) visitLog(w *worker, info *nodeInfo, n disk.Node) {
	var flags uint64
	var known disk.ObjectID
	size := c.geo.CsumType.Size()
	for i := range n.NrItems() {
		k, b := n.Key(i), n.ItemData(i)
		switch k.Type {
		case disk.KeyInodeItem:
			if it, err := disk.ParseInodeItem(b); err == nil {
				flags, known = it.Flags, k.ObjectID
			}
		case disk.KeyExtentCsum:
			w.span(spanLogCsum, k.Offset, uint64(len(b)/size)*uint64(c.geo.SectorSize), 0)
		case disk.KeyExtentData:
			f, err := disk.ParseFileExtent(b)
			if err != nil || f.Type == disk.FileExtentInline || f.DiskBytenr == 0 {
				continue
			}
			at := Place{Tree: disk.TreeLog, Inode: uint64(k.ObjectID), Key: &k, Logical: info.addr}
			if why := badFileExtent(&f); why != "" {
				c.find.add(Finding{Code: CodeLog, Place: at, What: why})
			}
			if findChunk(c.chunks, uint64(f.DiskBytenr)) < 0 {
				c.find.add(Finding{Code: CodeLog, Place: at, What: "a logged file extent is in no chunk"})
				continue
			}
			if known == k.ObjectID && flags&disk.InodeNoDataSum == 0 && f.Type == disk.FileExtentRegular {
				start, length := uint64(f.DiskBytenr)+f.Offset, f.NumBytes
				if f.Compression != disk.CompressNone {
					start, length = uint64(f.DiskBytenr), f.DiskNumBytes
				}
				w.span(spanLogNeed, start, length, 0)
			}
		}
	}
}

// logInUse checks that no block of a log stands on an extent of the last commit.
func (c *checker) logInUse() error {
	for i := range c.logs {
		for l := range c.logs[i].levels {
			list := &c.logs[i].levels[l]
			for n := 0; n < list.len(); n += c.limits.records {
				var at []disk.Logical
				for j := n; j < min(n+c.limits.records, list.len()); j++ {
					at = append(at, list.nodes.at(j).addr)
				}
				if err := c.extentsAt(at); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// extentsAt reports extents on which one of the log's blocks in the sorted list
// stands.
func (c *checker) extentsAt(at []disk.Logical) error {
	size := uint64(c.geo.NodeSize)
	return c.again(func(n *nodeInfo) bool { return n.kind == kindExtent }, func(_ *worker, _ *nodeInfo, n disk.Node) {
		for i := range n.NrItems() {
			k := n.Key(i)
			length := k.Offset
			switch k.Type {
			case disk.KeyMetadataItem:
				length = size
			case disk.KeyExtentItem:
			default:
				continue
			}
			j, _ := slices.BinarySearch(at, disk.Logical(k.ObjectID))
			if j > 0 && uint64(at[j-1])+size > uint64(k.ObjectID) {
				j--
			}
			if j < len(at) && uint64(at[j]) < uint64(k.ObjectID)+length {
				c.find.add(Finding{Code: CodeLog, Place: Place{Tree: disk.TreeLog, Logical: at[j]}, What: fmt.Sprintf("a block of a log stands on the extent %v", k)})
			}
		}
	})
}
