package disk

import (
	"fmt"
	"math/bits"
)

func (c *checker) rootItem() error {
	id := c.key.ObjectID
	if id == 0 {
		return c.fail("key objectid", 0, "a tree")
	}
	// Earlier kernels relocated the data relocation tree as they did subvolumes;
	// Linux 6.18 refuses what is left of that.
	if of := ObjectID(c.key.Offset); id == TreeReloc && !isFSTree(of) && (of != TreeDataReloc || c.g.Writable) {
		return c.fail("key offset", c.key.Offset, "the subvolume that is relocated")
	}
	b := c.data
	if len(b) != RootItemSize && len(b) != LegacyRootItemSize {
		return c.fail("item size", len(b), "%d or %d", RootItemSize, LegacyRootItemSize)
	}
	if err := c.generation("generation", TransID(le.Uint64(b[160:]))); err != nil {
		return err
	}
	if err := c.generation("last_snapshot", TransID(le.Uint64(b[200:]))); err != nil {
		return err
	}
	if len(b) == RootItemSize {
		if err := c.generation("generation_v2", TransID(le.Uint64(b[239:]))); err != nil {
			return err
		}
	}
	if err := c.aligned("bytenr", le.Uint64(b[176:])); err != nil {
		return err
	}
	if level := b[238]; level >= MaxLevel {
		return c.fail("level", level, "at most %d", MaxLevel-1)
	}
	if level := b[237]; level >= MaxLevel {
		return c.fail("drop_level", level, "at most %d", MaxLevel-1)
	}
	if flags := le.Uint64(b[208:]); flags&^(RootSubvolReadOnly|RootSubvolDead) != 0 {
		return c.fail("flags", fmt.Sprintf("%#x", flags), "only known flags")
	}
	return nil
}

func (c *checker) rootRef() error {
	const header = 18
	if len(c.data) <= header {
		return c.fail("item size", len(c.data), "at least %d", header+1)
	}
	n := int(le.Uint16(c.data[16:]))
	if n == 0 || n > MaxNameLen {
		return c.fail("name_len", n, "1 to %d", MaxNameLen)
	}
	return c.size(header + n)
}

func (c *checker) blockGroupItem() error {
	if c.key.Offset == 0 {
		return c.fail("key offset", 0, "a length")
	}
	if err := c.size(blockGroupItemSize); err != nil {
		return err
	}
	used, chunk, flags := le.Uint64(c.data), ObjectID(le.Uint64(c.data[8:])), BlockGroupFlags(le.Uint64(c.data[16:]))
	switch {
	case chunk != FirstChunkTree:
		return c.fail("chunk_objectid", uint64(chunk), "%d", uint64(FirstChunkTree))
	case used > c.key.Offset:
		return c.fail("used", used, "at most %d", c.key.Offset)
	case bits.OnesCount64(uint64(flags.Profile())) > 1:
		return c.fail("flags", flags, "at most one profile")
	}
	switch flags.Type() {
	case BlockGroupData, BlockGroupMetadata, BlockGroupSystem, BlockGroupMixed:
		return nil
	}
	return c.fail("flags", flags, "data, metadata, both, or system")
}

// freeSpace checks the three item types of the free-space tree. Ranges are not
// compared: an extent and its group's info have the same start.
func (c *checker) freeSpace() error {
	if err := c.keyRange(); err != nil {
		return err
	}
	sectors := c.key.Offset / (c.sectorMask + 1)
	switch c.key.Type {
	case KeyFreeSpaceExtent:
		return c.size(0)
	case KeyFreeSpaceBitmap:
		if want := (sectors + 7) / 8; uint64(len(c.data)) != want {
			return c.fail("item size", len(c.data), "%d", want)
		}
		return nil
	}
	if err := c.size(8); err != nil {
		return err
	}
	if count := le.Uint32(c.data); uint64(count) > sectors {
		return c.fail("extent_count", count, "at most %d", sectors)
	}
	if flags := le.Uint32(c.data[4:]); flags&^FreeSpaceUsingBitmaps != 0 {
		return c.fail("flags", fmt.Sprintf("%#x", flags), "at most %#x", FreeSpaceUsingBitmaps)
	}
	return nil
}

func (c *checker) devExtent() error {
	if err := c.size(devExtentSize); err != nil {
		return err
	}
	tree, chunk := ObjectID(le.Uint64(c.data)), ObjectID(le.Uint64(c.data[8:]))
	if tree != TreeChunk {
		return c.fail("chunk_tree", uint64(tree), "%d", uint64(TreeChunk))
	}
	if chunk != FirstChunkTree {
		return c.fail("chunk_objectid", uint64(chunk), "%d", uint64(FirstChunkTree))
	}
	if err := c.aligned("key offset", c.key.Offset); err != nil {
		return err
	}
	if err := c.aligned("chunk_offset", le.Uint64(c.data[16:])); err != nil {
		return err
	}
	length := le.Uint64(c.data[24:])
	if err := c.aligned("length", length); err != nil {
		return err
	}
	if c.prev.Type == KeyDevExtent && c.prev.ObjectID == c.key.ObjectID && c.prevEnd > c.key.Offset {
		return c.fail("key offset", c.key.Offset, "at least %d, the end of the device extent before", c.prevEnd)
	}
	if c.prevEnd = c.key.Offset + length; c.prevEnd < length {
		return c.fail("length", length, "a range that ends below 2^64")
	}
	return nil
}

