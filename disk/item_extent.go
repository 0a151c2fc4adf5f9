package disk

// Flags of extent items.
const (
	ExtentFlagData        uint64 = 1 << 0
	ExtentFlagTreeBlock   uint64 = 1 << 1
	ExtentFlagFullBackref uint64 = 1 << 8
)

const (
	extentItemSize    = 24
	treeBlockInfoSize = 18
)

// ExtentItem is the fixed part of an extent item: key (logical, EXTENT_ITEM,
// length) or, with skinny metadata, (logical, METADATA_ITEM, level).
type ExtentItem struct {
	Refs       uint64
	Generation TransID
	Flags      uint64
}

// ParseExtentItem decodes the fixed part.
func ParseExtentItem(b []byte) (ExtentItem, error) {
	if len(b) < extentItemSize {
		return ExtentItem{}, sizeError("extent item", len(b), extentItemSize)
	}
	return ExtentItem{le.Uint64(b), TransID(le.Uint64(b[8:])), le.Uint64(b[16:])}, nil
}

// Append appends the fixed part's bytes.
func (e ExtentItem) Append(b []byte) []byte {
	b = le.AppendUint64(b, e.Refs)
	b = le.AppendUint64(b, uint64(e.Generation))
	return le.AppendUint64(b, e.Flags)
}

// ExtentRef is one back reference, inline or from an item of its own.
//
//	Type               Root, ObjectID, Offset                    Parent
//	TREE_BLOCK_REF     Root                                      -
//	SHARED_BLOCK_REF   -                                         parent node
//	EXTENT_DATA_REF    Root, inode, file offset - extent offset  -
//	SHARED_DATA_REF    -                                         parent leaf
//	EXTENT_OWNER_REF   Root                                      -
type ExtentRef struct {
	Type     KeyType
	Root     ObjectID
	ObjectID ObjectID
	Offset   uint64
	Parent   Logical
	Count    uint32
}

// InlineRefSize is the size of an inline reference of type t, its type byte
// included; 0 if there is no such inline reference.
func InlineRefSize(t KeyType) int {
	switch t {
	case KeyTreeBlockRef, KeySharedBlockRef, KeyExtentOwnerRef:
		return 9
	case KeyExtentDataRef:
		return 29
	case KeySharedDataRef:
		return 13
	}
	return 0
}

// ParseInlineRef decodes the inline reference at the start of b and returns
// its size. It does not allocate.
func ParseInlineRef(b []byte) (ref ExtentRef, size int, err error) {
	if len(b) == 0 {
		return ref, 0, formatErrorf("no room for an inline reference")
	}
	t := KeyType(b[0])
	size = InlineRefSize(t)
	if size == 0 {
		return ref, 0, formatErrorf("inline reference of unknown type %d", t)
	}
	if len(b) < size {
		return ref, 0, sizeError("inline reference", len(b), size)
	}
	ref = ExtentRef{Type: t, Count: 1}
	switch t {
	case KeyTreeBlockRef, KeyExtentOwnerRef:
		ref.Root = ObjectID(le.Uint64(b[1:]))
	case KeySharedBlockRef:
		ref.Parent = Logical(le.Uint64(b[1:]))
	case KeyExtentDataRef:
		ref.Root, ref.ObjectID = ObjectID(le.Uint64(b[1:])), ObjectID(le.Uint64(b[9:]))
		ref.Offset, ref.Count = le.Uint64(b[17:]), le.Uint32(b[25:])
	case KeySharedDataRef:
		ref.Parent, ref.Count = Logical(le.Uint64(b[1:])), le.Uint32(b[9:])
	}
	return ref, size, nil
}

// AppendInline appends the reference in its inline form.
func (r *ExtentRef) AppendInline(b []byte) []byte {
	b = append(b, byte(r.Type))
	switch r.Type {
	case KeyTreeBlockRef, KeyExtentOwnerRef:
		return le.AppendUint64(b, uint64(r.Root))
	case KeySharedBlockRef:
		return le.AppendUint64(b, uint64(r.Parent))
	case KeySharedDataRef:
		b = le.AppendUint64(b, uint64(r.Parent))
		return le.AppendUint32(b, r.Count)
	}
	return r.appendDataRef(b)
}

func (r *ExtentRef) appendDataRef(b []byte) []byte {
	b = le.AppendUint64(b, uint64(r.Root))
	b = le.AppendUint64(b, uint64(r.ObjectID))
	b = le.AppendUint64(b, r.Offset)
	return le.AppendUint32(b, r.Count)
}

// ParseKeyedRef decodes a reference that stands as an item of its own.
func ParseKeyedRef(k Key, b []byte) (ExtentRef, error) {
	r := ExtentRef{Type: k.Type, Count: 1}
	want := 0
	switch k.Type {
	case KeyTreeBlockRef:
		r.Root = ObjectID(k.Offset)
	case KeySharedBlockRef:
		r.Parent = Logical(k.Offset)
	case KeySharedDataRef:
		want = 4
	case KeyExtentDataRef:
		want = 28
	default:
		return r, formatErrorf("key %v is no extent reference", k)
	}
	if len(b) != want {
		return r, sizeError("extent reference", len(b), want)
	}
	switch k.Type {
	case KeySharedDataRef:
		r.Parent, r.Count = Logical(k.Offset), le.Uint32(b)
	case KeyExtentDataRef:
		r.Root, r.ObjectID = ObjectID(le.Uint64(b)), ObjectID(le.Uint64(b[8:]))
		r.Offset, r.Count = le.Uint64(b[16:]), le.Uint32(b[24:])
	}
	return r, nil
}

