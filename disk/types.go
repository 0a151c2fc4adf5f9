package disk

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// ErrFormat is wrapped by every error about bytes that cannot be what they
// claim to be.
var ErrFormat = errors.New("invalid on-disk format")

// formatErrorf makes an error that wraps ErrFormat.
func formatErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

var le = binary.LittleEndian

type (
	// Logical is an address in the filesystem's own address space, in bytes.
	// The chunk tree maps it to devices.
	Logical uint64
	// TransID is the number of a transaction: the generation of what it wrote.
	TransID uint64
	// ObjectID is the first part of a key: an inode, a tree, an address, by
	// tree and item type.
	ObjectID uint64
	// DevID is the number of a device within its filesystem, from 1.
	DevID uint64
)

// UUID is a 16-byte identifier as it stands on disk.
type UUID [16]byte

// String is the usual 8-4-4-4-12 form.
func (u UUID) String() string {
	var b [36]byte
	hex.Encode(b[:8], u[:4])
	b[8] = '-'
	hex.Encode(b[9:13], u[4:6])
	b[13] = '-'
	hex.Encode(b[14:18], u[6:8])
	b[18] = '-'
	hex.Encode(b[19:23], u[8:10])
	b[23] = '-'
	hex.Encode(b[24:], u[10:])
	return string(b[:])
}

// IsZero says whether no UUID is set.
func (u UUID) IsZero() bool { return u == UUID{} }

// MarshalText is String, for JSON.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// ParseUUID reads the 8-4-4-4-12 form.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, fmt.Errorf("%q is not a UUID", s)
	}
	plain := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	if _, err := hex.Decode(u[:], []byte(plain)); err != nil {
		return UUID{}, fmt.Errorf("%q is not a UUID: %w", s, err)
	}
	return u, nil
}

// Well-known object ids. A tree's id is the objectid of its root item.
const (
	TreeRoot           ObjectID = 1  // the tree of tree roots
	TreeExtent         ObjectID = 2  // who uses which extent
	TreeChunk          ObjectID = 3  // logical to physical
	TreeDev            ObjectID = 4  // physical to logical
	TreeFS             ObjectID = 5  // the top-level subvolume
	RootTreeDir        ObjectID = 6  // directory in the root tree that names the default subvolume
	TreeCsum           ObjectID = 7  // data checksums
	TreeQuota          ObjectID = 8  // qgroups
	TreeUUID           ObjectID = 9  // UUID to subvolume
	TreeFreeSpace      ObjectID = 10 // free-space tree (space cache v2)
	TreeBlockGroup     ObjectID = 11 // block group items, with the block-group-tree feature
	TreeRaidStripe     ObjectID = 12 // raid-stripe-tree
	TreeRemap          ObjectID = 13 // remap-tree (refused)
	DevItemsObjectID   ObjectID = 1  // device items in the chunk tree
	DevStatsObjectID   ObjectID = 0  // device statistics in the device tree
	FirstChunkTree     ObjectID = 256
	FirstFreeObjectID  ObjectID = 256
	LastFreeObjectID   ObjectID = 1<<64 - 256
	BalanceObjectID    ObjectID = 1<<64 - 4
	OrphanObjectID     ObjectID = 1<<64 - 5
	TreeLog            ObjectID = 1<<64 - 6
	TreeLogFixup       ObjectID = 1<<64 - 7
	TreeReloc          ObjectID = 1<<64 - 8
	TreeDataReloc      ObjectID = 1<<64 - 9
	ExtentCsumObjectID ObjectID = 1<<64 - 10
	FreeSpaceObjectID  ObjectID = 1<<64 - 11 // v1 free-space cache headers
	FreeInoObjectID    ObjectID = 1<<64 - 12 // deprecated inode cache
	MultipleObjectIDs  ObjectID = 1<<64 - 255
	RootDirObjectID    ObjectID = 256 // the top directory of every subvolume
	EmptySubvolDir     ObjectID = 2   // inode number shown for a stub directory
)

// IsSubvolume says whether id may be a subvolume's tree. Ids end where the
// level of a qgroup would start (is_fstree, Linux 6.18).
func (id ObjectID) IsSubvolume() bool {
	return id == TreeFS || (id >= FirstFreeObjectID && id < 1<<48)
}

// IsFile says whether a tree with this id holds inodes: subvolumes, the
// data relocation tree, and log trees.
func (id ObjectID) IsFile() bool {
	return id.IsSubvolume() || id == TreeDataReloc || id == TreeLog
}

// KeyType is the second part of a key: what kind of item it names.
type KeyType uint8

