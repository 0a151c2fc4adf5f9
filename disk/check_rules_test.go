package disk

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// testItem is an item to build a leaf of.
type testItem struct {
	key  Key
	data []byte
}

var testGeometry = Geometry{
	NodeSize: 4096, SectorSize: 4096, Generation: 100, CsumType: CsumCRC32C,
	IncompatFlags: IncompatMixedBackref | IncompatSkinnyMetadata | IncompatNoHoles,
}

// buildLeaf makes a leaf of the items, which must be in order.
func buildLeaf(owner ObjectID, items ...testItem) Node {
	n := Node(make([]byte, testGeometry.NodeSize))
	n.InitHeader(1<<20, UUID{1}, UUID{2}, 50, owner, 0)
	end := LeafDataSize(len(n))
	for i, it := range items {
		end -= len(it.data)
		copy(n[HeaderSize+end:], it.data)
		n.SetItem(i, it.key, end, len(it.data))
	}
	n.SetNrItems(len(items))
	return n
}

// edit is a change to an item's bytes.
type edit func(b []byte) []byte

func put8(at int, v uint8) edit {
	return func(b []byte) []byte { b[at] = v; return b }
}

func put16(at int, v uint16) edit {
	return func(b []byte) []byte { le.PutUint16(b[at:], v); return b }
}

func put32(at int, v uint32) edit {
	return func(b []byte) []byte { le.PutUint32(b[at:], v); return b }
}

func put64(at int, v uint64) edit {
	return func(b []byte) []byte { le.PutUint64(b[at:], v); return b }
}

func cut(n int) edit { return func(b []byte) []byte { return b[:len(b)-n] } }

func grow(n int) edit { return func(b []byte) []byte { return append(b, make([]byte, n)...) } }

func apply(b []byte, edits ...edit) []byte {
	b = bytes.Clone(b)
	for _, e := range edits {
		b = e(b)
	}
	return b
}

// Good items, for the tests to spoil.

func goodInode() []byte {
	return (&InodeItem{Generation: 7, TransID: 8, Nlink: 1, Mode: 0o100644}).Append(nil)
}

func goodDirItem(name string) DirItem {
	return DirItem{Location: Key{257, KeyInodeItem, 0}, TransID: 7, Type: FtRegFile, Name: []byte(name)}
}

func dirItem(name string, change func(d *DirItem)) []byte {
	d := goodDirItem(name)
	if change != nil {
		change(&d)
	}
	return d.Append(nil)
}

func xattr(change func(d *DirItem)) []byte {
	d := DirItem{Type: FtXattr, Name: []byte("user.a"), Data: []byte("value")}
	if change != nil {
		change(&d)
	}
	return d.Append(nil)
}

func goodExtent() []byte {
	return (&FileExtent{Generation: 7, Type: FileExtentRegular, RAMBytes: 8192, DiskBytenr: 1 << 20, DiskNumBytes: 8192, NumBytes: 8192}).Append(nil)
}

func goodInline(s string) []byte {
	return (&FileExtent{Generation: 7, RAMBytes: uint64(len(s)), Inline: []byte(s)}).Append(nil)
}

func goodRoot() []byte {
	return (&RootItem{Generation: 9, GenerationV2: 9, Bytenr: 1 << 20, Refs: 1}).Append(nil)
}

func goodChunk(t BlockGroupFlags, stripes int) []byte {
	c := Chunk{Length: 1 << 30, Owner: TreeExtent, StripeLen: StripeLen, Type: t, SectorSize: 4096, SubStripes: 1, Stripes: make([]Stripe, stripes)}
	if t&BlockGroupRAID10 != 0 {
		c.SubStripes = 2
	}
	return c.Append(nil)
}

func goodGroup() []byte {
	return (&BlockGroupItem{Used: 4096, ChunkObjectID: FirstChunkTree, Flags: BlockGroupData}).Append(nil)
}

func goodDevExtent() []byte {
	return (&DevExtent{ChunkTree: TreeChunk, ChunkObjectID: FirstChunkTree, ChunkOffset: 1 << 20, Length: 1 << 30}).Append(nil)
}

func goodDevItem() []byte {
	return (&DevItem{DevID: 1, TotalBytes: 1 << 40, BytesUsed: 1 << 30, SectorSize: 4096}).Append(nil)
}

// extentItem makes an extent item with inline references.
func extentItem(refs, flags uint64, info *TreeBlockInfo, inline ...ExtentRef) []byte {
	b := ExtentItem{Refs: refs, Generation: 7, Flags: flags}.Append(nil)
	if info != nil {
		b = info.Append(b)
	}
	for i := range inline {
		b = inline[i].AppendInline(b)
	}
	return b
}

func dataRef(ino ObjectID, count uint32) ExtentRef {
	return ExtentRef{Type: KeyExtentDataRef, Root: TreeFS, ObjectID: ino, Offset: 4096, Count: count}
}

// inOrder is two data references in the order of their hashes, or the other way.
func inOrder(right bool) []ExtentRef {
	a, b := dataRef(257, 1), dataRef(258, 1)
	if (DataRefHash(a.Root, a.ObjectID, a.Offset) > DataRefHash(b.Root, b.ObjectID, b.Offset)) != right {
		a, b = b, a
	}
	return []ExtentRef{a, b}
}

type rule struct {
	name  string
	owner ObjectID // 0: a subvolume
	items []testItem
	want  string // part of the error; "" for a good leaf
}

func one(k Key, data []byte) []testItem { return []testItem{{k, data}} }

func two(k1 Key, d1 []byte, k2 Key, d2 []byte) []testItem { return []testItem{{k1, d1}, {k2, d2}} }

