package check

import (
	"cmp"
	"encoding/binary"
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
		at := Place{Tree: disk.TreeLog, Key: keyOf(k), Logical: r.from}
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
	c.flushSpans()
	if err := c.logInUse(); err != nil {
		return err
	}
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

// visitLog reads a leaf of a log tree.
func (c *checker) visitLog(w *worker, info *nodeInfo, n disk.Node) {
	l := &logLeaf{c: c, w: w, info: info}
	size := c.geo.CsumType.Size()
	for i := range n.NrItems() {
		k, b := n.Key(i), n.ItemData(i)
		switch k.Type {
		case disk.KeyInodeItem:
			if it, err := disk.ParseInodeItem(b); err == nil {
				l.flags, l.known = it.Flags, k.ObjectID
			}
		case disk.KeyExtentCsum:
			w.span(spanLogCsum, k.Offset, uint64(len(b)/size)*uint64(c.geo.SectorSize), 0)
		case disk.KeyDirLogIndex:
			if len(b) == 8 && binary.LittleEndian.Uint64(b) < k.Offset {
				w.bad(CodeLog, Place{Tree: disk.TreeLog, Inode: uint64(k.ObjectID), Key: keyOf(k), Logical: info.addr}, "a range of logged directory entries ends before it begins")
			}
		case disk.KeyExtentData:
			l.extent(k, b)
		}
	}
}

// logLeaf is the state of a visit to a leaf of a log tree.
type logLeaf struct {
	c     *checker
	w     *worker
	info  *nodeInfo
	known disk.ObjectID // the inode whose flags these are
	flags uint64
	ino   disk.ObjectID // of the last file extent
	end   uint64        // where that ends in the file
}

// extent checks one file extent: the data that it names must have checksums, in
// the log or in the checksum tree, and must not stand on anything else.
func (l *logLeaf) extent(k disk.Key, b []byte) {
	at := Place{Tree: disk.TreeLog, Inode: uint64(k.ObjectID), Key: keyOf(k), Logical: l.info.addr}
	f, err := disk.ParseFileExtent(b)
	if err != nil {
		return
	}
	if k.ObjectID == l.ino && k.Offset < l.end {
		l.w.bad(CodeLog, at, "logged file extents overlap")
	}
	if l.ino, l.end = k.ObjectID, k.Offset+f.NumBytes; f.Type == disk.FileExtentInline {
		l.end = k.Offset + f.RAMBytes
		return
	}
	if why := badFileExtent(&f); why != "" {
		l.w.bad(CodeLog, at, why)
	}
	if f.DiskBytenr == 0 {
		return
	}
	start, length := uint64(f.DiskBytenr), f.DiskNumBytes
	i := findChunk(l.c.chunks, start)
	if i < 0 || length > uint64(l.c.chunks[i].End())-start || l.c.chunks[i].Type&disk.BlockGroupData == 0 {
		if !l.c.lost {
			l.w.bad(CodeLog, at, "a logged file extent is not in a chunk of data")
		}
		return
	}
	l.w.span(spanLogData, start, length, 1)
	if l.known != k.ObjectID || l.flags&disk.InodeNoDataSum != 0 || f.Type != disk.FileExtentRegular {
		return
	}
	if f.Compression == disk.CompressNone {
		start, length = start+f.Offset, f.NumBytes
	}
	l.w.span(spanLogNeed, start, length, 0)
}

// logInUse checks that no block of a log, and no data that only a log knows,
// stands on an extent of the last commit or on another of the log.
func (c *checker) logInUse() error {
	next := c.logRanges()
	var list []span
	var last span
	for {
		s, ok := next()
		if ok {
			if s.start < last.end && !(s.leaf == 1 && s == last) {
				c.find.add(Finding{Code: CodeLog, Place: Place{Tree: disk.TreeLog, Logical: disk.Logical(s.start)}, What: fmt.Sprintf("two extents of a log overlap, at %d and %d", last.start, s.start)})
			}
			if s.end > last.end {
				last = s
			}
			list = append(list, s)
		}
		if len(list) == c.limits.records || !ok && len(list) > 0 {
			if err := c.extentsAt(list); err != nil {
				return err
			}
			list = list[:0]
		}
		if !ok {
			return c.pool.failure()
		}
	}
}

// logRanges yields the blocks of all logs (leaf 0) and the data that they use
// (leaf 1), by address.
func (c *checker) logRanges() spanReader {
	blocks := &sorter[span]{pool: c.pool, compare: compareSpans, absorb: keepApart}
	list := batch[span]{max: c.limits.spans}
	size := uint64(c.geo.NodeSize)
	for i := range c.logs {
		c.logs[i].each(func(n *nodeInfo) bool {
			list.put(blocks, span{start: uint64(n.addr), end: uint64(n.addr) + size})
			return true
		})
	}
	list.flush(blocks)
	a, b := blocks.read().next, c.readSpans(spanLogData)
	x, okA := a()
	y, okB := b()
	return func() (out span, ok bool) {
		if okA && (!okB || x.start <= y.start) {
			out, ok = x, true
			x, okA = a()
			return out, ok
		}
		out, ok = y, okB
		y, okB = b()
		return out, ok
	}
}

// extentsAt reports extents on which one of the sorted ranges stands. Data that
// the last commit has too is no such case.
func (c *checker) extentsAt(list []span) error {
	size := uint64(c.geo.NodeSize)
	return c.again(func(n *nodeInfo) bool { return n.kind == kindExtent }, func(_ *worker, _ *nodeInfo, n disk.Node) {
		for i := range n.NrItems() {
			k := n.Key(i)
			start, length := uint64(k.ObjectID), k.Offset
			switch k.Type {
			case disk.KeyMetadataItem:
				length = size
			case disk.KeyExtentItem:
			default:
				continue
			}
			j, _ := slices.BinarySearchFunc(list, start, func(s span, a uint64) int { return cmp.Compare(s.start, a) })
			if j > 0 && list[j-1].end > start {
				j--
			}
			for ; j < len(list) && list[j].start < start+length; j++ {
				s := list[j]
				if s.leaf == 1 && s.start == start && s.end == start+length && k.Type == disk.KeyExtentItem {
					continue
				}
				c.find.add(Finding{Code: CodeLog, Place: Place{Tree: disk.TreeLog, Logical: disk.Logical(s.start)}, What: fmt.Sprintf("%d bytes of a log stand on the extent %v", s.end-s.start, k)})
			}
		}
	})
}