// Item types (btrfs_tree.h, Linux 6.18).
const (
	KeyInodeItem          KeyType = 1
	KeyInodeRef           KeyType = 12
	KeyInodeExtref        KeyType = 13
	KeyXattrItem          KeyType = 24
	KeyVerityDesc         KeyType = 36
	KeyVerityMerkle       KeyType = 37
	KeyOrphanItem         KeyType = 48
	KeyDirLogItem         KeyType = 60 // obsolete since 5.17
	KeyDirLogIndex        KeyType = 72
	KeyDirItem            KeyType = 84
	KeyDirIndex           KeyType = 96
	KeyExtentData         KeyType = 108
	KeyExtentCsum         KeyType = 128
	KeyRootItem           KeyType = 132
	KeyRootBackref        KeyType = 144
	KeyRootRef            KeyType = 156
	KeyExtentItem         KeyType = 168
	KeyMetadataItem       KeyType = 169
	KeyExtentOwnerRef     KeyType = 172 // simple quota; inline only
	KeyTreeBlockRef       KeyType = 176
	KeyExtentDataRef      KeyType = 178
	KeyExtentRefV0        KeyType = 180 // refused
	KeySharedBlockRef     KeyType = 182
	KeySharedDataRef      KeyType = 184
	KeyBlockGroupItem     KeyType = 192
	KeyFreeSpaceInfo      KeyType = 198
	KeyFreeSpaceExtent    KeyType = 199
	KeyFreeSpaceBitmap    KeyType = 200
	KeyDevExtent          KeyType = 204
	KeyDevItem            KeyType = 216
	KeyChunkItem          KeyType = 228
	KeyRaidStripe         KeyType = 230
	KeyQgroupStatus       KeyType = 240
	KeyQgroupInfo         KeyType = 242
	KeyQgroupLimit        KeyType = 244
	KeyQgroupRelation     KeyType = 246
	KeyTemporaryItem      KeyType = 248 // balance
	KeyPersistentItem     KeyType = 249 // device statistics
	KeyDevReplace         KeyType = 250
	KeyUUIDSubvol         KeyType = 251
	KeyUUIDReceivedSubvol KeyType = 252
	KeyStringItem         KeyType = 253
)

// KeySize is the size of a key on disk.
const KeySize = 17

// Key names an item and orders it within its tree.
type Key struct {
	ObjectID ObjectID
	Type     KeyType
	Offset   uint64
}

// MaxKey is not below any key.
var MaxKey = Key{1<<64 - 1, 255, 1<<64 - 1}

// Compare orders keys by objectid, type, offset.
func (k Key) Compare(o Key) int {
	if k.ObjectID != o.ObjectID {
		return cmp.Compare(k.ObjectID, o.ObjectID)
	}
	if k.Type != o.Type {
		return cmp.Compare(k.Type, o.Type)
	}
	return cmp.Compare(k.Offset, o.Offset)
}

// Less says whether k sorts before o.
func (k Key) Less(o Key) bool { return k.Compare(o) < 0 }

// Next is the smallest key above k. The successor of MaxKey is MaxKey.
func (k Key) Next() Key {
	if k.Offset++; k.Offset != 0 {
		return k
	}
	if k.Type++; k.Type != 0 {
		return k
	}
	if k.ObjectID++; k.ObjectID != 0 {
		return k
	}
	return MaxKey
}

// ParseKey reads a key from the first KeySize bytes of b, which must be there.
func ParseKey(b []byte) Key {
	_ = b[KeySize-1]
	return Key{ObjectID(le.Uint64(b)), KeyType(b[8]), le.Uint64(b[9:])}
}

// Append appends the key's bytes.
func (k Key) Append(b []byte) []byte {
	b = le.AppendUint64(b, uint64(k.ObjectID))
	b = append(b, byte(k.Type))
	return le.AppendUint64(b, k.Offset)
}

// Put writes the key to the first KeySize bytes of b.
func (k Key) Put(b []byte) {
	_ = b[KeySize-1]
	le.PutUint64(b, uint64(k.ObjectID))
	b[8] = byte(k.Type)
	le.PutUint64(b[9:], k.Offset)
}

// CsumType is the checksum algorithm of a filesystem.
type CsumType uint16

// Checksum algorithms.
const (
	CsumCRC32C  CsumType = 0
	CsumXXHash  CsumType = 1
	CsumSHA256  CsumType = 2
	CsumBLAKE2b CsumType = 3
)

// CsumSize is the size of the checksum field in tree blocks and superblocks.
const CsumSize = 32

// Size is the number of bytes of one checksum, 0 for an unknown algorithm.
func (t CsumType) Size() int {
	switch t {
	case CsumCRC32C:
		return 4
	case CsumXXHash:
		return 8
	case CsumSHA256, CsumBLAKE2b:
		return 32
	}
	return 0
}

func (t CsumType) String() string {
	switch t {
	case CsumCRC32C:
		return "crc32c"
	case CsumXXHash:
		return "xxhash64"
	case CsumSHA256:
		return "sha256"
	case CsumBLAKE2b:
		return "blake2"
	}
	return fmt.Sprintf("csum-%d", uint16(t))
}

// Compression is the algorithm of a compressed extent.
type Compression uint8

// Compression algorithms of file extents.
const (
	CompressNone Compression = 0
	CompressZlib Compression = 1
	CompressLZO  Compression = 2
	CompressZstd Compression = 3
)

func (c Compression) String() string {
	switch c {
	case CompressNone:
		return "none"
	case CompressZlib:
		return "zlib"
	case CompressLZO:
		return "lzo"
	case CompressZstd:
		return "zstd"
	}
	return fmt.Sprintf("compression-%d", uint8(c))
}
