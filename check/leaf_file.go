package check

import (
	"bytes"
	"fmt"

	"gobtrfs/disk"
)

// fileLeaf adds up a leaf of a tree of files.
type fileLeaf struct {
	c    *checker
	w    *worker
	n    disk.Node
	at   *slot
	info *nodeInfo
	tree disk.ObjectID // the header's owner
	cur  inodeState
	seg  *segment
	body bool // an inode has ended in this leaf
}

// visitFile reads a leaf of a subvolume, of the data relocation tree, or of the
// root tree, whose v1 free-space caches are files.
func (c *checker) visitFile(w *worker, s *slot, n disk.Node) {
	info := &s.info
	s.hasSeg = true
	l := &fileLeaf{c: c, w: w, n: n, at: s, info: info, tree: n.Owner(), seg: &s.seg}
	count := n.NrItems()
	for i := range count {
		k := n.Key(i)
		if i == 0 {
			l.cur = newInodeState(uint64(k.ObjectID), info.addr)
		} else if uint64(k.ObjectID) != l.cur.ino {
			l.next(uint64(k.ObjectID))
		}
		l.item(k, n.ItemData(i))
	}
	switch {
	case count == 0:
		l.seg.empty = true
	case l.body:
		l.seg.tail = l.cur
	default:
		l.seg.head, l.seg.single = l.cur, true
	}
}

// next ends the current inode and begins another.
func (l *fileLeaf) next(ino uint64) {
	if l.body {
		l.c.inodes.finish(l.tree, &l.cur, &l.seg.sums, &l.at.rare)
	} else {
		l.seg.head, l.body = l.cur, true
	}
	l.cur = newInodeState(ino, l.info.addr)
}

// item adds one item to the current inode. Items that cannot be decoded have
// been reported by CheckLeaf.
func (l *fileLeaf) item(k disk.Key, b []byte) {
	s := &l.cur
	if k.ObjectID == disk.FreeInoObjectID {
		l.w.bad(CodeInodeCache, Place{Tree: l.tree, Logical: l.info.addr}, "the subvolume has an inode cache")
	}
	switch k.Type {
	case disk.KeyInodeItem:
		if it, err := disk.ParseInodeItem(b); err == nil && !special(s.ino) {
			s.has |= hasItem
			s.size, s.nbytes, s.iflags, s.nlink, s.mode = it.Size, it.NBytes, it.Flags, it.Nlink, it.Mode
			l.w.stats.Inodes++
		}
	case disk.KeyInodeRef:
		l.refs(k, b)
	case disk.KeyInodeExtref:
		l.extrefs(b)
	case disk.KeyDirItem, disk.KeyDirIndex:
		l.entries(k, b)
	case disk.KeyExtentData:
		l.extent(k, b)
	case disk.KeyOrphanItem:
		if k.ObjectID == disk.OrphanObjectID {
			if x := l.c.rares.add(&l.at.rare); x != nil {
				x.orphans = append(x.orphans, k.Offset)
			}
		}
	case disk.KeyXattrItem:
		s.has |= hasOther
	case disk.KeyVerityDesc, disk.KeyVerityMerkle:
		s.has |= hasOther | hasVerity
	default:
		if l.info.kind == kindFile && !special(s.ino) {
			l.w.bad(CodeItemUnknown, Place{Tree: l.tree, Key: keyOf(k), Logical: l.info.addr}, "an item of a type that subvolumes do not hold")
		}
	}
}

func (l *fileLeaf) refs(k disk.Key, b []byte) {
	s := &l.cur
	for len(b) > 0 {
		r, rest, err := disk.ParseInodeRef(b)
		if err != nil {
			return
		}
		b = rest
		if k.Offset == s.ino { // the top directory's ".."
			if r.Index == 0 && string(r.Name) == ".." {
				s.has |= hasSelfRef
			}
			continue
		}
		s.names++
		l.seg.sums.names -= l.c.hash.name(k.Offset, r.Index, s.ino, r.Name)
	}
}

func (l *fileLeaf) extrefs(b []byte) {
	s := &l.cur
	for len(b) > 0 {
		r, rest, err := disk.ParseInodeExtref(b)
		if err != nil {
			return
		}
		b = rest
		s.names++
		l.seg.sums.names -= l.c.hash.name(uint64(r.Parent), r.Index, s.ino, r.Name)
	}
}

func (l *fileLeaf) entries(k disk.Key, b []byte) {
	s := &l.cur
	s.has |= hasDirItems
	index := k.Type == disk.KeyDirIndex
	whole, first := b, true
	for len(b) > 0 {
		d, rest, err := disk.ParseDirItem(b)
		if err != nil {
			return
		}
		if !first && namedBefore(whole[:len(whole)-len(b)], d.Name) {
			l.w.bad(CodeDirEntry, Place{Tree: l.tree, Inode: s.ino, Key: keyOf(k), Logical: l.info.addr}, fmt.Sprintf("the directory has the name %q twice", d.Name))
		}
		b, first = rest, false
		s.dirSize += uint64(len(d.Name))
		term := l.c.hash.entry(&d)
		if d.Location.Type == disk.KeyRootItem && index {
			if x := l.c.rares.add(&l.at.rare); x != nil {
				x.subvols = append(x.subvols, subvolEntry{s.ino, k.Offset, d.Location.ObjectID, string(d.Name)})
			}
		}
		if !index {
			s.dirSum += term
			continue
		}
		l.w.stats.Names++
		s.dirSum -= term
		s.dirCount++
		if d.Location.Type == disk.KeyInodeItem {
			l.seg.sums.names += l.c.hash.name(s.ino, k.Offset, uint64(d.Location.ObjectID), d.Name)
			l.seg.sums.types += l.c.hash.fileType(uint64(d.Location.ObjectID), d.Type)
		}
	}
}