func inodeRules() []rule {
	inode := Key{257, KeyInodeItem, 0}
	ref := InodeRef{Index: 2, Name: []byte("name")}.Append(nil)
	extref := InodeExtref{Parent: 256, Index: 2, Name: []byte("name")}.Append(nil)
	var rules []rule
	for mode, want := range map[uint32]string{
		0o100644: "", 0o040755: "", 0o120777: "", 0o020600: "", 0o060600: "", 0o010600: "", 0o140755: "", 0o104755: "", 0o041777: "",
		0o644: "mode", 0o030644: "mode", 0o110644: "mode", 0o170644: "mode", 0o1100644: "mode", 0o200644: "mode",
	} {
		rules = append(rules, rule{fmt.Sprintf("inode with mode %o", mode), 0, one(inode, apply(goodInode(), put32(52, mode))), want})
	}
	return append(rules, []rule{
		{"inode", 0, one(inode, goodInode()), ""},
		{"inode 255", 0, one(Key{255, KeyInodeItem, 0}, goodInode()), "key objectid 255"},
		{"inode 2^64-1", 0, one(Key{1<<64 - 1, KeyInodeItem, 0}, goodInode()), "key objectid"},
		{"inode of the root tree's directory", TreeRoot, one(Key{RootTreeDir, KeyInodeItem, 0}, goodInode()), ""},
		{"inode of the inode cache", 0, one(Key{FreeInoObjectID, KeyInodeItem, 0}, goodInode()), ""},
		{"inode with an offset", 0, one(Key{257, KeyInodeItem, 1}, goodInode()), "key offset 1, want 0"},
		{"short inode", 0, one(inode, apply(goodInode(), cut(1))), "item size 159, want 160"},
		{"long inode", 0, one(inode, apply(goodInode(), grow(1))), "item size 161, want 160"},
		{"inode of the running transaction", 0, one(inode, apply(goodInode(), put64(0, 101))), ""},
		{"inode of the future", 0, one(inode, apply(goodInode(), put64(0, 102))), "generation 102, want at most 101"},
		{"inode changed in the future", 0, one(inode, apply(goodInode(), put64(8, 102))), "transid 102"},
		{"directory with two links", 0, one(inode, apply(goodInode(), put32(52, 0o040755), put32(40, 2))), "nlink 2"},
		{"all inode flags", 0, one(inode, apply(goodInode(), put64(64, 0x80000fff))), ""},
		{"unknown inode flag", 0, one(inode, apply(goodInode(), put64(64, 0x1000))), "flags 0x1000"},
		{"unknown flag for readers", 0, one(inode, apply(goodInode(), put64(64, 2<<32))), ""},
		{"verity flag", 0, one(inode, apply(goodInode(), put64(64, 1<<32))), ""},

		{"ref", 0, two(inode, goodInode(), Key{257, KeyInodeRef, 256}, ref), ""},
		{"two refs", 0, two(inode, goodInode(), Key{257, KeyInodeRef, 256}, append(bytes.Clone(ref), ref...)), ""},
		{"ref without its inode", 0, two(inode, goodInode(), Key{258, KeyInodeRef, 256}, ref), "slot before 257, want 258"},
		{"ref without its inode in a log", TreeLog, two(inode, goodInode(), Key{258, KeyInodeRef, 256}, ref), ""},
		{"empty ref", 0, one(Key{257, KeyInodeRef, 256}, nil), "item size 0"},
		{"ref without a name", 0, one(Key{257, KeyInodeRef, 256}, apply(ref, put16(8, 0), cut(4))), "name_len 0"},
		{"ref with a name too long", 0, one(Key{257, KeyInodeRef, 256}, apply(ref, put16(8, 5))), "reaches behind"},
		{"ref with half a header", 0, one(Key{257, KeyInodeRef, 256}, append(bytes.Clone(ref), 1, 2, 3)), "entry at byte 14 of 17"},
		{"extref", 0, one(Key{257, KeyInodeExtref, 5}, extref), ""},
		{"empty extref", 0, one(Key{257, KeyInodeExtref, 5}, nil), "item size 0"},
		{"extref with a name too long", 0, one(Key{257, KeyInodeExtref, 5}, apply(extref, put16(16, 5))), "reaches behind"},
		{"extref without a name", 0, one(Key{257, KeyInodeExtref, 5}, apply(extref, put16(16, 0), cut(4))), "name_len 0"},
		{"extref without its inode", 0, two(inode, goodInode(), Key{258, KeyInodeExtref, 5}, extref), "slot before"},
	}...)
}

func dirRules() []rule {
	at := func(name string) Key { return Key{256, KeyDirItem, uint64(NameHash([]byte(name)))} }
	index := Key{256, KeyDirIndex, 2}
	xkey := Key{257, KeyXattrItem, uint64(NameHash([]byte("user.a")))}
	loc := func(k Key) func(*DirItem) { return func(d *DirItem) { d.Location = k } }
	typ := func(t uint8) func(*DirItem) { return func(d *DirItem) { d.Type = t } }
	long := strings.Repeat("n", 256)
	return []rule{
		{"dir item", 0, one(at("a"), dirItem("a", nil)), ""},
		{"dir index", 0, one(index, dirItem("a", nil)), ""},
		{"two entries", 0, one(at("a"), append(dirItem("a", nil), dirItem("a", nil)...)), ""},
		{"dir item with the hash of another name", 0, one(at("b"), dirItem("a", nil)), "name hash"},
		{"dir index of any name", 0, one(index, dirItem("b", nil)), ""},
		{"second name with another hash", 0, one(at("a"), append(dirItem("a", nil), dirItem("b", nil)...)), "name hash"},
		{"name of 255 bytes", 0, one(index, dirItem(long[:255], nil)), ""},
		{"name of 256 bytes", 0, one(index, dirItem(long, nil)), "name_len 256"},
		{"short dir item", 0, one(index, dirItem("a", nil)[:29]), "entry at byte 0 of 29"},
		{"dir item whose name is cut off", 0, one(index, apply(dirItem("abc", nil), cut(1))), "reaches behind"},
		{"dir item with data", 0, one(index, dirItem("a", func(d *DirItem) { d.Data = []byte{1} })), "data_len 1, want 0"},
		{"dir item of type 0", 0, one(index, dirItem("a", typ(0))), "type 0"},
		{"dir item of type 9", 0, one(index, dirItem("a", typ(9))), "type 9"},
		{"encrypted dir item", 0, one(index, dirItem("a", typ(FtRegFile|FtEncrypted))), ""},
		{"dir item of type xattr", 0, one(index, dirItem("a", typ(FtXattr))), "type 8"},
		{"dir item for inode 5", 0, one(index, dirItem("a", loc(Key{5, KeyInodeItem, 0}))), "location (5 INODE_ITEM 0)"},
		{"dir item with an offset", 0, one(index, dirItem("a", loc(Key{257, KeyInodeItem, 1}))), "want offset 0"},
		{"dir item for a subvolume", 0, one(index, dirItem("a", loc(Key{300, KeyRootItem, 1<<64 - 1}))), ""},
		{"dir item for the extent tree", 0, one(index, dirItem("a", loc(Key{2, KeyRootItem, 0}))), "id of a subvolume"},
		{"dir item for a qgroup", 0, one(index, dirItem("a", loc(Key{1<<48 | 5, KeyRootItem, 0}))), "id of a subvolume"},
		{"dir item for an extent", 0, one(index, dirItem("a", loc(Key{257, KeyExtentData, 0}))), "an inode item or a root item"},
		{"dir item without its inode", 0, two(Key{255, KeyOrphanItem, 0}, nil, index, dirItem("a", nil)), "slot before"},
		{"xattr", 0, one(xkey, xattr(nil)), ""},
		{"xattr with a location", 0, one(xkey, xattr(loc(Key{257, KeyInodeItem, 0}))), "zeros in an xattr"},
		{"xattr of type file", 0, one(xkey, xattr(typ(FtRegFile))), "type 1"},
		{"xattr with the hash of another name", 0, one(Key{257, KeyXattrItem, 1}, xattr(nil)), "name hash"},
		{"xattr with a large value", 0, one(xkey, xattr(func(d *DirItem) { d.Data = make([]byte, 3995-25-30-6) })), ""},
		{"xattr with too large a value", 0, one(xkey, func() []byte {
			// The lengths alone: so much data cannot stand in a leaf.
			return apply(xattr(nil), put16(25, 4000))
		}()), "reaches behind"},
	}
}

