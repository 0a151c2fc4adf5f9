package disk

// sizeError is the error of an item with the wrong size.
func sizeError(what string, got, want int) error {
	return formatErrorf("%s of %d bytes, want %d", what, got, want)
}

// Time is a point in time as it stands on disk.
type Time struct {
	Sec  int64
	Nsec uint32
}

func parseTime(b []byte) Time { return Time{int64(le.Uint64(b)), le.Uint32(b[8:])} }

func (t Time) append(b []byte) []byte {
	return le.AppendUint32(le.AppendUint64(b, uint64(t.Sec)), t.Nsec)
}

// Inode flags (struct btrfs_inode_item.flags); the upper half of the word
// holds the read-only compatible flags (verity).
const (
	InodeNoDataSum   uint64 = 1 << 0
	InodeNoDataCow   uint64 = 1 << 1
	InodeReadOnly    uint64 = 1 << 2
	InodeNoCompress  uint64 = 1 << 3
	InodePrealloc    uint64 = 1 << 4
	InodeSync        uint64 = 1 << 5
	InodeImmutable   uint64 = 1 << 6
	InodeAppend      uint64 = 1 << 7
	InodeNoDump      uint64 = 1 << 8
	InodeNoAtime     uint64 = 1 << 9
	InodeDirSync     uint64 = 1 << 10
	InodeCompress    uint64 = 1 << 11
	InodeRootItemIni uint64 = 1 << 31 // BTRFS_INODE_ROOT_ITEM_INIT
	InodeROVerity    uint64 = 1 << 32
)

// InodeItemSize is the size of an inode item in bytes.
const InodeItemSize = 160

// InodeItem is an inode; key (inode, INODE_ITEM, 0).
type InodeItem struct {
	Generation TransID // transaction of creation
	TransID    TransID // transaction of the last change
	Size       uint64
	NBytes     uint64 // bytes of file extents, holes excluded
	BlockGroup uint64 // v1 free-space cache hint; else 0
	Nlink      uint32
	UID, GID   uint32
	Mode       uint32 // st_mode, type bits included
	Rdev       uint64 // device number, see SplitRdev
	Flags      uint64
	Sequence   uint64
	Atime      Time
	Ctime      Time
	Mtime      Time
	Otime      Time // birth
}

// ParseInodeItem decodes an inode item.
func ParseInodeItem(b []byte) (InodeItem, error) {
	if len(b) != InodeItemSize {
		return InodeItem{}, sizeError("inode item", len(b), InodeItemSize)
	}
	return InodeItem{
		Generation: TransID(le.Uint64(b)), TransID: TransID(le.Uint64(b[8:])), Size: le.Uint64(b[16:]),
		NBytes: le.Uint64(b[24:]), BlockGroup: le.Uint64(b[32:]), Nlink: le.Uint32(b[40:]),
		UID: le.Uint32(b[44:]), GID: le.Uint32(b[48:]), Mode: le.Uint32(b[52:]),
		Rdev: le.Uint64(b[56:]), Flags: le.Uint64(b[64:]), Sequence: le.Uint64(b[72:]),
		// four reserved words
		Atime: parseTime(b[112:]), Ctime: parseTime(b[124:]), Mtime: parseTime(b[136:]), Otime: parseTime(b[148:]),
	}, nil
}

// Append appends the item's bytes.
func (i *InodeItem) Append(b []byte) []byte {
	for _, v := range [...]uint64{uint64(i.Generation), uint64(i.TransID), i.Size, i.NBytes, i.BlockGroup} {
		b = le.AppendUint64(b, v)
	}
	for _, v := range [...]uint32{i.Nlink, i.UID, i.GID, i.Mode} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range [...]uint64{i.Rdev, i.Flags, i.Sequence, 0, 0, 0, 0} {
		b = le.AppendUint64(b, v)
	}
	return i.Otime.append(i.Mtime.append(i.Ctime.append(i.Atime.append(b))))
}

// SplitRdev splits a device number as it stands on disk: the kernel's own
// dev_t, 12 bits of major above 20 bits of minor (MKDEV in linux/kdev_t.h).
func SplitRdev(rdev uint64) (major, minor uint32) {
	return uint32(rdev >> 20), uint32(rdev & 0xfffff)
}

// JoinRdev is the inverse of SplitRdev.
func JoinRdev(major, minor uint32) uint64 {
	return uint64(major)<<20 | uint64(minor&0xfffff)
}

// InodeRef is one name of an inode; several stand one behind the other in an
// item with key (inode, INODE_REF, parent).
type InodeRef struct {
	Index uint64 // the name's DIR_INDEX offset in the parent
	Name  []byte // aliases the input
}

// ParseInodeRef decodes the first name in b and returns what follows it.
func ParseInodeRef(b []byte) (ref InodeRef, rest []byte, err error) {
	if len(b) < 10 {
		return ref, nil, sizeError("inode ref", len(b), 11)
	}
	n := int(le.Uint16(b[8:]))
	if len(b) < 10+n {
		return ref, nil, formatErrorf("inode ref: name of %d bytes in %d", n, len(b)-10)
	}
	return InodeRef{le.Uint64(b), b[10 : 10+n : 10+n]}, b[10+n:], nil
}