// AppendKeyed appends the data of the item form; its key is (extent, r.Type,
// root, parent or hash).
func (r *ExtentRef) AppendKeyed(b []byte) []byte {
	switch r.Type {
	case KeySharedDataRef:
		return le.AppendUint32(b, r.Count)
	case KeyExtentDataRef:
		return r.appendDataRef(b)
	}
	return b
}

// TreeBlockInfo follows the fixed part of a tree block's EXTENT_ITEM on
// filesystems without skinny metadata.
type TreeBlockInfo struct {
	FirstKey Key
	Level    uint8
}

// ParseTreeBlockInfo decodes the first 18 bytes of b.
func ParseTreeBlockInfo(b []byte) (TreeBlockInfo, error) {
	if len(b) < treeBlockInfoSize {
		return TreeBlockInfo{}, sizeError("tree block info", len(b), treeBlockInfoSize)
	}
	return TreeBlockInfo{ParseKey(b), b[KeySize]}, nil
}

// Append appends the bytes.
func (t TreeBlockInfo) Append(b []byte) []byte { return append(t.FirstKey.Append(b), t.Level) }

// InlineRefs is the part of an extent item that holds inline references: what
// follows the fixed part and, on non-skinny tree blocks, the tree block info.
func InlineRefs(k Key, item []byte) ([]byte, error) {
	e, err := ParseExtentItem(item)
	if err != nil {
		return nil, err
	}
	rest := item[extentItemSize:]
	if k.Type == KeyExtentItem && e.Flags&ExtentFlagTreeBlock != 0 {
		if len(rest) < treeBlockInfoSize {
			return nil, sizeError("tree block info", len(rest), treeBlockInfoSize)
		}
		rest = rest[treeBlockInfoSize:]
	}
	return rest, nil
}

// FileExtentType is the kind of a file extent.
type FileExtentType uint8

// Kinds of file extents.
const (
	FileExtentInline   FileExtentType = 0
	FileExtentRegular  FileExtentType = 1
	FileExtentPrealloc FileExtentType = 2
)

// FileExtentInlineHeader is the number of bytes before the contents of an
// inline extent; FileExtentSize the size of the other kinds.
const (
	FileExtentInlineHeader = 21
	FileExtentSize         = 53
)

// FileExtent says where a range of a file is; key (inode, EXTENT_DATA, file
// offset).
type FileExtent struct {
	Generation    TransID
	RAMBytes      uint64 // length when decompressed
	Compression   Compression
	Encryption    uint8  // always 0
	OtherEncoding uint16 // always 0
	Type          FileExtentType
	// The rest is not there for inline extents.
	DiskBytenr   Logical // 0: a hole
	DiskNumBytes uint64  // length on disk (compressed)
	Offset       uint64  // where in the decompressed extent the range starts
	NumBytes     uint64  // length of the file's range
	// Inline holds the contents of an inline extent; it aliases the input.
	Inline []byte
}

// ParseFileExtent decodes a file extent item.
func ParseFileExtent(b []byte) (FileExtent, error) {
	if len(b) < FileExtentInlineHeader {
		return FileExtent{}, sizeError("file extent", len(b), FileExtentInlineHeader)
	}
	f := FileExtent{
		Generation: TransID(le.Uint64(b)), RAMBytes: le.Uint64(b[8:]), Compression: Compression(b[16]),
		Encryption: b[17], OtherEncoding: le.Uint16(b[18:]), Type: FileExtentType(b[20]),
	}
	if f.Type == FileExtentInline {
		f.Inline = b[FileExtentInlineHeader:len(b):len(b)]
		return f, nil
	}
	if len(b) != FileExtentSize {
		return f, sizeError("file extent", len(b), FileExtentSize)
	}
	f.DiskBytenr, f.DiskNumBytes = Logical(le.Uint64(b[21:])), le.Uint64(b[29:])
	f.Offset, f.NumBytes = le.Uint64(b[37:]), le.Uint64(b[45:])
	return f, nil
}

// IsHole says whether the range reads as zeros because nothing is there.
func (f *FileExtent) IsHole() bool { return f.Type != FileExtentInline && f.DiskBytenr == 0 }

// Append appends the item's bytes.
func (f *FileExtent) Append(b []byte) []byte {
	b = le.AppendUint64(b, uint64(f.Generation))
	b = le.AppendUint64(b, f.RAMBytes)
	b = append(b, byte(f.Compression), f.Encryption)
	b = le.AppendUint16(b, f.OtherEncoding)
	b = append(b, byte(f.Type))
	if f.Type == FileExtentInline {
		return append(b, f.Inline...)
	}
	for _, v := range [...]uint64{uint64(f.DiskBytenr), f.DiskNumBytes, f.Offset, f.NumBytes} {
		b = le.AppendUint64(b, v)
	}
	return b
}
