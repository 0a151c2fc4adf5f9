package mkfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// items holds the buffers for making one inode's items.
type items struct {
	names  []nameID
	hashes []hashed
	data   []byte
}

// hashed is a name with its hash.
type hashed struct {
	hash uint64
	n    int
}

// subvolumeTree packs one subvolume's tree.
func (a *assembler) subvolumeTree(ctx context.Context, subvols []*subvolume, s *subvolume) (treeRoot, error) {
	p := newPacker(&a.plan.format, a.nodes, s.id)
	if err := a.inode(ctx, p, subvols, s.top); err != nil {
		return treeRoot{}, a.named(ctx, s.top, err)
	}
	for _, id := range s.inodes {
		if err := a.inode(ctx, p, subvols, id); err != nil {
			return treeRoot{}, a.named(ctx, id, err)
		}
	}
	return p.finish()
}

// named says which file an error is about, unless it says so itself: contents are
// read ahead, so that they may be another file's. What ended ctx is about none.
func (a *assembler) named(ctx context.Context, id inodeID, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return err
	}
	var about *fileError
	if errors.As(err, &about) {
		return err
	}
	return fmt.Errorf("%q: %w", a.t.pathOf(id), err)
}

// inode packs everything that a file has, in the order of its keys.
func (a *assembler) inode(ctx context.Context, p *packer, subvols []*subvolume, id inodeID) error {
	i := &a.t.inodes[id]
	var d fileData
	var err error
	if i.isRegular() && i.size > 0 {
		if d, err = a.file(ctx, id); err != nil {
			return err
		}
	}
	xs := a.t.xattrs[id]
	if len(d.xattrs) > 0 {
		xs = d.xattrs
	}
	if m := a.plan.mapping(); m.wantsPaths() {
		xs = m.changeXattrs(a.t.pathOf(id), i.mode, xs)
	}
	ino := disk.ObjectID(firstIno + uint64(i.num))
	if err := a.inodeItem(p, ino, id, &d); err != nil {
		return err
	}
	if err := a.refs(p, ino, id); err != nil {
		return err
	}
	if err := a.xattrItems(p, ino, xs); err != nil {
		return err
	}
	switch {
	case i.isDir():
		return a.dirItems(p, ino, subvols, id)
	case i.mode&modeType == modeSymlink:
		target := a.t.target[id]
		if limit := a.plan.format.maxItem() - disk.FileExtentInlineHeader; len(target) > min(limit, 4095) {
			return fmt.Errorf("symbolic link to a target of %d bytes, at most %d fit", len(target), min(limit, 4095))
		}
		return inlineItem(p, ino, []byte(target), len(target), disk.CompressNone)
	case d.isInline:
		return inlineItem(p, ino, d.inline, int(i.size), d.comp)
	}
	return a.fileExtents(p, ino, i, a.extents[d.from:d.to])
}

// inodeItem packs the inode itself.
func (a *assembler) inodeItem(p *packer, ino disk.ObjectID, id inodeID, d *fileData) error {
	i := &a.t.inodes[id]
	b, err := p.add(disk.Key{ObjectID: ino, Type: disk.KeyInodeItem}, disk.InodeItemSize)
	if err != nil {
		return err
	}
	m := a.plan.mapping()
	mtime := m.clamp(disk.Time{Sec: i.sec, Nsec: i.nsec})
	if i.sec == noTime {
		mtime = onDisk(a.plan.Time)
	}
	item := disk.InodeItem{
		Generation: generation, TransID: generation, Nlink: a.links(id), UID: i.uid, GID: i.gid, Mode: i.mode,
		Rdev: i.rdev, Flags: inodeFlags(i), Atime: mtime, Ctime: mtime, Mtime: mtime, Otime: mtime,
	}
	if t, ok := a.t.times[id]; ok {
		item.Atime, item.Ctime, item.Otime = m.clamp(t.atime), m.clamp(t.ctime), m.clamp(t.otime)
	}
	switch {
	case i.isDir():
		for _, n := range a.t.kidsOf(id) {
			item.Size += 2 * uint64(len(a.t.names[n].text))
		}
	case i.mode&modeType == modeSymlink:
		item.Size = uint64(len(a.t.target[id]))
		item.NBytes = item.Size
	case i.isRegular():
		item.Size = uint64(i.size)
		if d.isInline {
			item.NBytes = item.Size
		}
		for _, e := range a.extents[d.from:d.to] {
			item.NBytes += uint64(e.ram)
		}
		a.stats.Contents += item.Size
	}
	a.stats.Files++
	item.Append(b[:0])
	return nil
}

