package disk

// StripeLen is the length of one stripe element in every chunk, in bytes.
const StripeLen = 65536

const (
	devItemSize    = 98
	chunkFixedSize = 48
	stripeSize     = 32
)

// DevItem describes a device (struct btrfs_dev_item).
type DevItem struct {
	DevID       DevID
	TotalBytes  uint64
	BytesUsed   uint64 // sum of the device's dev extents
	IOAlign     uint32
	IOWidth     uint32
	SectorSize  uint32
	Type        uint64
	Generation  TransID
	StartOffset uint64
	DevGroup    uint32
	SeekSpeed   uint8
	Bandwidth   uint8
	UUID        UUID
	FSID        UUID
}

// ParseDevItem decodes a device item.
func ParseDevItem(b []byte) (DevItem, error) {
	if len(b) != devItemSize {
		return DevItem{}, sizeError("device item", len(b), devItemSize)
	}
	return DevItem{
		DevID: DevID(le.Uint64(b)), TotalBytes: le.Uint64(b[8:]), BytesUsed: le.Uint64(b[16:]),
		IOAlign: le.Uint32(b[24:]), IOWidth: le.Uint32(b[28:]), SectorSize: le.Uint32(b[32:]),
		Type: le.Uint64(b[36:]), Generation: TransID(le.Uint64(b[44:])), StartOffset: le.Uint64(b[52:]),
		DevGroup: le.Uint32(b[60:]), SeekSpeed: b[64], Bandwidth: b[65],
		UUID: UUID(b[66:82]), FSID: UUID(b[82:98]),
	}, nil
}

// Append appends the item's bytes.
func (d *DevItem) Append(b []byte) []byte {
	for _, v := range [...]uint64{uint64(d.DevID), d.TotalBytes, d.BytesUsed} {
		b = le.AppendUint64(b, v)
	}
	for _, v := range [...]uint32{d.IOAlign, d.IOWidth, d.SectorSize} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range [...]uint64{d.Type, uint64(d.Generation), d.StartOffset} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, d.DevGroup)
	b = append(b, d.SeekSpeed, d.Bandwidth)
	b = append(b, d.UUID[:]...)
	return append(b, d.FSID[:]...)
}

// Stripe is one device's part of a chunk.
type Stripe struct {
	DevID   DevID
	Offset  uint64 // physical, in bytes
	DevUUID UUID
}

// Chunk maps a logical range to stripes (struct btrfs_chunk).
type Chunk struct {
	Length     uint64 // logical bytes
	Owner      ObjectID
	StripeLen  uint64
	Type       BlockGroupFlags
	IOAlign    uint32
	IOWidth    uint32
	SectorSize uint32
	SubStripes uint16
	Stripes    []Stripe
}

// ChunkMapping is a chunk with the logical address where it starts.
type ChunkMapping struct {
	Logical Logical
	Chunk
}

// End is the first logical address behind the chunk.
func (c *ChunkMapping) End() Logical { return c.Logical + Logical(c.Length) }

// StripeLength is the length of the chunk's extent on each of its devices.
func (c *Chunk) StripeLength() uint64 {
	n := ProfileOf(c.Type).DataStripes(len(c.Stripes))
	if n <= 0 {
		return 0
	}
	return c.Length / uint64(n)
}

// ParseChunk decodes a chunk item; the stripes are copied.
func ParseChunk(b []byte) (Chunk, error) {
	if len(b) < chunkFixedSize {
		return Chunk{}, sizeError("chunk item", len(b), chunkFixedSize+stripeSize)
	}
	n := int(le.Uint16(b[44:]))
	if len(b) != chunkFixedSize+n*stripeSize {
		return Chunk{}, sizeError("chunk item", len(b), chunkFixedSize+n*stripeSize)
	}
	c := Chunk{
		Length: le.Uint64(b), Owner: ObjectID(le.Uint64(b[8:])), StripeLen: le.Uint64(b[16:]),
		Type: BlockGroupFlags(le.Uint64(b[24:])), IOAlign: le.Uint32(b[32:]), IOWidth: le.Uint32(b[36:]),
		SectorSize: le.Uint32(b[40:]), SubStripes: le.Uint16(b[46:]), Stripes: make([]Stripe, n),
	}
	for i := range c.Stripes {
		s := b[chunkFixedSize+i*stripeSize:]
		c.Stripes[i] = Stripe{DevID(le.Uint64(s)), le.Uint64(s[8:]), UUID(s[16:32])}
	}
	return c, nil
}

