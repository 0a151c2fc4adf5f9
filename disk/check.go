package disk

import (
	"fmt"
	"strings"
)

// ItemError says what in a node cannot be right: which field of which item, what
// it holds and what it might hold. It wraps ErrFormat.
type ItemError struct {
	Bytenr Logical // where the node says it stands
	Owner  ObjectID
	Level  int
	Slot   int // -1: the node's header
	Key    Key // of the slot
	Field  string
	Found  string
	Want   string // may be empty, where Found says it all
}

func (e *ItemError) Error() string {
	var b strings.Builder
	kind := "leaf"
	if e.Level > 0 {
		kind = "node"
	}
	fmt.Fprintf(&b, "%v: %s %d of %v", ErrFormat, kind, uint64(e.Bytenr), e.Owner)
	if e.Slot >= 0 {
		fmt.Fprintf(&b, ", slot %d, key %v", e.Slot, e.Key)
	}
	fmt.Fprintf(&b, ": %s %s", e.Field, e.Found)
	if e.Want != "" {
		fmt.Fprintf(&b, ", want %s", e.Want)
	}
	return b.String()
}

// Unwrap is ErrFormat.
func (e *ItemError) Unwrap() error { return ErrFormat }

// checker walks the items of a leaf. It lives on the stack: checking a good leaf
// allocates nothing.
type checker struct {
	n          Node
	g          Geometry
	sectorMask uint64
	fsTree     bool // the leaf is of a subvolume

	slot int
	key  Key
	data []byte // of the item

	prev Key // key of the slot before, zero for slot 0
	// prevEnd is where the range of the slot before ends, if that is an item
	// of a type that has one: a file extent, checksums, a device extent.
	prevEnd uint64
}

// CheckLeaf says whether leaf n can be part of a filesystem with geometry g: the
// layout of its items, and of each item that it is whole, that its fields hold
// what they may hold, and that it fits the item before it. It rejects what the
// tree checker of Linux 6.18 rejects, and items that the decoders of this
// package would refuse; without g.Writable it lets pass what only earlier kernels
// wrote. The error is an *ItemError or wraps ErrFormat.
//
// It looks at nothing outside the leaf, and allocates nothing if the leaf is
// good. Checksum, fsid, address and generation are the caller's to compare.
func CheckLeaf(n Node, g Geometry) error {
	if err := checkHeader(n, &g); err != nil {
		return err
	}
	if !n.IsLeaf() {
		return headerError(n, "level", n.Level(), "0")
	}
	count := n.NrItems()
	if count == 0 {
		return checkEmpty(n)
	}
	c := checker{n: n, g: g, sectorMask: uint64(g.SectorSize) - 1, fsTree: isFSTree(n.Owner())}
	for c.slot = 0; c.slot < count; c.slot++ {
		c.key, c.data = n.Key(c.slot), n.ItemData(c.slot)
		if err := c.item(); err != nil {
			return err
		}
		c.prev = c.key
	}
	return nil
}

// CheckNode says whether interior node n can be part of a filesystem with
// geometry g; see CheckLeaf.
func CheckNode(n Node, g Geometry) error {
	if err := checkHeader(n, &g); err != nil {
		return err
	}
	if n.IsLeaf() {
		return headerError(n, "level", 0, fmt.Sprintf("1 to %d", MaxLevel-1))
	}
	for i := range n.NrItems() {
		if p := uint64(n.BlockPtr(i)); p == 0 || p&(uint64(g.SectorSize)-1) != 0 {
			e := headerError(n, "block pointer", p, fmt.Sprintf("a multiple of %d other than 0", g.SectorSize))
			e.Slot, e.Key = i, n.Key(i)
			return e
		}
	}
	return nil
}

// checkHeader checks what leaves and interior nodes have in common.
func checkHeader(n Node, g *Geometry) error {
	if len(n) != g.NodeSize || len(n) < HeaderSize {
		return formatErrorf("node of %d bytes, want %d", len(n), g.NodeSize)
	}
	if err := n.ValidateLayout(); err != nil {
		return fmt.Errorf("node %d of %v: %w", uint64(n.Bytenr()), n.Owner(), err)
	}
	if n.Flags()&HeaderWritten == 0 {
		return headerError(n, "flags", fmt.Sprintf("%#x", n.Flags()), "WRITTEN to be set")
	}
	return nil
}

// checkEmpty says whether a leaf may be empty. The owner of a relocation tree's
// leaf is the subvolume that it relocates, so nothing can be said of those.
func checkEmpty(n Node) error {
	if n.Flags()&HeaderReloc != 0 {
		return nil
	}
	switch n.Owner() {
	case TreeRoot, TreeExtent, TreeChunk, TreeDev, TreeFS, TreeDataReloc:
		return headerError(n, "nritems", 0, "at least 1 in this tree")
	case 0:
		return headerError(n, "owner", 0, "a tree")
	}
	return nil
}

func headerError(n Node, field string, found any, want string) *ItemError {
	return &ItemError{
		Bytenr: n.Bytenr(), Owner: n.Owner(), Level: n.Level(), Slot: -1,
		Field: field, Found: fmt.Sprint(found), Want: want,
	}
}

// fail makes the error about a field of the item at hand.
func (c *checker) fail(field string, found any, want string, args ...any) error {
	return &ItemError{
		Bytenr: c.n.Bytenr(), Owner: c.n.Owner(), Slot: c.slot, Key: c.key,
		Field: field, Found: fmt.Sprint(found), Want: fmt.Sprintf(want, args...),
	}
}