func extentDataRules() []rule {
	at := func(off uint64) Key { return Key{257, KeyExtentData, off} }
	csum := func(off uint64) Key { return Key{ExtentCsumObjectID, KeyExtentCsum, off} }
	return []rule{
		{"extent", 0, one(at(0), goodExtent()), ""},
		{"extents", 0, two(at(0), goodExtent(), at(8192), goodExtent()), ""},
		{"overlapping extents", 0, two(at(0), goodExtent(), at(4096), goodExtent()), "key offset 4096, want at least 8192"},
		{"extents of two inodes", TreeLog, two(at(0), goodExtent(), Key{258, KeyExtentData, 0}, goodExtent()), ""},
		{"extent without its inode", 0, two(at(0), goodExtent(), Key{258, KeyExtentData, 0}, goodExtent()), "slot before"},
		{"inline, then regular", 0, two(at(0), goodInline("abc"), at(4096), goodExtent()), ""},
		{"long inline, then regular", 0, two(at(0), apply(goodInline("abc"), put64(8, 4097), put8(16, 1)), at(4096), goodExtent()), "at least 8192"},
		{"extent at an odd offset", 0, one(at(100), goodExtent()), "key offset 100, want a multiple of 4096"},
		{"extent of 20 bytes", 0, one(at(0), goodExtent()[:20]), "item size 20"},
		{"extent of 52 bytes", 0, one(at(0), apply(goodExtent(), cut(1))), "item size 52, want 53"},
		{"extent of 54 bytes", 0, one(at(0), apply(goodExtent(), grow(1))), "item size 54, want 53"},
		{"extent of type 3", 0, one(at(0), apply(goodExtent(), put8(20, 3))), "type 3"},
		{"prealloc", 0, one(at(0), apply(goodExtent(), put8(20, 2))), ""},
		{"compression 4", 0, one(at(0), apply(goodExtent(), put8(16, 4))), "compression 4"},
		{"encryption 1", 0, one(at(0), apply(goodExtent(), put8(17, 1))), "encryption 1"},
		{"inline at an offset", 0, one(at(4096), goodInline("abc")), "key offset 4096, want 0"},
		{"inline with wrong ram_bytes", 0, one(at(0), apply(goodInline("abc"), put64(8, 4))), "ram_bytes 4, want 3"},
		{"compressed inline", 0, one(at(0), apply(goodInline("abc"), put64(8, 400), put8(16, 3))), ""},
		{"odd ram_bytes", 0, one(at(0), apply(goodExtent(), put64(8, 1))), "ram_bytes 1"},
		{"odd disk_bytenr", 0, one(at(0), apply(goodExtent(), put64(21, 1))), "disk_bytenr 1"},
		{"odd disk_num_bytes", 0, one(at(0), apply(goodExtent(), put64(29, 1))), "disk_num_bytes 1"},
		{"odd extent offset", 0, one(at(0), apply(goodExtent(), put64(37, 1))), "offset 1"},
		{"odd num_bytes", 0, one(at(0), apply(goodExtent(), put64(45, 1))), "num_bytes 1"},
		{"extent that wraps around", 0, one(at(1<<63), apply(goodExtent(), put64(45, 1<<63))), "num_bytes 9223372036854775808"},
		{"csums", TreeCsum, one(csum(4096), make([]byte, 8)), ""},
		{"csums side by side", TreeCsum, two(csum(0), make([]byte, 8), csum(8192), make([]byte, 4)), ""},
		{"overlapping csums", TreeCsum, two(csum(0), make([]byte, 12), csum(8192), make([]byte, 4)), "key offset 8192, want at least 12288"},
		{"csum of an odd address", TreeCsum, one(csum(1), make([]byte, 4)), "key offset 1"},
		{"half a csum", TreeCsum, one(csum(0), make([]byte, 6)), "item size 6"},
		{"csum of another object", TreeCsum, one(Key{1, KeyExtentCsum, 0}, make([]byte, 4)), "key objectid 1"},
	}
}

