package disk

import "bytes"

// Superblock geometry.
const (
	SuperInfoOffset    = 65536 // first copy, in bytes from the start of the device
	SuperInfoSize      = 4096
	SuperMirrorMax     = 3
	SystemArrayMax     = 2048
	LabelSize          = 256
	NumBackupRoots     = 4
	backupRootSize     = 168
	superMagic         = "_BHRfS_M"
	superMagicTemp     = "!BHRfS_M" // written by btrfs-progs while mkfs or convert is under way
	BlockReservedStart = 1 << 20    // no chunk uses the first MiB of a device
)

// SuperOffset is where copy i of the superblock stands: 64 KiB, 64 MiB,
// 256 GiB.
func SuperOffset(mirror int) uint64 {
	if mirror == 0 {
		return SuperInfoOffset
	}
	return 16384 << (12 * mirror)
}

// Incompatible features: an implementation that does not know one must not
// touch the filesystem.
const (
	IncompatMixedBackref   uint64 = 1 << 0
	IncompatDefaultSubvol  uint64 = 1 << 1
	IncompatMixedGroups    uint64 = 1 << 2
	IncompatCompressLZO    uint64 = 1 << 3
	IncompatCompressZstd   uint64 = 1 << 4
	IncompatBigMetadata    uint64 = 1 << 5
	IncompatExtendedIref   uint64 = 1 << 6
	IncompatRAID56         uint64 = 1 << 7
	IncompatSkinnyMetadata uint64 = 1 << 8
	IncompatNoHoles        uint64 = 1 << 9
	IncompatMetadataUUID   uint64 = 1 << 10
	IncompatRAID1C34       uint64 = 1 << 11
	IncompatZoned          uint64 = 1 << 12
	IncompatExtentTreeV2   uint64 = 1 << 13
	IncompatRaidStripeTree uint64 = 1 << 14
	IncompatSimpleQuota    uint64 = 1 << 16
	IncompatRemapTree      uint64 = 1 << 17
)

// Features that an implementation may ignore when reading only.
const (
	CompatROFreeSpaceTree      uint64 = 1 << 0
	CompatROFreeSpaceTreeValid uint64 = 1 << 1
	CompatROVerity             uint64 = 1 << 2
	CompatROBlockGroupTree     uint64 = 1 << 3
)

// Superblock flags.
const (
	SuperFlagWritten       uint64 = 1 << 0 // HeaderWritten
	SuperFlagReloc         uint64 = 1 << 1
	SuperFlagError         uint64 = 1 << 2
	SuperFlagSeeding       uint64 = 1 << 32
	SuperFlagMetadump      uint64 = 1 << 33
	SuperFlagMetadumpV2    uint64 = 1 << 34
	SuperFlagChangingFSID  uint64 = 1 << 35
	SuperFlagChangingFSID2 uint64 = 1 << 36
	SuperFlagChangingBGT   uint64 = 1 << 38 // block-group-tree conversion under way
	SuperFlagChangingData  uint64 = 1 << 39 // data checksum change under way
	SuperFlagChangingMeta  uint64 = 1 << 40
)

// Superblock is the decoded superblock. SysChunkArray holds the raw bytes in
// use; raw keeps bytes that no field names, so that writing it back keeps
// what a newer kernel put there.
type Superblock struct {
	Csum               [CsumSize]byte
	FSID               UUID
	Bytenr             uint64 // physical address of this copy
	Flags              uint64
	Generation         TransID
	Root               Logical
	ChunkRoot          Logical
	LogRoot            Logical
	LogRootTransID     uint64 // unused by the kernel
	TotalBytes         uint64
	BytesUsed          uint64
	RootDirObjectID    ObjectID
	NumDevices         uint64
	SectorSize         uint32
	NodeSize           uint32
	LeafSize           uint32 // unused, equals NodeSize
	StripeSize         uint32 // equals SectorSize
	SysChunkArraySize  uint32
	ChunkRootGen       TransID
	CompatFlags        uint64
	CompatROFlags      uint64
	IncompatFlags      uint64
	CsumType           CsumType
	RootLevel          uint8
	ChunkRootLevel     uint8
	LogRootLevel       uint8
	DevItem            DevItem
	Label              string
	CacheGeneration    uint64 // v1 free-space cache
	UUIDTreeGeneration uint64
	MetadataUUID       UUID // only with IncompatMetadataUUID
	NrGlobalRoots      uint64
	SysChunkArray      []byte
	BackupRoots        [NumBackupRoots]RootBackup
	raw                []byte
}

// RootBackup is the place of the important roots of one earlier transaction.
type RootBackup struct {
	TreeRoot, ChunkRoot, ExtentRoot, FSRoot, DevRoot, CsumRoot                               Logical
	TreeRootGen, ChunkRootGen, ExtentRootGen, FSRootGen, DevRootGen, CsumRootGen             TransID
	TotalBytes, BytesUsed, NumDevices                                                        uint64
	TreeRootLevel, ChunkRootLevel, ExtentRootLevel, FSRootLevel, DevRootLevel, CsumRootLevel uint8
}