func inodeFlags(i *inode) (f uint64) {
	if i.flags&flagNoDataCow != 0 {
		f |= disk.InodeNoDataCow
		if i.isRegular() {
			f |= disk.InodeNoDataSum
		}
	}
	if i.flags&flagNoDataSum != 0 {
		f |= disk.InodeNoDataSum
	}
	return f
}

func (a *assembler) links(id inodeID) (n uint32) {
	if a.t.inodes[id].isDir() {
		return 1 // btrfs does not count subdirectories
	}
	a.t.namesOf(id, func(nameID) { n++ })
	return n
}

// firstIndex is the DIR_INDEX offset of a directory's first entry.
const firstIndex = 2

// refs packs the names of an inode: INODE_REF items, one for each directory, and
// INODE_EXTREF items for what does not fit there.
func (a *assembler) refs(p *packer, ino disk.ObjectID, id inodeID) error {
	if a.t.inodes[id].num == 0 {
		// A subvolume's top directory is its own parent.
		return a.refItem(p, ino, ino, disk.InodeRef{Name: []byte("..")}.Append(a.buf.data[:0]))
	}
	t := a.t
	names := a.buf.names[:0]
	t.namesOf(id, func(n nameID) { names = append(names, n) })
	a.buf.names = names
	if len(names) > 1 {
		slices.SortFunc(names, func(x, y nameID) int {
			return cmp.Or(cmp.Compare(t.ino(t.names[x].parent), t.ino(t.names[y].parent)), cmp.Compare(t.names[x].pos, t.names[y].pos))
		})
	}
	var rest []nameID
	for k := 0; k < len(names); {
		parent := t.names[names[k]].parent
		b := a.buf.data[:0]
		for ; k < len(names) && t.names[names[k]].parent == parent; k++ {
			n := &t.names[names[k]]
			ref := disk.InodeRef{Index: uint64(n.pos) + firstIndex, Name: []byte(n.text)}
			if len(b)+10+len(n.text) > p.format.maxItem() {
				rest = append(rest, names[k])
				continue
			}
			b = ref.Append(b)
		}
		a.buf.data = b
		if err := a.refItem(p, ino, t.ino(parent), b); err != nil {
			return err
		}
	}
	if len(rest) == 0 {
		return nil
	}
	return a.extrefs(p, ino, rest)
}

func (a *assembler) refItem(p *packer, ino, parent disk.ObjectID, b []byte) error {
	return p.addBytes(disk.Key{ObjectID: ino, Type: disk.KeyInodeRef, Offset: uint64(parent)}, b)
}

func (a *assembler) extrefs(p *packer, ino disk.ObjectID, names []nameID) error {
	if !a.plan.features.extref() {
		return fmt.Errorf("%d names too many in one directory without the feature extref", len(names))
	}
	hs := a.buf.hashes[:0]
	for k, n := range names {
		e := &a.t.names[n]
		hs = append(hs, hashed{csum.ExtrefHash(a.t.ino(e.parent), []byte(e.text)), k})
	}
	a.buf.hashes = hs
	return a.grouped(p, ino, disk.KeyInodeExtref, func(k int, b []byte) []byte {
		e := &a.t.names[names[k]]
		return disk.InodeExtref{Parent: a.t.ino(e.parent), Index: uint64(e.pos) + firstIndex, Name: []byte(e.text)}.Append(b)
	})
}

// grouped packs entries under their hashes, from a.buf.hashes. Those with the same
// hash share an item.
func (a *assembler) grouped(p *packer, ino disk.ObjectID, typ disk.KeyType, entry func(k int, b []byte) []byte) error {
	hs := a.buf.hashes
	slices.SortFunc(hs, func(x, y hashed) int { return cmp.Or(cmp.Compare(x.hash, y.hash), cmp.Compare(x.n, y.n)) })
	for k := 0; k < len(hs); {
		h := hs[k].hash
		b := a.buf.data[:0]
		for ; k < len(hs) && hs[k].hash == h; k++ {
			b = entry(hs[k].n, b)
		}
		a.buf.data = b
		if len(b) > p.format.maxItem() {
			return fmt.Errorf("names with the same hash %#x need %d bytes, at most %d fit", h, len(b), p.format.maxItem())
		}
		if err := p.addBytes(disk.Key{ObjectID: ino, Type: typ, Offset: h}, b); err != nil {
			return err
		}
	}
	return nil
}

