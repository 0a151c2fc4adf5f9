package disk

import "fmt"

// Parts of st_mode.
const (
	modeTypeMask = 0o170000
	modeMask     = modeTypeMask | 0o7777
	modeDir      = 0o040000
)

// inodeFlagMask has the inode flags that Linux 6.18 knows, the lower half of
// the flag word; inodeROFlagMask those of the upper half.
const (
	inodeFlagMask   = InodeCompress<<1 - 1 | InodeRootItemIni
	inodeROFlagMask = InodeROVerity
)

func (c *checker) inodeItem() error {
	if !isInode(c.key.ObjectID) {
		return c.fail("key objectid", uint64(c.key.ObjectID), "an inode number")
	}
	if c.key.Offset != 0 {
		return c.fail("key offset", c.key.Offset, "0")
	}
	if err := c.size(InodeItemSize); err != nil {
		return err
	}
	b := c.data
	if err := c.generation("generation", TransID(le.Uint64(b))); err != nil {
		return err
	}
	if err := c.generation("transid", TransID(le.Uint64(b[8:]))); err != nil {
		return err
	}
	nlink, mode, flags := le.Uint32(b[40:]), le.Uint32(b[52:]), le.Uint64(b[64:])
	if mode&^uint32(modeMask) != 0 || !hasFileType(mode) {
		return c.fail("mode", fmt.Sprintf("%#o", mode), "permissions and a file type")
	}
	if mode&modeTypeMask == modeDir && nlink > 1 {
		return c.fail("nlink", nlink, "at most 1 for a directory")
	}
	if unknown := flags & (1<<32 - 1) &^ inodeFlagMask; unknown != 0 {
		return c.fail("flags", fmt.Sprintf("%#x", flags), "only known flags, not %#x", unknown)
	}
	if unknown := flags >> 32 << 32 &^ inodeROFlagMask; unknown != 0 && c.g.Writable {
		return c.fail("flags", fmt.Sprintf("%#x", flags), "only known flags for writing, not %#x", unknown)
	}
	return nil
}

// hasFileType says whether mode has the type of a fifo, character device,
// directory, block device, file, symbolic link or socket.
func hasFileType(mode uint32) bool {
	switch mode & modeTypeMask >> 12 {
	case 1, 2, 4, 6, 8, 10, 12:
		return true
	}
	return false
}

func (c *checker) inodeRef() error {
	if err := c.sameInode(); err != nil {
		return err
	}
	if len(c.data) == 0 {
		return c.fail("item size", 0, "at least 11")
	}
	for rest := c.data; len(rest) > 0; {
		ref, next, err := ParseInodeRef(rest)
		if err != nil || len(ref.Name) == 0 {
			return c.badName(len(c.data)-len(rest), err)
		}
		rest = next
	}
	return nil
}

func (c *checker) inodeExtref() error {
	if err := c.sameInode(); err != nil {
		return err
	}
	if len(c.data) == 0 {
		return c.fail("item size", 0, "at least 19")
	}
	for rest := c.data; len(rest) > 0; {
		ref, next, err := ParseInodeExtref(rest)
		if err != nil || len(ref.Name) == 0 {
			return c.badName(len(c.data)-len(rest), err)
		}
		rest = next
	}
	return nil
}

// badName is the error of a list of names that breaks at a byte of the item.
func (c *checker) badName(at int, err error) error {
	if err != nil {
		return c.fail("entry", fmt.Sprintf("at byte %d of %d reaches behind the item", at, len(c.data)), "")
	}
	return c.fail("name_len", fmt.Sprintf("0 at byte %d of %d", at, len(c.data)), "at least 1")
}

// dirItem checks directory items, directory indexes and extended attributes.
func (c *checker) dirItem() error {
	if err := c.sameInode(); err != nil {
		return err
	}
	for rest := c.data; len(rest) > 0; {
		d, next, err := ParseDirItem(rest)
		if err != nil {
			return c.badName(len(c.data)-len(rest), err)
		}
		if err := c.dirEntry(&d); err != nil {
			return err
		}
		rest = next
	}
	return nil
}

func (c *checker) dirEntry(d *DirItem) error {
	xattr := c.key.Type == KeyXattrItem
	if err := c.location(d.Location, xattr); err != nil {
		return err
	}
	t := d.Type &^ FtEncrypted
	if t == FtUnknown || t >= FtMax {
		return c.fail("type", d.Type, "%d to %d", FtRegFile, FtMax-1)
	}
	if (t == FtXattr) != xattr {
		return c.fail("type", d.Type, "%d in xattr items and only there", FtXattr)
	}
	if len(d.Name) > MaxNameLen {
		return c.fail("name_len", len(d.Name), "at most %d", MaxNameLen)
	}
	if most := LeafDataSize(len(c.n)) - ItemHeaderSize - dirItemHeader; len(d.Name)+len(d.Data) > most {
		return c.fail("name_len and data_len", len(d.Name)+len(d.Data), "at most %d", most)
	}
	if len(d.Data) != 0 && !xattr {
		return c.fail("data_len", len(d.Data), "0")
	}
	if c.key.Type != KeyDirIndex {
		if h := uint64(NameHash(d.Name)); h != c.key.Offset {
			return c.fail("name hash", fmt.Sprintf("%d of %q", h, d.Name), "the key's offset")
		}
	}
	return nil
}