// Append appends the item's bytes.
func (c *Chunk) Append(b []byte) []byte {
	for _, v := range [...]uint64{c.Length, uint64(c.Owner), c.StripeLen, uint64(c.Type)} {
		b = le.AppendUint64(b, v)
	}
	for _, v := range [...]uint32{c.IOAlign, c.IOWidth, c.SectorSize} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint16(b, uint16(len(c.Stripes)))
	b = le.AppendUint16(b, c.SubStripes)
	for i := range c.Stripes {
		s := &c.Stripes[i]
		b = le.AppendUint64(b, uint64(s.DevID))
		b = le.AppendUint64(b, s.Offset)
		b = append(b, s.DevUUID[:]...)
	}
	return b
}

// DevExtent says which chunk uses a piece of a device. Its key is
// (devid, DEV_EXTENT, physical).
type DevExtent struct {
	ChunkTree     ObjectID
	ChunkObjectID ObjectID
	ChunkOffset   Logical
	Length        uint64
	ChunkTreeUUID UUID
}

const devExtentSize = 48

// ParseDevExtent decodes a device extent.
func ParseDevExtent(b []byte) (DevExtent, error) {
	if len(b) != devExtentSize {
		return DevExtent{}, sizeError("device extent", len(b), devExtentSize)
	}
	return DevExtent{
		ObjectID(le.Uint64(b)), ObjectID(le.Uint64(b[8:])), Logical(le.Uint64(b[16:])),
		le.Uint64(b[24:]), UUID(b[32:48]),
	}, nil
}

// Append appends the item's bytes.
func (d *DevExtent) Append(b []byte) []byte {
	for _, v := range [...]uint64{uint64(d.ChunkTree), uint64(d.ChunkObjectID), uint64(d.ChunkOffset), d.Length} {
		b = le.AppendUint64(b, v)
	}
	return append(b, d.ChunkTreeUUID[:]...)
}

// BlockGroupItem is the accounting of a chunk; key (logical, BLOCK_GROUP_ITEM,
// length).
type BlockGroupItem struct {
	Used          uint64
	ChunkObjectID ObjectID
	Flags         BlockGroupFlags
}

const blockGroupItemSize = 24

// ParseBlockGroupItem decodes a block group item.
func ParseBlockGroupItem(b []byte) (BlockGroupItem, error) {
	if len(b) != blockGroupItemSize {
		return BlockGroupItem{}, sizeError("block group item", len(b), blockGroupItemSize)
	}
	return BlockGroupItem{le.Uint64(b), ObjectID(le.Uint64(b[8:])), BlockGroupFlags(le.Uint64(b[16:]))}, nil
}

// Append appends the item's bytes.
func (g *BlockGroupItem) Append(b []byte) []byte {
	b = le.AppendUint64(b, g.Used)
	b = le.AppendUint64(b, uint64(g.ChunkObjectID))
	return le.AppendUint64(b, uint64(g.Flags))
}

// FreeSpaceInfo heads a block group in the free-space tree; key (logical,
// FREE_SPACE_INFO, length).
type FreeSpaceInfo struct {
	ExtentCount uint32
	Flags       uint32
}

// FreeSpaceUsingBitmaps in FreeSpaceInfo.Flags: the group's free space stands
// in bitmaps, not extents.
const FreeSpaceUsingBitmaps uint32 = 1

// FreeSpaceBitmapSize is the size of one full free-space bitmap in bytes; it
// covers 8*FreeSpaceBitmapSize sectors.
const FreeSpaceBitmapSize = 256

// ParseFreeSpaceInfo decodes a free-space info item.
func ParseFreeSpaceInfo(b []byte) (FreeSpaceInfo, error) {
	if len(b) != 8 {
		return FreeSpaceInfo{}, sizeError("free space info", len(b), 8)
	}
	return FreeSpaceInfo{le.Uint32(b), le.Uint32(b[4:])}, nil
}

// Append appends the item's bytes.
func (i FreeSpaceInfo) Append(b []byte) []byte {
	return le.AppendUint32(le.AppendUint32(b, i.ExtentCount), i.Flags)
}