func extentRules() []rule {
	data, tree := ExtentFlagData, ExtentFlagTreeBlock
	at := Key{1 << 20, KeyExtentItem, 8192}
	meta := Key{1 << 20, KeyMetadataItem, 1}
	block := Key{1 << 20, KeyExtentItem, 4096}
	treeRef := ExtentRef{Type: KeyTreeBlockRef, Root: 5}
	sharedTree := func(p Logical) ExtentRef { return ExtentRef{Type: KeySharedBlockRef, Parent: p} }
	sharedData := func(p Logical, n uint32) ExtentRef { return ExtentRef{Type: KeySharedDataRef, Parent: p, Count: n} }
	owner := ExtentRef{Type: KeyExtentOwnerRef, Root: 5}
	info := &TreeBlockInfo{FirstKey: Key{1, 1, 1}, Level: 7}
	badInfo := &TreeBlockInfo{Level: 8}
	keyed := func(t KeyType, off uint64) Key { return Key{1 << 20, t, off} }
	ref := dataRef(257, 1)
	keyedData := ref.AppendKeyed(nil)
	rules := []rule{
		{"data extent", TreeExtent, one(at, extentItem(1, data, nil, dataRef(257, 1))), ""},
		{"data extent of v1 cache", TreeExtent, one(at, extentItem(1, data, nil, ExtentRef{Type: KeyExtentDataRef, Root: TreeRoot, ObjectID: 256, Count: 1})), ""},
		{"data extent with owner", TreeExtent, one(at, extentItem(1, data, nil, owner, dataRef(257, 1))), ""},
		{"owner after reference", TreeExtent, one(at, extentItem(1, data, nil, dataRef(257, 1), owner)), "in order"},
		{"tree block", TreeExtent, one(meta, extentItem(1, tree, nil, treeRef)), ""},
		{"fat tree block", TreeExtent, one(block, extentItem(1, tree, info, treeRef)), ""},
		{"fat tree block of level 8", TreeExtent, one(block, extentItem(1, tree, badInfo, treeRef)), "level 8"},
		{"fat tree block without info", TreeExtent, one(block, extentItem(1, tree, nil)), "item size 24"},
		{"tree block of two sectors", TreeExtent, one(at, extentItem(1, tree, info)), "key offset 8192, want 4096"},
		{"tree block of level 8", TreeExtent, one(Key{1 << 20, KeyMetadataItem, 8}, extentItem(1, tree, nil)), "key offset 8"},
		{"data with a metadata key", TreeExtent, one(meta, extentItem(1, data, nil)), "key type"},
		{"data and tree block", TreeExtent, one(at, extentItem(1, data|tree, nil)), "flags 0x3"},
		{"neither", TreeExtent, one(at, extentItem(1, 0, nil)), "flags 0x0"},
		{"data with full backrefs", TreeExtent, one(at, extentItem(1, data|ExtentFlagFullBackref, nil)), "flags 0x101"},
		{"extent at an odd address", TreeExtent, one(Key{5, KeyExtentItem, 4096}, extentItem(1, data, nil)), "key objectid 5"},
		{"extent of odd length", TreeExtent, one(Key{1 << 20, KeyExtentItem, 5}, extentItem(1, data, nil)), "key offset 5"},
		{"extent that wraps around", TreeExtent, one(Key{1 << 63, KeyExtentItem, 1 << 63}, extentItem(1, data, nil)), "key offset"},
		{"short extent", TreeExtent, one(at, extentItem(1, data, nil)[:23]), "item size 23"},
		{"extent of the future", TreeExtent, one(at, apply(extentItem(1, data, nil), put64(8, 102))), "generation 102"},
		{"too few refs", TreeExtent, one(at, extentItem(1, data, nil, dataRef(257, 2))), "refs 1, want at least 2"},
		{"more refs elsewhere", TreeExtent, one(at, extentItem(9, data, nil, dataRef(257, 2))), ""},
		{"unknown inline type", TreeExtent, one(at, append(extentItem(1, data, nil), make([]byte, 9)...)), "inline reference type 0"},
		{"inline reference cut off", TreeExtent, one(at, apply(extentItem(1, data, nil, dataRef(257, 1)), cut(1))), "of 29 bytes in 28"},
		{"padding", TreeExtent, one(meta, apply(extentItem(1, tree, nil, treeRef), grow(1))), "inline reference type 0"},
		{"types out of order", TreeExtent, one(meta, extentItem(2, tree, nil, sharedTree(4096), treeRef)), "in order"},
		{"addresses falling", TreeExtent, one(meta, extentItem(2, tree, nil, sharedTree(8192), sharedTree(4096))), ""},
		{"addresses rising", TreeExtent, one(meta, extentItem(2, tree, nil, sharedTree(4096), sharedTree(8192))), "in order"},
		{"hashes falling", TreeExtent, one(at, extentItem(2, data, nil, inOrder(true)...)), ""},
		{"hashes rising", TreeExtent, one(at, extentItem(2, data, nil, inOrder(false)...)), "in order"},
		{"odd parent of a tree block", TreeExtent, one(meta, extentItem(1, tree, nil, sharedTree(1))), "parent 1"},
		{"odd parent of data", TreeExtent, one(at, extentItem(1, data, nil, sharedData(1, 1))), "parent 1"},
		{"shared data", TreeExtent, one(at, extentItem(1, data, nil, sharedData(4096, 1))), ""},
		{"shared data without a count", TreeExtent, one(at, extentItem(1, data, nil, sharedData(4096, 0))), "reference count 0"},
		{"data reference without a count", TreeExtent, one(at, extentItem(1, data, nil, dataRef(257, 0))), "reference count 0"},
		{"data reference of the chunk tree", TreeExtent, one(at, extentItem(1, data, nil, ExtentRef{Type: KeyExtentDataRef, Root: 3, ObjectID: 257, Count: 1})), "root 3"},
		{"data reference of inode 5", TreeExtent, one(at, extentItem(1, data, nil, dataRef(5, 1))), "objectid 5"},
		{"data reference of an odd offset", TreeExtent, one(at, extentItem(1, data, nil, ExtentRef{Type: KeyExtentDataRef, Root: 5, ObjectID: 257, Offset: 3, Count: 1})), "offset 3"},
		{"extents side by side", TreeExtent, two(at, extentItem(1, data, nil), Key{1<<20 + 8192, KeyExtentItem, 4096}, extentItem(1, data, nil)), ""},
		{"overlapping extents", TreeExtent, two(at, extentItem(1, data, nil), Key{1<<20 + 4096, KeyExtentItem, 4096}, extentItem(1, data, nil)), "end of the extent before"},
		{"data overlapped by a tree block", TreeExtent, two(meta, extentItem(1, tree, nil), Key{1 << 20, KeyMetadataItem, 2}, extentItem(1, tree, nil)), "end of the extent before"},
	}
	return append(rules, []rule{
		{"keyed tree reference", TreeExtent, one(keyed(KeyTreeBlockRef, 5), nil), ""},
		{"keyed tree reference with data", TreeExtent, one(keyed(KeyTreeBlockRef, 5), []byte{1}), "item size 1"},
		{"keyed reference of an odd address", TreeExtent, one(Key{1, KeyTreeBlockRef, 5}, nil), "key objectid 1"},
		{"keyed shared tree reference", TreeExtent, one(keyed(KeySharedBlockRef, 4096), nil), ""},
		{"keyed shared tree reference, odd parent", TreeExtent, one(keyed(KeySharedBlockRef, 5), nil), "key offset 5"},
		{"keyed shared tree reference with data", TreeExtent, one(keyed(KeySharedBlockRef, 4096), []byte{1}), "item size 1"},
		{"keyed shared data reference", TreeExtent, one(keyed(KeySharedDataRef, 4096), []byte{1, 0, 0, 0}), ""},
		{"keyed shared data reference of 3 bytes", TreeExtent, one(keyed(KeySharedDataRef, 4096), []byte{1, 0, 0}), "item size 3"},
		{"keyed shared data reference, odd parent", TreeExtent, one(keyed(KeySharedDataRef, 1), []byte{1, 0, 0, 0}), "key offset 1"},
		{"keyed shared data reference, no count", TreeExtent, one(keyed(KeySharedDataRef, 4096), make([]byte, 4)), "reference count 0"},
		{"keyed data reference", TreeExtent, one(keyed(KeyExtentDataRef, 77), keyedData), ""},
		{"keyed data reference cut off", TreeExtent, one(keyed(KeyExtentDataRef, 77), apply(keyedData, cut(1))), "item size 27"},
		{"keyed data reference of a qgroup", TreeExtent, one(keyed(KeyExtentDataRef, 77), apply(keyedData, put64(0, 1<<48|256))), "root 281474976710912"},
		{"keyed data reference of inode 1", TreeExtent, one(keyed(KeyExtentDataRef, 77), apply(keyedData, put64(8, 1))), "objectid 1"},
		{"keyed data reference, odd offset", TreeExtent, one(keyed(KeyExtentDataRef, 77), apply(keyedData, put64(16, 1))), "offset 1"},
		{"keyed data reference, no count", TreeExtent, one(keyed(KeyExtentDataRef, 77), apply(keyedData, put32(24, 0))), "reference count 0"},
		{"reference of 2007", TreeExtent, one(keyed(KeyExtentRefV0, 5), nil), "key type"},
		{"keyed owner", TreeExtent, one(keyed(KeyExtentOwnerRef, 5), nil), "key type"},
	}...)
}

