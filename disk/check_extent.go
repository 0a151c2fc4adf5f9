package disk

import "fmt"

// extentItem checks the record of an extent: of data, or of a tree block.
func (c *checker) extentItem() error {
	skinny := c.key.Type == KeyMetadataItem
	if skinny && c.g.IncompatFlags&IncompatSkinnyMetadata == 0 {
		return c.fail("key type", c.key.Type, "%v without skinny metadata", KeyExtentItem)
	}
	if err := c.aligned("key objectid", uint64(c.key.ObjectID)); err != nil {
		return err
	}
	if skinny && c.key.Offset >= MaxLevel {
		return c.fail("key offset", c.key.Offset, "a level, at most %d", MaxLevel-1)
	}
	if len(c.data) < extentItemSize {
		return c.fail("item size", len(c.data), "at least %d", extentItemSize)
	}
	refs, gen, flags := le.Uint64(c.data), TransID(le.Uint64(c.data[8:])), le.Uint64(c.data[16:])
	if err := c.generation("generation", gen); err != nil {
		return err
	}
	rest := c.data[extentItemSize:]
	switch flags & (ExtentFlagData | ExtentFlagTreeBlock) {
	case ExtentFlagTreeBlock:
		if skinny {
			break
		}
		if c.key.Offset != uint64(c.g.NodeSize) {
			return c.fail("key offset", c.key.Offset, "%d, the size of a node", c.g.NodeSize)
		}
		if len(rest) < treeBlockInfoSize {
			return c.fail("item size", len(c.data), "at least %d", extentItemSize+treeBlockInfoSize)
		}
		if level := rest[KeySize]; level >= MaxLevel {
			return c.fail("level", level, "at most %d", MaxLevel-1)
		}
		rest = rest[treeBlockInfoSize:]
	case ExtentFlagData:
		if skinny {
			return c.fail("key type", c.key.Type, "%v for data", KeyExtentItem)
		}
		if err := c.aligned("key offset", c.key.Offset); err != nil {
			return err
		}
		if flags&ExtentFlagFullBackref != 0 {
			return c.fail("flags", fmt.Sprintf("%#x", flags), "no FULL_BACKREF for data")
		}
	default:
		return c.fail("flags", fmt.Sprintf("%#x", flags), "DATA or TREE_BLOCK")
	}
	inline, err := c.inlineRefs(rest)
	if err != nil {
		return err
	}
	if inline > refs {
		return c.fail("refs", refs, "at least %d, the number of inline references", inline)
	}
	return c.afterExtent(skinny)
}

// afterExtent checks that the extent begins behind the one before it.
func (c *checker) afterExtent(skinny bool) error {
	start, length := uint64(c.key.ObjectID), c.key.Offset
	if skinny {
		length = uint64(c.g.NodeSize)
	}
	if start+length < start {
		return c.fail("key offset", c.key.Offset, "a length that stays below 2^64")
	}
	if (c.prev.Type == KeyExtentItem || c.prev.Type == KeyMetadataItem) && c.prevEnd > start {
		return c.fail("key objectid", start, "at least %d, the end of the extent before", c.prevEnd)
	}
	c.prevEnd = start + length
	return nil
}

// inlineRefs checks the inline references of an extent item and counts them.
// They stand by rising type, and within one type by falling hash, tree or
// address.
func (c *checker) inlineRefs(rest []byte) (count uint64, err error) {
	lastType, lastSeq := KeyType(0), uint64(1<<64-1)
	for len(rest) > 0 {
		t := KeyType(rest[0])
		size := InlineRefSize(t)
		if size == 0 {
			return 0, c.fail("inline reference type", uint8(t), "a known one")
		}
		if len(rest) < size {
			return 0, c.fail("inline reference", fmt.Sprintf("of %d bytes in %d", size, len(rest)), "")
		}
		b := rest[1:size]
		seq := le.Uint64(b)
		switch t {
		case KeyTreeBlockRef:
			count++
		case KeySharedBlockRef:
			count++
			err = c.aligned("parent", seq)
		case KeySharedDataRef:
			count += uint64(le.Uint32(b[8:]))
			if err = c.aligned("parent", seq); err == nil {
				err = c.refCount(le.Uint32(b[8:]))
			}
		case KeyExtentDataRef:
			seq = dataRefHash(b)
			count += uint64(le.Uint32(b[24:]))
			err = c.dataRef(b)
		}
		if err != nil {
			return 0, err
		}
		if t < lastType || t == lastType && seq > lastSeq {
			return 0, c.fail("inline reference", fmt.Sprintf("of type %d, sequence %#x after type %d, sequence %#x", t, seq, lastType, lastSeq), "them in order")
		}
		lastType, lastSeq = t, seq
		rest = rest[size:]
	}
	return count, nil
}

// dataRef checks a data reference's fields: tree, inode, offset, count.
func (c *checker) dataRef(b []byte) error {
	root, ino := ObjectID(le.Uint64(b)), ObjectID(le.Uint64(b[8:]))
	// The root tree refers to data for the v1 free-space cache.
	if !isFSTree(root) && root != TreeDataReloc && root != TreeRoot {
		return c.fail("data reference root", uint64(root), "a tree with files")
	}
	// Linux 6.18 knows the inode cache no more and refuses its extents, but
	// earlier kernels made them, and they stand in nobody's way.
	cache := ino == FreeInoObjectID && !c.g.Writable
	if (ino < FirstFreeObjectID || ino > LastFreeObjectID) && !cache {
		return c.fail("data reference objectid", uint64(ino), "an inode number")
	}
	if err := c.aligned("data reference offset", le.Uint64(b[16:])); err != nil {
		return err
	}
	return c.refCount(le.Uint32(b[24:]))
}

func (c *checker) refCount(n uint32) error {
	if n == 0 {
		return c.fail("reference count", n, "at least 1")
	}
	return nil
}

// keyedRef checks references that stand as items of their own.
func (c *checker) keyedRef() error {
	if c.key.Type == KeyExtentRefV0 || c.key.Type == KeyExtentOwnerRef {
		return c.fail("key type", c.key.Type, "a reference that can be an item")
	}
	if err := c.aligned("key objectid", uint64(c.key.ObjectID)); err != nil {
		return err
	}
	switch c.key.Type {
	case KeyTreeBlockRef:
		return c.size(0)
	case KeySharedBlockRef:
		if err := c.aligned("key offset", c.key.Offset); err != nil {
			return err
		}
		return c.size(0)
	case KeySharedDataRef:
		if err := c.aligned("key offset", c.key.Offset); err != nil {
			return err
		}
		if err := c.size(4); err != nil {
			return err
		}
		return c.refCount(le.Uint32(c.data))
	}
	if err := c.size(28); err != nil {
		return err
	}
	return c.dataRef(c.data)
}