// Append appends the name's bytes.
func (r InodeRef) Append(b []byte) []byte {
	b = le.AppendUint64(b, r.Index)
	b = le.AppendUint16(b, uint16(len(r.Name)))
	return append(b, r.Name...)
}

// InodeExtref is one name of an inode in an item with key (inode,
// INODE_EXTREF, hash of parent and name).
type InodeExtref struct {
	Parent ObjectID
	Index  uint64
	Name   []byte // aliases the input
}

// ParseInodeExtref decodes the first name in b and returns what follows it.
func ParseInodeExtref(b []byte) (ref InodeExtref, rest []byte, err error) {
	if len(b) < 18 {
		return ref, nil, sizeError("inode extref", len(b), 19)
	}
	n := int(le.Uint16(b[16:]))
	if len(b) < 18+n {
		return ref, nil, formatErrorf("inode extref: name of %d bytes in %d", n, len(b)-18)
	}
	return InodeExtref{ObjectID(le.Uint64(b)), le.Uint64(b[8:]), b[18 : 18+n : 18+n]}, b[18+n:], nil
}

// Append appends the name's bytes.
func (r InodeExtref) Append(b []byte) []byte {
	b = le.AppendUint64(b, uint64(r.Parent))
	b = le.AppendUint64(b, r.Index)
	b = le.AppendUint16(b, uint16(len(r.Name)))
	return append(b, r.Name...)
}

// File types of directory entries.
const (
	FtUnknown uint8 = 0
	FtRegFile uint8 = 1
	FtDir     uint8 = 2
	FtChrdev  uint8 = 3
	FtBlkdev  uint8 = 4
	FtFifo    uint8 = 5
	FtSock    uint8 = 6
	FtSymlink uint8 = 7
	FtXattr   uint8 = 8
	FtMax     uint8 = 9
	// FtEncrypted is or'ed to the type with the (refused) encrypt feature.
	FtEncrypted uint8 = 0x80
)

// FileType is the directory entry type of an inode with this st_mode.
func FileType(mode uint32) uint8 {
	switch mode & 0o170000 {
	case 0o100000:
		return FtRegFile
	case 0o040000:
		return FtDir
	case 0o020000:
		return FtChrdev
	case 0o060000:
		return FtBlkdev
	case 0o010000:
		return FtFifo
	case 0o140000:
		return FtSock
	case 0o120000:
		return FtSymlink
	}
	return FtUnknown
}

// MaxNameLen is the longest name in bytes.
const MaxNameLen = 255

const dirItemHeader = 30

// DirItem is a directory entry (DIR_ITEM, DIR_INDEX) or an extended attribute
// (XATTR_ITEM, whose value is Data). Entries whose names share a hash stand
// one behind the other in one DIR_ITEM or XATTR_ITEM.
type DirItem struct {
	Location Key // of the inode, or of the subvolume's root
	TransID  TransID
	Type     uint8
	Name     []byte // aliases the input
	Data     []byte // aliases the input
}

// ParseDirItem decodes the first entry in b and returns what follows it.
func ParseDirItem(b []byte) (d DirItem, rest []byte, err error) {
	if len(b) < dirItemHeader {
		return d, nil, sizeError("directory item", len(b), dirItemHeader)
	}
	dn, nn := int(le.Uint16(b[25:])), int(le.Uint16(b[27:]))
	end := dirItemHeader + nn + dn
	if len(b) < end {
		return d, nil, formatErrorf("directory item: name of %d and data of %d bytes in %d", nn, dn, len(b)-dirItemHeader)
	}
	return DirItem{
		Location: ParseKey(b), TransID: TransID(le.Uint64(b[17:])), Type: b[29],
		Name: b[dirItemHeader : dirItemHeader+nn : dirItemHeader+nn],
		Data: b[dirItemHeader+nn : end : end],
	}, b[end:], nil
}

// Append appends the entry's bytes.
func (d *DirItem) Append(b []byte) []byte {
	b = d.Location.Append(b)
	b = le.AppendUint64(b, uint64(d.TransID))
	b = le.AppendUint16(b, uint16(len(d.Data)))
	b = le.AppendUint16(b, uint16(len(d.Name)))
	b = append(b, d.Type)
	b = append(b, d.Name...)
	return append(b, d.Data...)
}

// ParseDirLog decodes a DIR_LOG_INDEX item of a log tree: the log is complete
// for the directory indexes from key.Offset to the result, both included.
func ParseDirLog(b []byte) (end uint64, err error) {
	if len(b) != 8 {
		return 0, sizeError("directory log item", len(b), 8)
	}
	return le.Uint64(b), nil
}

// ParseVerityDesc decodes the item (inode, VERITY_DESC, 0): the size and the
// encryption of the fs-verity descriptor whose bytes follow at offsets from 1.
func ParseVerityDesc(b []byte) (size uint64, encryption uint8, err error) {
	if len(b) != 25 {
		return 0, 0, sizeError("verity descriptor item", len(b), 25)
	}
	return le.Uint64(b), b[24], nil
}