// namedBefore says whether one of the entries in b has the name: names with the
// same hash share an item, so two of the same name stand in one.
func namedBefore(b, name []byte) bool {
	for len(b) > 0 {
		d, rest, err := disk.ParseDirItem(b)
		if err != nil {
			return false
		}
		if bytes.Equal(d.Name, name) {
			return true
		}
		b = rest
	}
	return false
}

// extent adds a file extent: to its inode, to the references of the extent, and
// to the data that has or has not checksums.
func (l *fileLeaf) extent(k disk.Key, b []byte) {
	f, err := disk.ParseFileExtent(b)
	if err != nil {
		return
	}
	s := &l.cur
	l.w.stats.FileExtents++
	if f.Generation > l.c.geo.Generation+1 {
		l.w.bad(CodeFileExtent, Place{Tree: l.tree, Inode: s.ino, Key: keyOf(k), Logical: l.info.addr}, fmt.Sprintf("a file extent is of generation %d, the filesystem of %d", f.Generation, l.c.geo.Generation))
	}
	if f.Type == disk.FileExtentInline {
		s.has |= hasInline
		s.inline = f.RAMBytes
		if n := len(f.Inline); n > 0 && f.Inline[n-1] == 0 {
			s.has |= hasNUL
		}
		s.found += f.RAMBytes
		s.extent(k.Offset, k.Offset+l.c.roundUp(f.RAMBytes))
		if f.OtherEncoding != 0 {
			l.w.bad(CodeFileExtent, Place{Tree: l.tree, Inode: s.ino, Key: keyOf(k), Logical: l.info.addr}, fmt.Sprintf("a file extent with encoding %d", f.OtherEncoding))
		}
		return
	}
	s.extent(k.Offset, k.Offset+f.NumBytes)
	if why := badFileExtent(&f); why != "" {
		l.w.bad(CodeFileExtent, Place{Tree: l.tree, Inode: s.ino, Key: keyOf(k), Logical: l.info.addr}, why)
	}
	if f.DiskBytenr == 0 {
		return
	}
	if f.Compression == disk.CompressNone && f.RAMBytes != f.DiskNumBytes {
		l.w.bad(CodeFileRAMBytes, Place{Tree: l.tree, Inode: s.ino, Key: keyOf(k), Logical: l.info.addr},
			fmt.Sprintf("ram_bytes %d of an uncompressed extent differs from its length on disk, %d", f.RAMBytes, f.DiskNumBytes))
	}
	s.found += f.NumBytes
	l.w.observeExtent(l.info, l.tree, k, &f)
	l.data(&f)
}

// observeExtent takes the reference that a file extent makes.
func (w *worker) observeExtent(info *nodeInfo, tree disk.ObjectID, k disk.Key, f *disk.FileExtent) {
	ref := disk.ExtentRef{Type: disk.KeyExtentDataRef, Root: tree, ObjectID: k.ObjectID, Offset: k.Offset - f.Offset, Count: 1}
	if info.full {
		ref = disk.ExtentRef{Type: disk.KeySharedDataRef, Parent: info.addr, Count: 1}
	}
	w.observeData(uint64(f.DiskBytenr), f.DiskNumBytes, &ref)
}

// badFileExtent says what is wrong with the ranges of a regular extent.
func badFileExtent(f *disk.FileExtent) string {
	end := f.Offset + f.NumBytes
	switch {
	case f.OtherEncoding != 0 || f.Encryption != 0:
		return fmt.Sprintf("a file extent with encoding %d and encryption %d", f.OtherEncoding, f.Encryption)
	case f.NumBytes == 0:
		return "a file extent of no bytes"
	case end < f.Offset || end > f.RAMBytes:
		return fmt.Sprintf("a file extent uses bytes %d to %d of an extent of %d bytes", f.Offset, end, f.RAMBytes)
	case f.DiskBytenr == 0 && f.DiskNumBytes != 0:
		return fmt.Sprintf("a hole of %d bytes on disk", f.DiskNumBytes)
	case f.DiskBytenr == 0:
		return ""
	case f.DiskNumBytes == 0:
		return "a file extent of no bytes on disk"
	case f.Compression == disk.CompressNone && end > f.DiskNumBytes:
		return fmt.Sprintf("a file extent uses bytes %d to %d of an extent of %d bytes on disk", f.Offset, end, f.DiskNumBytes)
	case f.Type == disk.FileExtentPrealloc && f.Compression != disk.CompressNone:
		return "a preallocated extent that is compressed"
	}
	return ""
}

// data notes which data must have checksums. Whether the inode's flags are known
// depends on whether its item is in this leaf.
func (l *fileLeaf) data(f *disk.FileExtent) {
	r := dataRange{start: uint64(f.DiskBytenr) + f.Offset, length: f.NumBytes, prealloc: f.Type == disk.FileExtentPrealloc}
	if f.Compression != disk.CompressNone {
		r.start, r.length, r.compressed = uint64(f.DiskBytenr), f.DiskNumBytes, true
		l.cur.has |= hasCompressed
	}
	known := l.cur.has&hasItem != 0 || l.body
	l.w.wantCsums(l.tree, l.at.index, known, l.cur.iflags, r)
}