// location checks what a directory entry points to: an inode of the same tree or
// the root of a subvolume.
func (c *checker) location(l Key, xattr bool) error {
	switch {
	case xattr:
		if l != (Key{}) {
			return c.fail("location", l, "zeros in an xattr item")
		}
	case l.Type == KeyRootItem:
		if !isFSTree(l.ObjectID) {
			return c.fail("location", l, "the id of a subvolume")
		}
	case l.Type == KeyInodeItem || l.Type == 0:
		if !isInode(l.ObjectID) {
			return c.fail("location", l, "an inode number")
		}
		if l.Offset != 0 {
			return c.fail("location", l, "offset 0")
		}
	default:
		return c.fail("location", l, "an inode item or a root item")
	}
	return nil
}

func (c *checker) extentData() error {
	if err := c.aligned("key offset", c.key.Offset); err != nil {
		return err
	}
	if err := c.sameInode(); err != nil {
		return err
	}
	b := c.data
	if len(b) < FileExtentInlineHeader {
		return c.fail("item size", len(b), "at least %d", FileExtentInlineHeader)
	}
	ram, algo, kind := le.Uint64(b[8:]), Compression(b[16]), FileExtentType(b[20])
	switch {
	case kind > FileExtentPrealloc:
		return c.fail("type", uint8(kind), "%d to %d", uint8(FileExtentInline), uint8(FileExtentPrealloc))
	case algo > CompressZstd:
		return c.fail("compression", uint8(algo), "%d to %d", uint8(CompressNone), uint8(CompressZstd))
	case b[17] != 0:
		return c.fail("encryption", b[17], "0")
	}
	before, hasBefore := c.prevEnd, c.prev.Type == KeyExtentData && c.prev.ObjectID == c.key.ObjectID
	if kind == FileExtentInline {
		if c.key.Offset != 0 {
			return c.fail("key offset", c.key.Offset, "0 for an inline extent")
		}
		if algo == CompressNone && ram != uint64(len(b)-FileExtentInlineHeader) {
			return c.fail("ram_bytes", ram, "%d, the size of the inline data", len(b)-FileExtentInlineHeader)
		}
		c.prevEnd = (ram + c.sectorMask) &^ c.sectorMask
		return nil
	}
	if err := c.size(FileExtentSize); err != nil {
		return err
	}
	if err := c.extentDataFields(ram, b); err != nil {
		return err
	}
	length := le.Uint64(b[45:])
	c.prevEnd = c.key.Offset + length
	if c.prevEnd < length {
		return c.fail("num_bytes", length, "a range that ends below 2^64")
	}
	if hasBefore && before > c.key.Offset {
		return c.fail("key offset", c.key.Offset, "at least %d, the end of the extent before", before)
	}
	return nil
}

// extentDataFields checks the addresses and lengths of a regular extent.
func (c *checker) extentDataFields(ram uint64, b []byte) error {
	if err := c.aligned("ram_bytes", ram); err != nil {
		return err
	}
	if err := c.aligned("disk_bytenr", le.Uint64(b[21:])); err != nil {
		return err
	}
	if err := c.aligned("disk_num_bytes", le.Uint64(b[29:])); err != nil {
		return err
	}
	if err := c.aligned("offset", le.Uint64(b[37:])); err != nil {
		return err
	}
	return c.aligned("num_bytes", le.Uint64(b[45:]))
}

func (c *checker) extentCsum() error {
	if c.key.ObjectID != ExtentCsumObjectID {
		return c.fail("key objectid", uint64(c.key.ObjectID), "%d", uint64(ExtentCsumObjectID))
	}
	if err := c.aligned("key offset", c.key.Offset); err != nil {
		return err
	}
	size := c.g.CsumType.Size()
	if size == 0 || len(c.data)%size != 0 {
		return c.fail("item size", len(c.data), "a multiple of %d", size)
	}
	if c.prev.Type == KeyExtentCsum && c.prevEnd > c.key.Offset {
		return c.fail("key offset", c.key.Offset, "at least %d, the end of the item before", c.prevEnd)
	}
	c.prevEnd = c.key.Offset + uint64(len(c.data)/size)*uint64(c.g.SectorSize)
	return nil
}
