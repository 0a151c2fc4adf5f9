package disk

// Sizes of the parts of a tree block.
const (
	HeaderSize     = 101 // struct btrfs_header
	ItemHeaderSize = 25  // struct btrfs_item: key, offset, size
	KeyPtrSize     = 33  // struct btrfs_key_ptr: key, blockptr, generation
	MaxLevel       = 8   // levels are 0..7
	MinNodeSize    = 4096
	MaxNodeSize    = 65536
)

// Header flags.
const (
	HeaderWritten uint64 = 1 << 0
	HeaderReloc   uint64 = 1 << 1
	// HeaderBackrefRevShift: the top byte of the flags is the backref
	// revision, 1 for mixed backrefs (all filesystems since 2.6.31).
	HeaderBackrefRevShift        = 56
	MixedBackrefRev       uint64 = 1
)

// Node is one tree block in its on-disk form: a header, then items (leaf) or
// key pointers (interior). Accessors of the header need len(n) >= HeaderSize.
// Accessors of items and pointers need a node that passed Validate; on such
// nodes they cannot go out of bounds for slots below NrItems.
type Node []byte

// Csum is the checksum field; it covers everything behind it.
func (n Node) Csum() []byte { return n[:CsumSize:CsumSize] }

// Body is what the checksum covers.
func (n Node) Body() []byte { return n[CsumSize:] }

// FSID is the filesystem's UUID (the metadata_uuid, where that feature is on).
func (n Node) FSID() UUID { return UUID(n[32:48]) }

// Bytenr is the logical address at which the node says it lives.
func (n Node) Bytenr() Logical { return Logical(le.Uint64(n[48:])) }

// Flags is the header's flag word, backref revision included.
func (n Node) Flags() uint64 { return le.Uint64(n[56:]) }

// ChunkTreeUUID is the UUID of the chunk tree.
func (n Node) ChunkTreeUUID() UUID { return UUID(n[64:80]) }

// Generation is the transaction that wrote the node.
func (n Node) Generation() TransID { return TransID(le.Uint64(n[80:])) }

// Owner is the tree that the node was made for.
func (n Node) Owner() ObjectID { return ObjectID(le.Uint64(n[88:])) }

// NrItems is the number of items or pointers.
func (n Node) NrItems() int { return int(le.Uint32(n[96:])) }

// Level is 0 for a leaf.
func (n Node) Level() int { return int(n[100]) }

// IsLeaf says whether the node holds items.
func (n Node) IsLeaf() bool { return n[100] == 0 }

// SetBytenr sets the node's own address.
func (n Node) SetBytenr(a Logical) { le.PutUint64(n[48:], uint64(a)) }

// SetFlags sets the header's flag word.
func (n Node) SetFlags(f uint64) { le.PutUint64(n[56:], f) }

// SetGeneration sets the writing transaction.
func (n Node) SetGeneration(t TransID) { le.PutUint64(n[80:], uint64(t)) }

// SetOwner sets the owning tree.
func (n Node) SetOwner(o ObjectID) { le.PutUint64(n[88:], uint64(o)) }

// SetNrItems sets the number of items.
func (n Node) SetNrItems(c int) { le.PutUint32(n[96:], uint32(c)) }

// SetLevel sets the level.
func (n Node) SetLevel(l int) { n[100] = byte(l) }

// InitHeader clears the node and fills in its header, checksum excepted.
func (n Node) InitHeader(addr Logical, fsid, chunkTree UUID, gen TransID, owner ObjectID, level int) {
	clear(n)
	copy(n[32:48], fsid[:])
	n.SetBytenr(addr)
	n.SetFlags(HeaderWritten | MixedBackrefRev<<HeaderBackrefRevShift)
	copy(n[64:80], chunkTree[:])
	n.SetGeneration(gen)
	n.SetOwner(owner)
	n.SetLevel(level)
}

// Key is the key of slot i, in leaves and interior nodes.
func (n Node) Key(i int) Key {
	if n.IsLeaf() {
		return ParseKey(n[HeaderSize+i*ItemHeaderSize:])
	}
	return ParseKey(n[HeaderSize+i*KeyPtrSize:])
}

// ItemOffset is where the data of leaf slot i starts, counted from the end of
// the header.
func (n Node) ItemOffset(i int) int {
	return int(le.Uint32(n[HeaderSize+i*ItemHeaderSize+KeySize:]))
}

// ItemSize is the size of the data of leaf slot i.
func (n Node) ItemSize(i int) int {
	return int(le.Uint32(n[HeaderSize+i*ItemHeaderSize+KeySize+4:]))
}

// ItemData is the data of leaf slot i; it aliases the node.
func (n Node) ItemData(i int) []byte {
	o := HeaderSize + n.ItemOffset(i)
	s := n.ItemSize(i)
	return n[o : o+s : o+s]
}