func (a *assembler) xattrItems(p *packer, ino disk.ObjectID, xs []xattr) error {
	if len(xs) == 0 {
		return nil
	}
	const header = 30
	hs := a.buf.hashes[:0]
	for k, x := range xs {
		if len(x.name) > disk.MaxNameLen || len(x.name)+len(x.value)+header > p.format.maxItem() {
			return fmt.Errorf("attribute %s of %d bytes, at most %d fit", x.name, len(x.value), p.format.maxItem()-header-len(x.name))
		}
		hs = append(hs, hashed{uint64(csum.NameHash([]byte(x.name))), k})
	}
	a.buf.hashes = hs
	return a.grouped(p, ino, disk.KeyXattrItem, func(k int, b []byte) []byte {
		d := disk.DirItem{TransID: generation, Type: disk.FtXattr, Name: []byte(xs[k].name), Data: xs[k].value}
		return d.Append(b)
	})
}

// dirItems packs a directory's entries, once by hash and once by index.
func (a *assembler) dirItems(p *packer, ino disk.ObjectID, subvols []*subvolume, id inodeID) error {
	kids := a.t.kidsOf(id)
	hs := a.buf.hashes[:0]
	for k, n := range kids {
		hs = append(hs, hashed{uint64(csum.NameHash([]byte(a.t.names[n].text))), k})
	}
	a.buf.hashes = hs
	entry := func(k int, b []byte) []byte {
		n := &a.t.names[kids[k]]
		d := disk.DirItem{TransID: generation, Name: []byte(n.text), Type: disk.FileType(a.t.inodes[n.inode].mode)}
		if n.subvol != 0 {
			d.Location = disk.Key{ObjectID: subvols[n.subvol].id, Type: disk.KeyRootItem, Offset: 1<<64 - 1}
		} else {
			d.Location = disk.Key{ObjectID: a.t.ino(n.inode), Type: disk.KeyInodeItem}
		}
		return d.Append(b)
	}
	if err := a.grouped(p, ino, disk.KeyDirItem, entry); err != nil {
		return err
	}
	for k := range kids {
		a.buf.data = entry(k, a.buf.data[:0])
		if err := p.addBytes(disk.Key{ObjectID: ino, Type: disk.KeyDirIndex, Offset: uint64(k) + firstIndex}, a.buf.data); err != nil {
			return err
		}
	}
	return nil
}

// inlineItem packs contents that stand in the tree.
func inlineItem(p *packer, ino disk.ObjectID, data []byte, ram int, comp disk.Compression) error {
	b, err := p.add(disk.Key{ObjectID: ino, Type: disk.KeyExtentData}, disk.FileExtentInlineHeader+len(data))
	if err != nil {
		return err
	}
	e := disk.FileExtent{Generation: generation, RAMBytes: uint64(ram), Compression: comp, Type: disk.FileExtentInline, Inline: data}
	e.Append(b[:0])
	return nil
}

// fileExtents packs the places of a regular file's contents, and its holes where
// the format wants them.
func (a *assembler) fileExtents(p *packer, ino disk.ObjectID, i *inode, extents []extent) error {
	at := uint64(0)
	add := func(e disk.FileExtent) error {
		b, err := p.add(disk.Key{ObjectID: ino, Type: disk.KeyExtentData, Offset: at}, disk.FileExtentSize)
		if err != nil {
			return err
		}
		e.Generation, e.Type = generation, disk.FileExtentRegular
		e.Append(b[:0])
		at += e.NumBytes
		return nil
	}
	holeTo := func(end uint64) error {
		if at >= end || a.plan.features.noHoles() {
			at = max(at, end)
			return nil
		}
		return add(disk.FileExtent{RAMBytes: end - at, NumBytes: end - at})
	}
	for k := range extents {
		e := &extents[k]
		if err := holeTo(e.file); err != nil {
			return err
		}
		err := add(disk.FileExtent{
			RAMBytes: uint64(e.ram), Compression: e.comp, DiskBytenr: e.at, DiskNumBytes: uint64(e.n), NumBytes: uint64(e.ram),
		})
		if err != nil {
			return err
		}
	}
	if i.isRegular() {
		return holeTo(roundUp(uint64(i.size), sectorSize))
	}
	return nil
}