func treeRules() []rule {
	root, reloc := Key{300, KeyRootItem, 0}, Key{TreeReloc, KeyRootItem, 300}
	rootRef := (&RootRef{DirID: 256, Sequence: 2, Name: []byte("sub")}).Append(nil)
	group := Key{1 << 20, KeyBlockGroupItem, 1 << 30}
	return []rule{
		{"root", TreeRoot, one(root, goodRoot()), ""},
		{"legacy root", TreeRoot, one(root, goodRoot()[:239]), ""},
		{"root of 300 bytes", TreeRoot, one(root, goodRoot()[:300]), "item size 300, want 439 or 239"},
		{"root 0", TreeRoot, one(Key{0, KeyRootItem, 0}, goodRoot()), "key objectid 0"},
		{"relocation root", TreeRoot, one(reloc, goodRoot()), ""},
		{"relocation root of the extent tree", TreeRoot, one(Key{TreeReloc, KeyRootItem, 2}, goodRoot()), "key offset 2"},
		{"root of the future", TreeRoot, one(root, apply(goodRoot(), put64(160, 102))), "generation 102"},
		{"root with generation_v2 of the future", TreeRoot, one(root, apply(goodRoot(), put64(239, 102))), "generation_v2 102"},
		{"root with a snapshot of the future", TreeRoot, one(root, apply(goodRoot(), put64(200, 102))), "last_snapshot 102"},
		{"root at an odd address", TreeRoot, one(root, apply(goodRoot(), put64(176, 1))), "bytenr 1"},
		{"root of level 8", TreeRoot, one(root, apply(goodRoot(), put8(238, 8))), "level 8"},
		{"root of drop level 8", TreeRoot, one(root, apply(goodRoot(), put8(237, 8))), "drop_level 8"},
		{"read-only, dead root", TreeRoot, one(root, apply(goodRoot(), put64(208, 1|1<<48))), ""},
		{"root with an unknown flag", TreeRoot, one(root, apply(goodRoot(), put64(208, 2))), "flags 0x2"},
		{"root ref", TreeRoot, one(Key{5, KeyRootRef, 300}, rootRef), ""},
		{"root backref", TreeRoot, one(Key{300, KeyRootBackref, 5}, rootRef), ""},
		{"root ref without a name", TreeRoot, one(Key{5, KeyRootRef, 300}, rootRef[:18]), "item size 18"},
		{"root ref with a name of 0", TreeRoot, one(Key{5, KeyRootRef, 300}, apply(rootRef, put16(16, 0))), "name_len 0"},
		{"root ref with a name of 256", TreeRoot, one(Key{5, KeyRootRef, 300}, apply(rootRef, put16(16, 256))), "name_len 256"},
		{"root ref of wrong size", TreeRoot, one(Key{5, KeyRootRef, 300}, apply(rootRef, grow(1))), "item size 22, want 21"},

		{"group", TreeExtent, one(group, goodGroup()), ""},
		{"group of 0 bytes", TreeExtent, one(Key{1 << 20, KeyBlockGroupItem, 0}, goodGroup()), "key offset 0"},
		{"short group", TreeExtent, one(group, apply(goodGroup(), cut(1))), "item size 23"},
		{"group of chunk 257", TreeExtent, one(group, apply(goodGroup(), put64(8, 257))), "chunk_objectid 257"},
		{"group used beyond its size", TreeExtent, one(group, apply(goodGroup(), put64(0, 1<<30+1))), "used 1073741825"},
		{"full group", TreeExtent, one(group, apply(goodGroup(), put64(0, 1<<30))), ""},
		{"group of two profiles", TreeExtent, one(group, apply(goodGroup(), put64(16, 1|8|16))), "at most one profile"},
		{"group of no type", TreeExtent, one(group, apply(goodGroup(), put64(16, 8))), "want data"},
		{"group of system and data", TreeExtent, one(group, apply(goodGroup(), put64(16, 3))), "want data"},
		{"mixed group", TreeExtent, one(group, apply(goodGroup(), put64(16, 5))), ""},
	}
}

func spaceRules() []rule {
	at := func(t KeyType) Key { return Key{1 << 20, t, 1 << 27} }
	info := FreeSpaceInfo{ExtentCount: 5}.Append(nil)
	dev := func(off uint64) Key { return Key{1, KeyDevExtent, off} }
	devItem := Key{1, KeyDevItem, 1}
	rules := []rule{
		{"free space info", TreeFreeSpace, one(at(KeyFreeSpaceInfo), info), ""},
		{"free space info of an odd address", TreeFreeSpace, one(Key{1, KeyFreeSpaceInfo, 4096}, info), "key objectid 1"},
		{"free space info of odd length", TreeFreeSpace, one(Key{4096, KeyFreeSpaceInfo, 1}, info), "key offset 1"},
		{"free space info of no length", TreeFreeSpace, one(Key{4096, KeyFreeSpaceInfo, 0}, info), "key offset 0"},
		{"free space that wraps around", TreeFreeSpace, one(Key{1 << 63, KeyFreeSpaceExtent, 1 << 63}, nil), "key offset"},
		{"short free space info", TreeFreeSpace, one(at(KeyFreeSpaceInfo), info[:7]), "item size 7"},
		{"more extents than sectors", TreeFreeSpace, one(Key{4096, KeyFreeSpaceInfo, 8192}, apply(info, put32(0, 3))), "extent_count 3"},
		{"free space info with bitmaps", TreeFreeSpace, one(at(KeyFreeSpaceInfo), apply(info, put32(4, 1))), ""},
		{"free space info with an unknown flag", TreeFreeSpace, one(at(KeyFreeSpaceInfo), apply(info, put32(4, 2))), "flags 0x2"},
		{"free extent", TreeFreeSpace, one(at(KeyFreeSpaceExtent), nil), ""},
		{"free extent with data", TreeFreeSpace, one(at(KeyFreeSpaceExtent), []byte{1}), "item size 1"},
		{"bitmap", TreeFreeSpace, one(Key{4096, KeyFreeSpaceBitmap, 8 << 20}, make([]byte, 256)), ""},
		{"bitmap of nine sectors", TreeFreeSpace, one(Key{4096, KeyFreeSpaceBitmap, 9 * 4096}, make([]byte, 2)), ""},
		{"bitmap of wrong size", TreeFreeSpace, one(Key{4096, KeyFreeSpaceBitmap, 9 * 4096}, make([]byte, 1)), "item size 1, want 2"},

		{"dev extent", TreeDev, one(dev(1<<20), goodDevExtent()), ""},
		{"dev extents", TreeDev, two(dev(0), goodDevExtent(), dev(1<<30), goodDevExtent()), ""},
		{"overlapping dev extents", TreeDev, two(dev(0), goodDevExtent(), dev(1<<20), goodDevExtent()), "at least 1073741824"},
		{"dev extents of two devices", TreeDev, two(dev(0), goodDevExtent(), Key{2, KeyDevExtent, 0}, goodDevExtent()), ""},
		{"short dev extent", TreeDev, one(dev(0), apply(goodDevExtent(), cut(1))), "item size 47"},
		{"dev extent of tree 4", TreeDev, one(dev(0), apply(goodDevExtent(), put64(0, 4))), "chunk_tree 4"},
		{"dev extent of chunk 257", TreeDev, one(dev(0), apply(goodDevExtent(), put64(8, 257))), "chunk_objectid 257"},
		{"dev extent at an odd place", TreeDev, one(dev(1), goodDevExtent()), "key offset 1"},
		{"dev extent of an odd chunk", TreeDev, one(dev(0), apply(goodDevExtent(), put64(16, 1))), "chunk_offset 1"},
		{"dev extent of odd length", TreeDev, one(dev(0), apply(goodDevExtent(), put64(24, 1))), "length 1"},
		{"dev extent that wraps around", TreeDev, one(dev(1<<63), apply(goodDevExtent(), put64(24, 1<<63))), "length"},

		{"dev item", TreeChunk, one(devItem, goodDevItem()), ""},
		{"dev item of object 2", TreeChunk, one(Key{2, KeyDevItem, 1}, goodDevItem()), "key objectid 2"},
		{"short dev item", TreeChunk, one(devItem, apply(goodDevItem(), cut(1))), "item size 97"},
		{"dev item of another device", TreeChunk, one(devItem, apply(goodDevItem(), put64(0, 2))), "devid 2"},
		{"dev item used beyond its size", TreeChunk, one(devItem, apply(goodDevItem(), put64(16, 1<<41))), "bytes_used"},
		{"dev item of no size", TreeChunk, one(devItem, apply(goodDevItem(), put64(8, 0), put64(16, 0))), ""},
	}
	return append(rules, miscRules()...)
}