// SetItem writes the item header of leaf slot i.
func (n Node) SetItem(i int, k Key, offset, size int) {
	b := n[HeaderSize+i*ItemHeaderSize:]
	k.Put(b)
	le.PutUint32(b[KeySize:], uint32(offset))
	le.PutUint32(b[KeySize+4:], uint32(size))
}

// BlockPtr is the address of child i of an interior node.
func (n Node) BlockPtr(i int) Logical {
	return Logical(le.Uint64(n[HeaderSize+i*KeyPtrSize+KeySize:]))
}

// PtrGeneration is the generation that child i must have.
func (n Node) PtrGeneration(i int) TransID {
	return TransID(le.Uint64(n[HeaderSize+i*KeyPtrSize+KeySize+8:]))
}

// SetPtr writes pointer i of an interior node.
func (n Node) SetPtr(i int, k Key, child Logical, gen TransID) {
	b := n[HeaderSize+i*KeyPtrSize:]
	k.Put(b)
	le.PutUint64(b[KeySize:], uint64(child))
	le.PutUint64(b[KeySize+8:], uint64(gen))
}

// LeafDataSize is the space for item headers and data in a leaf.
func LeafDataSize(nodeSize int) int { return nodeSize - HeaderSize }

// MaxPtrs is the number of pointers that fit an interior node.
func MaxPtrs(nodeSize int) int { return (nodeSize - HeaderSize) / KeyPtrSize }

// LeafFree is the number of bytes left for item headers and data.
func (n Node) LeafFree() int {
	c := n.NrItems()
	if c == 0 {
		return LeafDataSize(len(n))
	}
	return n.ItemOffset(c-1) - c*ItemHeaderSize
}

// Search finds the first slot whose key is not below k, NrItems if there is
// none, and whether that slot's key equals k.
func (n Node) Search(k Key) (slot int, found bool) {
	// By hand, because every change of a tree spends most of its time here.
	stride := KeyPtrSize
	if n.IsLeaf() {
		stride = ItemHeaderSize
	}
	low, high := 0, n.NrItems()
	for low < high {
		mid := int(uint(low+high) / 2)
		b := n[HeaderSize+mid*stride:]
		b = b[:KeySize]
		if id := ObjectID(le.Uint64(b)); id != k.ObjectID {
			if id < k.ObjectID {
				low = mid + 1
			} else {
				high = mid
			}
			continue
		}
		switch c := ParseKey(b).Compare(k); {
		case c == 0:
			return mid, true // keys are unique
		case c < 0:
			low = mid + 1
		default:
			high = mid
		}
	}
	return low, false
}

// ChildSlot is the slot of the interior node's child whose range holds k: the
// last one whose key is not above k, or 0.
func (n Node) ChildSlot(k Key) int {
	slot, found := n.Search(k)
	if !found && slot > 0 {
		slot--
	}
	return slot
}

// ValidateLayout checks what the accessors rely on: level, item count, item
// offsets and sizes, and strictly rising keys. It looks at no item's contents
// and allocates nothing on success.
func (n Node) ValidateLayout() error {
	if len(n) < MinNodeSize || len(n) > MaxNodeSize {
		return formatErrorf("node size %d", len(n))
	}
	level, count := int(n[100]), le.Uint32(n[96:])
	if level >= MaxLevel {
		return formatErrorf("level %d, want at most %d", level, MaxLevel-1)
	}
	if level > 0 {
		if count == 0 || count > uint32(MaxPtrs(len(n))) {
			return formatErrorf("interior node with %d pointers, want 1 to %d", count, MaxPtrs(len(n)))
		}
		for i := 1; i < int(count); i++ {
			if !n.Key(i - 1).Less(n.Key(i)) {
				return formatErrorf("slot %d: key %v not above the key before it, %v", i, n.Key(i), n.Key(i-1))
			}
		}
		return nil
	}
	if count > uint32(LeafDataSize(len(n))/ItemHeaderSize) {
		return formatErrorf("leaf with %d items in %d bytes", count, len(n))
	}
	end := uint32(LeafDataSize(len(n)))
	var prev Key
	for i := 0; i < int(count); i++ {
		b := n[HeaderSize+i*ItemHeaderSize:]
		k, off, size := ParseKey(b), le.Uint32(b[KeySize:]), le.Uint32(b[KeySize+4:])
		if i > 0 && !prev.Less(k) {
			return formatErrorf("slot %d: key %v not above the key before it, %v", i, k, prev)
		}
		if size > end || off != end-size {
			return formatErrorf("slot %d: item at offset %d size %d does not end at %d", i, off, size, end)
		}
		prev, end = k, off
	}
	if end < count*ItemHeaderSize {
		return formatErrorf("item data at %d overlaps %d item headers", end, count)
	}
	return nil
}