// Offsets of superblock fields from its start (struct btrfs_super_block).
const (
	sbMagic         = 64
	sbDevItem       = 201
	sbLabel         = 299
	sbCacheGen      = 555
	sbUUIDTreeGen   = 563
	sbMetadataUUID  = 571
	sbNrGlobalRoots = 587
	sbSysArray      = 811
	sbBackupRoots   = 2859
)

// HasMagic says whether b looks like a superblock at all.
func HasMagic(b []byte) bool {
	return len(b) >= SuperInfoSize && string(b[sbMagic:sbMagic+8]) == superMagic
}

// IsUnfinished says whether b carries the magic that btrfs-progs writes while
// mkfs or a conversion has not finished.
func IsUnfinished(b []byte) bool {
	return len(b) >= SuperInfoSize && string(b[sbMagic:sbMagic+8]) == superMagicTemp
}

// ParseSuperblock decodes the first SuperInfoSize bytes of b. It checks the
// magic and the fields' own lengths only: see Validate for the rest, and
// verify the checksum over b[CsumSize:SuperInfoSize] first.
func ParseSuperblock(b []byte) (*Superblock, error) {
	if len(b) < SuperInfoSize {
		return nil, formatErrorf("superblock of %d bytes, want %d", len(b), SuperInfoSize)
	}
	if IsUnfinished(b) {
		return nil, formatErrorf("superblock of an unfinished mkfs or conversion")
	}
	if !HasMagic(b) {
		return nil, formatErrorf("no btrfs superblock magic")
	}
	u64, u32 := le.Uint64, le.Uint32
	s := &Superblock{
		Csum: [CsumSize]byte(b), FSID: UUID(b[32:48]),
		Bytenr: u64(b[48:]), Flags: u64(b[56:]),
		Generation: TransID(u64(b[72:])), Root: Logical(u64(b[80:])),
		ChunkRoot: Logical(u64(b[88:])), LogRoot: Logical(u64(b[96:])),
		LogRootTransID: u64(b[104:]), TotalBytes: u64(b[112:]), BytesUsed: u64(b[120:]),
		RootDirObjectID: ObjectID(u64(b[128:])), NumDevices: u64(b[136:]),
		SectorSize: u32(b[144:]), NodeSize: u32(b[148:]), LeafSize: u32(b[152:]),
		StripeSize: u32(b[156:]), SysChunkArraySize: u32(b[160:]),
		ChunkRootGen: TransID(u64(b[164:])),
		CompatFlags:  u64(b[172:]), CompatROFlags: u64(b[180:]), IncompatFlags: u64(b[188:]),
		CsumType:  CsumType(le.Uint16(b[196:])),
		RootLevel: b[198], ChunkRootLevel: b[199], LogRootLevel: b[200],
		CacheGeneration: u64(b[sbCacheGen:]), UUIDTreeGeneration: u64(b[sbUUIDTreeGen:]),
		MetadataUUID: UUID(b[sbMetadataUUID : sbMetadataUUID+16]), NrGlobalRoots: u64(b[sbNrGlobalRoots:]),
		raw: bytes.Clone(b[:SuperInfoSize]),
	}
	if s.SysChunkArraySize > SystemArrayMax {
		return nil, formatErrorf("system chunk array of %d bytes, want at most %d", s.SysChunkArraySize, SystemArrayMax)
	}
	s.SysChunkArray = bytes.Clone(b[sbSysArray : sbSysArray+s.SysChunkArraySize])
	label, _, _ := bytes.Cut(b[sbLabel:sbLabel+LabelSize], []byte{0})
	s.Label = string(label)
	var err error
	if s.DevItem, err = ParseDevItem(b[sbDevItem : sbDevItem+devItemSize]); err != nil {
		return nil, err
	}
	for i := range s.BackupRoots {
		s.BackupRoots[i] = parseRootBackup(b[sbBackupRoots+i*backupRootSize:])
	}
	return s, nil
}

func parseRootBackup(b []byte) RootBackup {
	at := func(i int) uint64 { return le.Uint64(b[8*i:]) }
	return RootBackup{
		TreeRoot: Logical(at(0)), TreeRootGen: TransID(at(1)),
		ChunkRoot: Logical(at(2)), ChunkRootGen: TransID(at(3)),
		ExtentRoot: Logical(at(4)), ExtentRootGen: TransID(at(5)),
		FSRoot: Logical(at(6)), FSRootGen: TransID(at(7)),
		DevRoot: Logical(at(8)), DevRootGen: TransID(at(9)),
		CsumRoot: Logical(at(10)), CsumRootGen: TransID(at(11)),
		TotalBytes: at(12), BytesUsed: at(13), NumDevices: at(14),
		// four unused words, then the levels
		TreeRootLevel: b[152], ChunkRootLevel: b[153], ExtentRootLevel: b[154],
		FSRootLevel: b[155], DevRootLevel: b[156], CsumRootLevel: b[157],
	}
}