func miscRules() []rule {
	sized := func(name string, owner ObjectID, k Key, good ...int) []rule {
		var out []rule
		for n := range 60 {
			want := "item size"
			for _, g := range good {
				if n == g {
					want = ""
				}
			}
			out = append(out, rule{fmt.Sprintf("%s of %d bytes", name, n), owner, one(k, make([]byte, n)), want})
		}
		return out
	}
	multiples := func(step int) (m []int) {
		for n := step; n < 60; n += step {
			m = append(m, n)
		}
		return m
	}
	var rules []rule
	for _, r := range [][]rule{
		sized("orphan", 0, Key{OrphanObjectID, KeyOrphanItem, 257}, 0),
		sized("dir log", TreeLog, Key{257, KeyDirLogIndex, 2}, 8),
		sized("old dir log", TreeLog, Key{257, KeyDirLogItem, 2}, 8),
		sized("verity descriptor", 0, Key{257, KeyVerityDesc, 0}, 25),
		sized("free space header", TreeRoot, Key{FreeSpaceObjectID, 0, 4096}, 41),
		sized("uuid", TreeUUID, Key{5, KeyUUIDSubvol, 6}, multiples(8)...),
		sized("received uuid", TreeUUID, Key{5, KeyUUIDReceivedSubvol, 6}, multiples(8)...),
		sized("device statistics", TreeDev, Key{0, KeyPersistentItem, 1}, multiples(8)...),
		sized("qgroup status", TreeQuota, Key{0, KeyQgroupStatus, 0}, 32, 40),
		sized("qgroup info", TreeQuota, Key{0, KeyQgroupInfo, 5}, 40),
		sized("qgroup limit", TreeQuota, Key{0, KeyQgroupLimit, 5}, 40),
		sized("qgroup relation", TreeQuota, Key{5, KeyQgroupRelation, 6}, 0),
		sized("dev replace", TreeDev, Key{0, KeyDevReplace, 0}),
		sized("balance", TreeRoot, Key{BalanceObjectID, KeyTemporaryItem, 0}),
	} {
		rules = append(rules, r...)
	}
	return append(rules, []rule{
		{"whole dev replace", TreeDev, one(Key{0, KeyDevReplace, 0}, make([]byte, 72)), ""},
		{"whole balance", TreeRoot, one(Key{BalanceObjectID, KeyTemporaryItem, 0}, make([]byte, 448)), ""},
		{"verity data", 0, one(Key{257, KeyVerityDesc, 1}, make([]byte, 300)), ""},
		{"merkle tree", 0, one(Key{257, KeyVerityMerkle, 0}, make([]byte, 2000)), ""},
		{"string", TreeRoot, one(Key{257, KeyStringItem, 0}, []byte("s")), ""},
		{"unknown type", TreeRoot, one(Key{257, 70, 0}, []byte("s")), ""},
		{"stripes without the feature", TreeRaidStripe, one(Key{4096, KeyRaidStripe, 4096}, make([]byte, 16)), "key type"},
		{"extent tree that is empty", TreeExtent, nil, "nritems 0"},
		{"subvolume that is empty", 300, nil, ""},
		{"top-level subvolume that is empty", TreeFS, nil, "nritems 0"},
		{"csum tree that is empty", TreeCsum, nil, ""},
	}...)
}

func TestRules(t *testing.T) {
	groups := [][]rule{inodeRules(), dirRules(), extentDataRules(), extentRules(), treeRules(), spaceRules()}
	good, bad := 0, 0
	for _, rules := range groups {
		for _, r := range rules {
			owner := r.owner
			if owner == 0 {
				owner = TreeFS
			}
			err := CheckLeaf(buildLeaf(owner, r.items...), testGeometry)
			if r.want == "" {
				good++
				if err != nil {
					t.Errorf("%s: %v", r.name, err)
				}
				continue
			}
			bad++
			if err == nil || !strings.Contains(err.Error(), r.want) {
				t.Errorf("%s: error %v, want one with %q", r.name, err, r.want)
			}
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%s: error %v does not wrap ErrFormat", r.name, err)
			}
		}
	}
	t.Logf("%d good leaves, %d bad ones", good, bad)
}

func TestRulesThatDependOnGeometry(t *testing.T) {
	cache := buildLeaf(TreeExtent, testItem{Key{4096, KeyExtentItem, 4096}, extentItem(1, ExtentFlagData, nil, dataRef(FreeInoObjectID, 1))})
	reloc := buildLeaf(TreeRoot, testItem{Key{TreeReloc, KeyRootItem, uint64(TreeDataReloc)}, goodRoot()})
	stripe := buildLeaf(TreeRaidStripe, testItem{Key{4096, KeyRaidStripe, 4096}, make([]byte, 32)})
	odd := buildLeaf(TreeRaidStripe, testItem{Key{4096, KeyRaidStripe, 4096}, make([]byte, 17)})
	unaligned := buildLeaf(TreeRaidStripe, testItem{Key{5, KeyRaidStripe, 4096}, make([]byte, 16)})
	meta := buildLeaf(TreeExtent, testItem{Key{4096, KeyMetadataItem, 0}, extentItem(1, ExtentFlagTreeBlock, nil)})
	verity := buildLeaf(TreeFS, testItem{Key{257, KeyInodeItem, 0}, apply(goodInode(), put64(64, 2<<32))})
	csums := buildLeaf(TreeCsum, testItem{Key{ExtentCsumObjectID, KeyExtentCsum, 0}, make([]byte, 36)})
	for _, tc := range []struct {
		name   string
		n      Node
		change func(g *Geometry)
		want   string
	}{
		{"extent of the inode cache", cache, func(*Geometry) {}, ""},
		{"extent of the inode cache, for writing", cache, func(g *Geometry) { g.Writable = true }, "objectid 18446744073709551604"},
		{"relocation of the relocation tree", reloc, func(*Geometry) {}, ""},
		{"relocation of the relocation tree, for writing", reloc, func(g *Geometry) { g.Writable = true }, "key offset 18446744073709551607"},
		{"raid stripe", stripe, func(g *Geometry) { g.IncompatFlags |= IncompatRaidStripeTree }, ""},
		{"raid stripe of odd size", odd, func(g *Geometry) { g.IncompatFlags |= IncompatRaidStripeTree }, "item size 17"},
		{"raid stripe at an odd address", unaligned, func(g *Geometry) { g.IncompatFlags |= IncompatRaidStripeTree }, "key objectid 5"},
		{"skinny metadata without the feature", meta, func(g *Geometry) { g.IncompatFlags = 0 }, "key type METADATA_ITEM"},
		{"inode flag for readers", verity, func(g *Geometry) { g.Writable = true }, "flags 0x200000000"},
		{"sha256 sums of 36 bytes", csums, func(g *Geometry) { g.CsumType = CsumSHA256 }, "item size 36"},
		{"sums of an unknown kind", csums, func(g *Geometry) { g.CsumType = 9 }, "item size 36"},
		{"another node size", meta, func(g *Geometry) { g.NodeSize = 8192 }, "node of 4096 bytes, want 8192"},
		{"larger sectors", meta, func(g *Geometry) { g.SectorSize = 65536 }, "key objectid 4096"},
	} {
		g := testGeometry
		tc.change(&g)
		err := CheckLeaf(tc.n, g)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.want)
		}
	}
}