// size demands an item size.
func (c *checker) size(want int) error {
	if len(c.data) != want {
		return c.fail("item size", len(c.data), "%d", want)
	}
	return nil
}

// aligned demands a multiple of the sector size.
func (c *checker) aligned(field string, v uint64) error {
	if v&c.sectorMask != 0 {
		return c.fail(field, v, "a multiple of %d", c.g.SectorSize)
	}
	return nil
}

// keyRange demands a key whose objectid and offset are a range of whole sectors.
func (c *checker) keyRange() error {
	if err := c.aligned("key objectid", uint64(c.key.ObjectID)); err != nil {
		return err
	}
	if err := c.aligned("key offset", c.key.Offset); err != nil {
		return err
	}
	if c.key.Offset == 0 || uint64(c.key.ObjectID)+c.key.Offset < uint64(c.key.ObjectID) {
		return c.fail("key offset", c.key.Offset, "a length above 0 that stays below 2^64")
	}
	return nil
}

// generation demands a transaction that can have been: one after the
// superblock's is the log tree's and the running one's.
func (c *checker) generation(field string, t TransID) error {
	if t > c.g.Generation+1 {
		return c.fail(field, t, "at most %d", c.g.Generation+1)
	}
	return nil
}

// sameInode demands that an item of an inode follows another of the same inode,
// because the inode item comes first. Log trees leave items out.
func (c *checker) sameInode() error {
	if c.slot > 0 && c.fsTree && c.prev.ObjectID != c.key.ObjectID {
		return c.fail("key objectid of the slot before", uint64(c.prev.ObjectID), "%d, whose inode item is missing", uint64(c.key.ObjectID))
	}
	return nil
}

// isFSTree says whether a tree is a subvolume. The upper 16 bits of an id are
// the level of a qgroup, so subvolumes end at 48 bits.
func isFSTree(id ObjectID) bool {
	return id == TreeFS || id >= FirstFreeObjectID && id < 1<<48
}

// isInode says whether id can be an inode number.
func isInode(id ObjectID) bool {
	return id >= FirstFreeObjectID && id <= LastFreeObjectID || id == RootTreeDir || id == FreeInoObjectID
}

// item checks the item at hand. Types that are not named here are from a newer
// kernel; if they mattered, a feature bit would have kept us from opening.
func (c *checker) item() error {
	switch c.key.Type {
	case KeyInodeItem:
		return c.inodeItem()
	case KeyInodeRef:
		return c.inodeRef()
	case KeyInodeExtref:
		return c.inodeExtref()
	case KeyXattrItem, KeyDirItem, KeyDirIndex:
		return c.dirItem()
	case KeyExtentData:
		return c.extentData()
	case KeyExtentCsum:
		return c.extentCsum()
	case KeyExtentItem, KeyMetadataItem:
		return c.extentItem()
	case KeyTreeBlockRef, KeySharedBlockRef, KeySharedDataRef, KeyExtentDataRef, KeyExtentOwnerRef, KeyExtentRefV0:
		return c.keyedRef()
	case KeyRootItem:
		return c.rootItem()
	case KeyRootRef, KeyRootBackref:
		return c.rootRef()
	}
	return c.systemItem()
}

// systemItem is item for the types that subvolumes do not hold, and rare ones.
func (c *checker) systemItem() error {
	switch c.key.Type {
	case KeyBlockGroupItem:
		return c.blockGroupItem()
	case KeyFreeSpaceInfo, KeyFreeSpaceExtent, KeyFreeSpaceBitmap:
		return c.freeSpace()
	case KeyDevExtent:
		return c.devExtent()
	case KeyDevItem:
		return c.devItem()
	case KeyChunkItem:
		return c.chunkItem()
	case KeyRaidStripe:
		return c.raidStripe()
	case KeyQgroupStatus, KeyQgroupInfo, KeyQgroupLimit, KeyQgroupRelation:
		return c.qgroup()
	case KeyUUIDSubvol, KeyUUIDReceivedSubvol:
		if len(c.data) == 0 || len(c.data)%8 != 0 {
			return c.fail("item size", len(c.data), "a multiple of 8 above 0")
		}
	case KeyOrphanItem:
		return c.size(0)
	case KeyDirLogItem, KeyDirLogIndex:
		return c.size(8)
	case KeyVerityDesc:
		if c.key.Offset == 0 {
			return c.size(verityDescSize)
		}
	case KeyTemporaryItem:
		if c.key.ObjectID == BalanceObjectID {
			return c.size(balanceItemSize)
		}
	case KeyPersistentItem:
		if c.key.ObjectID == DevStatsObjectID && (len(c.data) == 0 || len(c.data)%8 != 0) {
			return c.fail("item size", len(c.data), "a multiple of 8 above 0")
		}
	case KeyDevReplace:
		if len(c.data) < devReplaceSize {
			return c.fail("item size", len(c.data), "at least %d", devReplaceSize)
		}
	case 0:
		if c.key.ObjectID == FreeSpaceObjectID {
			return c.size(freeSpaceHeaderSize)
		}
	}
	return nil
}

const (
	verityDescSize  = 25
	devReplaceSize  = 72
	balanceItemSize = 448 // flags, three sets of arguments of 136 bytes, four spare words
)