// FreeSpaceHeader is the v1 free-space cache's item in the root tree; key
// (FREE_SPACE, 0, block group).
type FreeSpaceHeader struct {
	Location   Key
	Generation TransID
	NumEntries uint64
	NumBitmaps uint64
}

const freeSpaceHeaderSize = KeySize + 24

// ParseFreeSpaceHeader decodes a v1 cache header.
func ParseFreeSpaceHeader(b []byte) (FreeSpaceHeader, error) {
	if len(b) != freeSpaceHeaderSize {
		return FreeSpaceHeader{}, sizeError("free space header", len(b), freeSpaceHeaderSize)
	}
	return FreeSpaceHeader{ParseKey(b), TransID(le.Uint64(b[17:])), le.Uint64(b[25:]), le.Uint64(b[33:])}, nil
}

// RaidStride is one stripe of a raid-stripe-tree item.
type RaidStride struct {
	DevID    DevID
	Physical uint64
}

// ParseRaidStripe decodes a raid-stripe-tree item; key (logical, RAID_STRIPE,
// length).
func ParseRaidStripe(b []byte) ([]RaidStride, error) {
	if len(b) == 0 || len(b)%16 != 0 {
		return nil, formatErrorf("raid stripe item of %d bytes, want a multiple of 16", len(b))
	}
	out := make([]RaidStride, len(b)/16)
	for i := range out {
		out[i] = RaidStride{DevID(le.Uint64(b[16*i:])), le.Uint64(b[16*i+8:])}
	}
	return out, nil
}

// DevStats are a device's error counters; key (DEV_STATS, PERSISTENT_ITEM,
// devid).
type DevStats struct {
	WriteErrs, ReadErrs, FlushErrs, CorruptionErrs, GenerationErrs uint64
}

// ParseDevStats decodes device statistics. Items may be longer; fields that
// are not there are zero.
func ParseDevStats(b []byte) (DevStats, error) {
	if len(b) == 0 || len(b)%8 != 0 {
		return DevStats{}, formatErrorf("device statistics of %d bytes, want a multiple of 8", len(b))
	}
	var v [5]uint64
	for i := 0; i < len(v) && 8*i < len(b); i++ {
		v[i] = le.Uint64(b[8*i:])
	}
	return DevStats{v[0], v[1], v[2], v[3], v[4]}, nil
}

// Append appends the item's bytes.
func (s *DevStats) Append(b []byte) []byte {
	for _, v := range [...]uint64{s.WriteErrs, s.ReadErrs, s.FlushErrs, s.CorruptionErrs, s.GenerationErrs} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// Add adds the numbers of o.
func (s *DevStats) Add(o DevStats) {
	s.WriteErrs += o.WriteErrs
	s.ReadErrs += o.ReadErrs
	s.FlushErrs += o.FlushErrs
	s.CorruptionErrs += o.CorruptionErrs
	s.GenerationErrs += o.GenerationErrs
}

// States of a device replacement (BTRFS_IOCTL_DEV_REPLACE_STATE_*, Linux 6.18).
const (
	ReplaceNeverStarted uint64 = 0
	ReplaceStarted      uint64 = 1
	ReplaceFinished     uint64 = 2
	ReplaceCancelled    uint64 = 3
	ReplaceSuspended    uint64 = 4
)

// DevReplaceItem is the state of a device replacement; key (0, DEV_REPLACE, 0)
// in the device tree.
type DevReplaceItem struct {
	SrcDevID                 DevID
	CursorLeft, CursorRight  uint64
	ContReadingFromSrcdev    uint64
	State                    uint64 // ReplaceStarted …
	TimeStarted, TimeStopped uint64
	WriteErrors              uint64
	UncorrectableReadErrors  uint64
}

// UnderWay says whether there is a second device that wants every write.
func (r *DevReplaceItem) UnderWay() bool {
	return r.State == ReplaceStarted || r.State == ReplaceSuspended
}

// ParseDevReplaceItem decodes a device replace item.
func ParseDevReplaceItem(b []byte) (DevReplaceItem, error) {
	if len(b) < 72 {
		return DevReplaceItem{}, sizeError("device replace item", len(b), 72)
	}
	at := func(i int) uint64 { return le.Uint64(b[8*i:]) }
	return DevReplaceItem{DevID(at(0)), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8)}, nil
}