func TestHeaders(t *testing.T) {
	leaf := func(change func(n Node)) Node {
		n := buildLeaf(TreeFS, testItem{Key{257, KeyInodeItem, 0}, goodInode()}, testItem{Key{258, KeyInodeItem, 0}, goodInode()})
		change(n)
		return n
	}
	interior := func(change func(n Node)) Node {
		n := buildLeaf(TreeFS)
		n.SetLevel(1)
		n.SetNrItems(2)
		n.SetPtr(0, Key{1, 1, 1}, 4096, 5)
		n.SetPtr(1, Key{1, 1, 2}, 8192, 5)
		change(n)
		return n
	}
	for _, tc := range []struct {
		name       string
		n          Node
		leaf, node string // part of the errors of CheckLeaf and CheckNode
	}{
		{"leaf", leaf(func(Node) {}), "", "level 0, want 1 to 7"},
		{"interior node", interior(func(Node) {}), "level 1, want 0", ""},
		{"level 8", interior(func(n Node) { n.SetLevel(8) }), "level 8", "level 8"},
		{"not written", leaf(func(n Node) { n.SetFlags(0) }), "WRITTEN", "WRITTEN"},
		{"interior node not written", interior(func(n Node) { n.SetFlags(2) }), "WRITTEN", "WRITTEN"},
		{"no pointers", interior(func(n Node) { n.SetNrItems(0) }), "0 pointers", "0 pointers"},
		{"too many pointers", interior(func(n Node) { n.SetNrItems(122) }), "122 pointers", "122 pointers"},
		{"pointer to nowhere", interior(func(n Node) { n.SetPtr(1, Key{1, 1, 2}, 0, 5) }), "level", "slot 1, key (1 INODE_ITEM 2): block pointer 0"},
		{"odd pointer", interior(func(n Node) { n.SetPtr(0, Key{1, 1, 1}, 100, 5) }), "level", "block pointer 100"},
		{"equal keys", interior(func(n Node) { n.SetPtr(1, Key{1, 1, 1}, 8192, 5) }), "not above", "not above"},
		{"keys falling", leaf(func(n Node) { n.SetItem(1, Key{256, 1, 0}, n.ItemOffset(1), 160) }), "not above", "not above"},
		{"hole between items", leaf(func(n Node) { n.SetItem(1, Key{258, 1, 0}, n.ItemOffset(1)-1, 160) }), "does not end at", "does not end at"},
		{"item behind the end", leaf(func(n Node) { n.SetItem(0, Key{257, 1, 0}, 4000, 160) }), "does not end at", "does not end at"},
		{"item of 4 GiB", leaf(func(n Node) { n.SetItem(0, Key{257, 1, 0}, 0, -1) }), "does not end at", "does not end at"},
		{"more items than fit", leaf(func(n Node) { n.SetNrItems(4000) }), "4000 items", "4000 items"},
		{"empty leaf without owner", leaf(func(n Node) { n.SetNrItems(0); n.SetOwner(0) }), "owner 0", "level 0"},
		{"empty leaf of relocation", leaf(func(n Node) { n.SetNrItems(0); n.SetFlags(3) }), "", "level 0"},
		{"half a node", leaf(func(Node) {})[:2048], "node of 2048 bytes", "node of 2048 bytes"},
		{"nothing", nil, "node of 0 bytes", "node of 0 bytes"},
	} {
		for i, err := range []error{CheckLeaf(tc.n, testGeometry), CheckNode(tc.n, testGeometry)} {
			want := []string{tc.leaf, tc.node}[i]
			if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !errors.Is(err, ErrFormat)) {
				t.Errorf("%s, function %d: error %v, want one with %q", tc.name, i, err, want)
			}
		}
	}
}