func (r *RootBackup) put(b []byte) {
	for i, v := range [...]uint64{
		uint64(r.TreeRoot), uint64(r.TreeRootGen), uint64(r.ChunkRoot), uint64(r.ChunkRootGen),
		uint64(r.ExtentRoot), uint64(r.ExtentRootGen), uint64(r.FSRoot), uint64(r.FSRootGen),
		uint64(r.DevRoot), uint64(r.DevRootGen), uint64(r.CsumRoot), uint64(r.CsumRootGen),
		r.TotalBytes, r.BytesUsed, r.NumDevices,
	} {
		le.PutUint64(b[8*i:], v)
	}
	copy(b[152:], []byte{r.TreeRootLevel, r.ChunkRootLevel, r.ExtentRootLevel, r.FSRootLevel, r.DevRootLevel, r.CsumRootLevel})
}

// Encode writes the superblock as SuperInfoSize bytes; the checksum field is
// that of s, for the caller to compute over the result.
func (s *Superblock) Encode() ([]byte, error) {
	if len(s.SysChunkArray) > SystemArrayMax {
		return nil, formatErrorf("system chunk array of %d bytes, want at most %d", len(s.SysChunkArray), SystemArrayMax)
	}
	if len(s.Label) >= LabelSize {
		return nil, formatErrorf("label of %d bytes, want at most %d", len(s.Label), LabelSize-1)
	}
	b := make([]byte, SuperInfoSize)
	copy(b, s.raw)
	copy(b, s.Csum[:])
	copy(b[32:], s.FSID[:])
	copy(b[sbMagic:], superMagic)
	for _, f := range []struct {
		off int
		v   uint64
	}{
		{48, s.Bytenr}, {56, s.Flags}, {72, uint64(s.Generation)}, {80, uint64(s.Root)},
		{88, uint64(s.ChunkRoot)}, {96, uint64(s.LogRoot)}, {104, s.LogRootTransID},
		{112, s.TotalBytes}, {120, s.BytesUsed}, {128, uint64(s.RootDirObjectID)},
		{136, s.NumDevices}, {164, uint64(s.ChunkRootGen)}, {172, s.CompatFlags},
		{180, s.CompatROFlags}, {188, s.IncompatFlags}, {sbCacheGen, s.CacheGeneration},
		{sbUUIDTreeGen, s.UUIDTreeGeneration}, {sbNrGlobalRoots, s.NrGlobalRoots},
	} {
		le.PutUint64(b[f.off:], f.v)
	}
	for i, v := range []uint32{s.SectorSize, s.NodeSize, s.LeafSize, s.StripeSize, uint32(len(s.SysChunkArray))} {
		le.PutUint32(b[144+4*i:], v)
	}
	le.PutUint16(b[196:], uint16(s.CsumType))
	b[198], b[199], b[200] = s.RootLevel, s.ChunkRootLevel, s.LogRootLevel
	copy(b[sbDevItem:], s.DevItem.Append(nil))
	clear(b[sbLabel : sbLabel+LabelSize])
	copy(b[sbLabel:], s.Label)
	copy(b[sbMetadataUUID:], s.MetadataUUID[:])
	clear(b[sbSysArray : sbSysArray+SystemArrayMax])
	copy(b[sbSysArray:], s.SysChunkArray)
	for i := range s.BackupRoots {
		s.BackupRoots[i].put(b[sbBackupRoots+i*backupRootSize:])
	}
	return b, nil
}

// Clone is a deep copy.
func (s *Superblock) Clone() *Superblock {
	c := *s
	c.SysChunkArray = bytes.Clone(s.SysChunkArray)
	return &c
}

// NodeFSID is the UUID that tree blocks carry.
func (s *Superblock) NodeFSID() UUID {
	if s.IncompatFlags&IncompatMetadataUUID != 0 {
		return s.MetadataUUID
	}
	return s.FSID
}

// SystemChunks decodes the system chunk array.
func (s *Superblock) SystemChunks() ([]ChunkMapping, error) {
	var out []ChunkMapping
	b := s.SysChunkArray
	for len(b) > 0 {
		if len(b) < KeySize+chunkFixedSize {
			return nil, formatErrorf("system chunk array: %d stray bytes", len(b))
		}
		k := ParseKey(b)
		if k.Type != KeyChunkItem || k.ObjectID != FirstChunkTree {
			return nil, formatErrorf("system chunk array: key %v is no chunk", k)
		}
		n := int(le.Uint16(b[KeySize+44:]))
		size := KeySize + chunkFixedSize + n*stripeSize
		if n == 0 || size > len(b) {
			return nil, formatErrorf("system chunk array: chunk %v with %d stripes in %d bytes", k, n, len(b))
		}
		c, err := ParseChunk(b[KeySize:size])
		if err != nil {
			return nil, err
		}
		out = append(out, ChunkMapping{Logical(k.Offset), c})
		b = b[size:]
	}
	return out, nil
}