func (c *checker) devItem() error {
	if c.key.ObjectID != DevItemsObjectID {
		return c.fail("key objectid", uint64(c.key.ObjectID), "%d", uint64(DevItemsObjectID))
	}
	if err := c.size(devItemSize); err != nil {
		return err
	}
	if id := le.Uint64(c.data); id != c.key.Offset {
		return c.fail("devid", id, "the key's offset")
	}
	// The size is 0 while the device is being removed.
	if total, used := le.Uint64(c.data[8:]), le.Uint64(c.data[16:]); used > total {
		return c.fail("bytes_used", used, "at most %d", total)
	}
	return nil
}

func (c *checker) chunkItem() error {
	if len(c.data) < chunkFixedSize {
		return c.fail("item size", len(c.data), "at least %d", chunkFixedSize)
	}
	if n := int(le.Uint16(c.data[44:])); n > 0 {
		if err := c.size(chunkFixedSize + n*stripeSize); err != nil {
			return err
		}
	}
	if bad := checkChunk(Logical(c.key.Offset), c.data, &c.g); bad != nil {
		return c.fail(bad.field, bad.found, "%s", bad.want)
	}
	return nil
}

func (c *checker) raidStripe() error {
	if c.g.IncompatFlags&IncompatRaidStripeTree == 0 {
		return c.fail("key type", c.key.Type, "none without the raid-stripe-tree feature")
	}
	if err := c.aligned("key objectid", uint64(c.key.ObjectID)); err != nil {
		return err
	}
	if len(c.data) == 0 || len(c.data)%16 != 0 {
		return c.fail("item size", len(c.data), "a multiple of 16 above 0")
	}
	return nil
}

func (c *checker) qgroup() error {
	switch c.key.Type {
	case KeyQgroupStatus:
		if len(c.data) != 32 && len(c.data) != 40 {
			return c.fail("item size", len(c.data), "32, or 40 with simple quotas")
		}
		return nil
	case KeyQgroupRelation:
		return c.size(0)
	}
	return c.size(40)
}

// badField is what is wrong with a chunk.
type badField struct {
	field string
	found any
	want  string
}

// maxChunkLen is the limit of the kernel, so that the number of stripe elements
// fits 32 bits.
const maxChunkLen = StripeLen * (1<<32 - 1)

// checkChunk checks the fixed part of a chunk item; b has it whole.
func checkChunk(logical Logical, b []byte, g *Geometry) *badField {
	length, stripeLen := le.Uint64(b), le.Uint64(b[16:])
	flags, sector := BlockGroupFlags(le.Uint64(b[24:])), le.Uint32(b[40:])
	mask := uint64(g.SectorSize) - 1
	switch {
	case uint64(logical)&mask != 0:
		return &badField{"logical address", uint64(logical), fmt.Sprintf("a multiple of %d", g.SectorSize)}
	case int(sector) != g.SectorSize:
		return &badField{"sector_size", sector, fmt.Sprint(g.SectorSize)}
	case length == 0 || length&mask != 0 || length >= maxChunkLen || uint64(logical)+length < length:
		return &badField{"length", length, fmt.Sprintf("a multiple of %d from 1 to %d that ends below 2^64", g.SectorSize, uint64(maxChunkLen-1))}
	case stripeLen != StripeLen:
		return &badField{"stripe_len", stripeLen, fmt.Sprint(StripeLen)}
	case flags&^(BlockGroupTypeMask|BlockGroupProfileMask) != 0:
		return &badField{"type", fmt.Sprintf("%#x", uint64(flags)), "only known bits"}
	case bits.OnesCount64(uint64(flags.Profile())) > 1:
		return &badField{"type", flags, "at most one profile"}
	case flags.Type() == 0:
		return &badField{"type", fmt.Sprintf("%#x", uint64(flags)), "data, metadata or system"}
	case flags&BlockGroupSystem != 0 && flags.Type() != BlockGroupSystem:
		return &badField{"type", flags, "system alone"}
	case flags.Type() == BlockGroupMixed && g.IncompatFlags&IncompatMixedGroups == 0:
		return &badField{"type", flags, "no mixed groups without the feature"}
	}
	return checkStripes(flags, int(le.Uint16(b[44:])), int(le.Uint16(b[46:])))
}

// checkStripes checks the number of stripes against the profile.
func checkStripes(flags BlockGroupFlags, stripes, subStripes int) *badField {
	p := ProfileOf(flags)
	fewest, most := p.DevsMin*p.DevStripes, p.DevsMax*p.DevStripes
	switch {
	case most != 0 && stripes != most:
		return &badField{"num_stripes", stripes, fmt.Sprintf("%d for %s", most, p.Name)}
	case stripes < fewest:
		return &badField{"num_stripes", stripes, fmt.Sprintf("at least %d for %s", fewest, p.Name)}
	case p.SubStripes > 1 && (subStripes != p.SubStripes || stripes%subStripes != 0):
		return &badField{"sub_stripes", fmt.Sprintf("%d of %d stripes", subStripes, stripes), fmt.Sprintf("%d, and a multiple of that many stripes, for %s", p.SubStripes, p.Name)}
	}
	return nil
}