func TestChunks(t *testing.T) {
	mixed := testGeometry
	mixed.IncompatFlags |= IncompatMixedGroups
	data := BlockGroupData
	for _, tc := range []struct {
		name string
		at   uint64
		item []byte
		want string
	}{
		{"single", 1 << 30, goodChunk(data, 1), ""},
		{"no stripes", 1 << 30, goodChunk(data, 0), "num_stripes 0"},
		{"single on two", 1 << 30, goodChunk(data, 2), "num_stripes 2, want 1 for single"},
		{"dup", 1 << 30, goodChunk(data|BlockGroupDUP, 2), ""},
		{"dup on one", 1 << 30, goodChunk(data|BlockGroupDUP, 1), "num_stripes 1"},
		{"raid0 on one", 1 << 30, goodChunk(data|BlockGroupRAID0, 1), ""},
		{"raid0 on nine", 1 << 30, goodChunk(data|BlockGroupRAID0, 9), ""},
		{"raid1", 1 << 30, goodChunk(data|BlockGroupRAID1, 2), ""},
		{"raid1 on three", 1 << 30, goodChunk(data|BlockGroupRAID1, 3), "num_stripes 3"},
		{"raid1c3", 1 << 30, goodChunk(data|BlockGroupRAID1C3, 3), ""},
		{"raid1c3 on two", 1 << 30, goodChunk(data|BlockGroupRAID1C3, 2), "num_stripes 2"},
		{"raid1c4", 1 << 30, goodChunk(data|BlockGroupRAID1C4, 4), ""},
		{"raid1c4 on five", 1 << 30, goodChunk(data|BlockGroupRAID1C4, 5), "num_stripes 5"},
		{"raid10", 1 << 30, goodChunk(data|BlockGroupRAID10, 4), ""},
		{"raid10 on five", 1 << 30, goodChunk(data|BlockGroupRAID10, 5), "sub_stripes"},
		{"raid10 without sub stripes", 1 << 30, apply(goodChunk(data|BlockGroupRAID10, 4), put16(46, 1)), "sub_stripes 1"},
		{"raid10 with zero sub stripes", 1 << 30, apply(goodChunk(data|BlockGroupRAID10, 4), put16(46, 0)), "sub_stripes 0"},
		{"raid5", 1 << 30, goodChunk(data|BlockGroupRAID5, 2), ""},
		{"raid5 on one", 1 << 30, goodChunk(data|BlockGroupRAID5, 1), "num_stripes 1"},
		{"raid6", 1 << 30, goodChunk(data|BlockGroupRAID6, 3), ""},
		{"raid6 on two", 1 << 30, goodChunk(data|BlockGroupRAID6, 2), "num_stripes 2"},
		{"odd address", 5, goodChunk(data, 1), "logical address 5"},
		{"sector size", 1 << 30, apply(goodChunk(data, 1), put32(40, 512)), "sector_size 512"},
		{"length 0", 1 << 30, apply(goodChunk(data, 1), put64(0, 0)), "length 0"},
		{"odd length", 1 << 30, apply(goodChunk(data, 1), put64(0, 4097)), "length 4097"},
		{"wraps around", 1 << 63, apply(goodChunk(data, 1), put64(0, 1<<63)), "length"},
		{"wraps around by little", 1<<64 - 1<<20, goodChunk(data, 1), "length"},
		{"too long", 1 << 30, apply(goodChunk(data, 1), put64(0, 1<<48)), "length 281474976710656"},
		{"stripe length", 1 << 30, apply(goodChunk(data, 1), put64(16, 4096)), "stripe_len 4096"},
		{"unknown type", 1 << 30, goodChunk(data|1<<20, 1), "type 0x100001"},
		{"two profiles", 1 << 30, goodChunk(data|BlockGroupDUP|BlockGroupRAID1, 2), "at most one profile"},
		{"no type", 1 << 30, goodChunk(BlockGroupDUP, 2), "data, metadata or system"},
		{"system and data", 1 << 30, goodChunk(BlockGroupSystem|data, 1), "system alone"},
		{"mixed", 1 << 30, goodChunk(BlockGroupMixed, 1), "mixed"},
	} {
		n := buildLeaf(TreeChunk, testItem{Key{FirstChunkTree, KeyChunkItem, tc.at}, tc.item})
		errs := []error{CheckLeaf(n, testGeometry)}
		if c, err := ParseChunk(tc.item); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		} else {
			errs = append(errs, (&ChunkMapping{Logical(tc.at), c}).Validate(testGeometry))
		}
		for _, err := range errs {
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.want)
			}
		}
		if tc.name == "mixed" {
			if err := CheckLeaf(n, mixed); err != nil {
				t.Errorf("mixed chunk with the feature: %v", err)
			}
		}
	}
	for _, size := range []edit{cut(1), grow(1), cut(33)} {
		n := buildLeaf(TreeChunk, testItem{Key{FirstChunkTree, KeyChunkItem, 1 << 30}, apply(goodChunk(data, 1), size)})
		if err := CheckLeaf(n, testGeometry); err == nil || !strings.Contains(err.Error(), "item size") {
			t.Errorf("chunk of wrong size: error %v", err)
		}
	}
}

func TestSuperblockRules(t *testing.T) {
	m := corpus(t)[0]
	for _, tc := range []struct {
		name   string
		change func(s *Superblock)
		want   string
	}{
		{"csum type", func(s *Superblock) { s.CsumType = 4 }, "csum_type 4"},
		{"sector size 0", func(s *Superblock) { s.SectorSize = 0 }, "sectorsize 0"},
		{"sector size 2048", func(s *Superblock) { s.SectorSize = 2048 }, "sectorsize 2048"},
		{"sector size 5000", func(s *Superblock) { s.SectorSize = 5000 }, "sectorsize 5000"},
		{"sector size 128 KiB", func(s *Superblock) { s.SectorSize = 1 << 17 }, "sectorsize 131072"},
		{"node size 0", func(s *Superblock) { s.NodeSize = 0 }, "nodesize 0"},
		{"node size 128 KiB", func(s *Superblock) { s.NodeSize = 1 << 17 }, "nodesize 131072"},
		{"node below sector", func(s *Superblock) { s.SectorSize = 16384 }, "from sectorsize 16384"},
		{"leaf size", func(s *Superblock) { s.LeafSize = 1 }, "leafsize 1"},
		{"stripe size", func(s *Superblock) { s.StripeSize = 0 }, "stripesize 0"},
		{"root level", func(s *Superblock) { s.RootLevel = 8 }, "root_level 8"},
		{"chunk root level", func(s *Superblock) { s.ChunkRootLevel = 8 }, "chunk_root_level 8"},
		{"log root level", func(s *Superblock) { s.LogRootLevel = 8 }, "log_root_level 8"},
		{"root", func(s *Superblock) { s.Root = 1 }, "root 1"},
		{"chunk root", func(s *Superblock) { s.ChunkRoot = 1 }, "chunk_root 1"},
		{"log root", func(s *Superblock) { s.LogRoot = 1 }, "log_root 1"},
		{"device's fsid", func(s *Superblock) { s.DevItem.FSID[3] ^= 1 }, "dev_item.fsid"},
		{"block groups", func(s *Superblock) { s.CompatROFlags = CompatROBlockGroupTree }, "block-group-tree"},
		{"bytes used", func(s *Superblock) { s.BytesUsed = 5 * 4096 }, "bytes_used 20480"},
		{"devices", func(s *Superblock) { s.NumDevices = 0 }, "num_devices 0"},
		{"bytenr", func(s *Superblock) { s.Bytenr = 4096 }, "bytenr 4096"},
		{"second copy", func(s *Superblock) { s.Bytenr = 64 << 20 }, ""},
		{"metadata uuid", func(s *Superblock) {
			s.IncompatFlags |= IncompatMetadataUUID
			s.MetadataUUID, s.FSID = s.FSID, UUID{9}
		}, ""},
		{"no system chunk", func(s *Superblock) { s.SysChunkArray = nil }, "sys_chunk_array_size 0"},
		{"half a system chunk", func(s *Superblock) { s.SysChunkArray = append(bytes.Clone(s.SysChunkArray), 1) }, "stray"},
		{"system chunk that holds data", func(s *Superblock) { s.SysChunkArray[KeySize+24] = 1 }, "want SYSTEM"},
		{"system chunk of odd length", func(s *Superblock) { s.SysChunkArray[KeySize] = 1 }, "length"},
		{"system chunk with another key", func(s *Superblock) { s.SysChunkArray[8] = 5 }, "is no chunk"},
	} {
		s := m.super.Clone()
		tc.change(s)
		err := s.Validate()
		if (err == nil) != (tc.want == "") || err != nil && (!strings.Contains(err.Error(), tc.want) || !errors.Is(err, ErrFormat)) {
			t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.want)
		}
	}
}
