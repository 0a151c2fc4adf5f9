package disk

// Root item flags.
const (
	RootSubvolReadOnly uint64 = 1 << 0
	RootSubvolDead     uint64 = 1 << 48 // being deleted
)

// Sizes of root items: those of kernels before 3.6 end at generation_v2.
const (
	RootItemSize       = 439
	LegacyRootItemSize = 239
)

// RootItem is the root of a tree; key (tree, ROOT_ITEM, 0 or, for snapshots
// and relocation trees, a transaction).
type RootItem struct {
	Inode        InodeItem
	Generation   TransID
	RootDirID    ObjectID
	Bytenr       Logical
	ByteLimit    uint64
	BytesUsed    uint64
	LastSnapshot TransID
	Flags        uint64
	Refs         uint32
	DropProgress Key
	DropLevel    uint8
	Level        uint8
	// GenerationV2 equals Generation if the fields below are valid.
	GenerationV2 TransID
	UUID         UUID
	ParentUUID   UUID
	ReceivedUUID UUID
	CTransID     TransID // last change of an inode
	OTransID     TransID // creation
	STransID     TransID // send
	RTransID     TransID // receive
	Ctime        Time
	Otime        Time
	Stime        Time
	Rtime        Time
}

// ParseRootItem decodes a root item of either size. Where the second part is
// missing or stale (an old kernel wrote the first one), it is zero.
func ParseRootItem(b []byte) (RootItem, error) {
	if len(b) != RootItemSize && len(b) != LegacyRootItemSize {
		return RootItem{}, sizeError("root item", len(b), RootItemSize)
	}
	inode, err := ParseInodeItem(b[:InodeItemSize])
	if err != nil {
		return RootItem{}, err
	}
	at := func(o int) uint64 { return le.Uint64(b[o:]) }
	r := RootItem{
		Inode: inode, Generation: TransID(at(160)), RootDirID: ObjectID(at(168)), Bytenr: Logical(at(176)),
		ByteLimit: at(184), BytesUsed: at(192), LastSnapshot: TransID(at(200)), Flags: at(208),
		Refs: le.Uint32(b[216:]), DropProgress: ParseKey(b[220:]), DropLevel: b[237], Level: b[238],
	}
	if len(b) == LegacyRootItemSize {
		return r, nil
	}
	if r.GenerationV2 = TransID(at(239)); r.GenerationV2 != r.Generation {
		return r, nil
	}
	r.UUID, r.ParentUUID, r.ReceivedUUID = UUID(b[247:263]), UUID(b[263:279]), UUID(b[279:295])
	r.CTransID, r.OTransID = TransID(at(295)), TransID(at(303))
	r.STransID, r.RTransID = TransID(at(311)), TransID(at(319))
	r.Ctime, r.Otime, r.Stime, r.Rtime = parseTime(b[327:]), parseTime(b[339:]), parseTime(b[351:]), parseTime(b[363:])
	return r, nil
}

// Append appends the item's bytes in the full size.
func (r *RootItem) Append(b []byte) []byte {
	b = r.Inode.Append(b)
	for _, v := range [...]uint64{
		uint64(r.Generation), uint64(r.RootDirID), uint64(r.Bytenr), r.ByteLimit, r.BytesUsed,
		uint64(r.LastSnapshot), r.Flags,
	} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, r.Refs)
	b = r.DropProgress.Append(b)
	b = append(b, r.DropLevel, r.Level)
	b = le.AppendUint64(b, uint64(r.GenerationV2))
	b = append(b, r.UUID[:]...)
	b = append(b, r.ParentUUID[:]...)
	b = append(b, r.ReceivedUUID[:]...)
	for _, v := range [...]TransID{r.CTransID, r.OTransID, r.STransID, r.RTransID} {
		b = le.AppendUint64(b, uint64(v))
	}
	for _, t := range [...]Time{r.Ctime, r.Otime, r.Stime, r.Rtime} {
		b = t.append(b)
	}
	return append(b, make([]byte, 64)...) // eight reserved words
}

// RootRef ties a subvolume to its name: (parent, ROOT_REF, child) and
// (child, ROOT_BACKREF, parent) hold the same bytes.
type RootRef struct {
	DirID    ObjectID // directory in the parent subvolume
	Sequence uint64   // the name's DIR_INDEX offset
	Name     []byte   // aliases the input
}

// ParseRootRef decodes a root reference.
func ParseRootRef(b []byte) (RootRef, error) {
	if len(b) < 18 {
		return RootRef{}, sizeError("root ref", len(b), 19)
	}
	n := int(le.Uint16(b[16:]))
	if len(b) != 18+n {
		return RootRef{}, sizeError("root ref", len(b), 18+n)
	}
	return RootRef{ObjectID(le.Uint64(b)), le.Uint64(b[8:]), b[18 : 18+n : 18+n]}, nil
}

// Append appends the item's bytes.
func (r *RootRef) Append(b []byte) []byte {
	b = le.AppendUint64(b, uint64(r.DirID))
	b = le.AppendUint64(b, r.Sequence)
	b = le.AppendUint16(b, uint16(len(r.Name)))
	return append(b, r.Name...)
}

// UUIDKey is the key of a subvolume UUID in the UUID tree: typ is
// KeyUUIDSubvol or KeyUUIDReceivedSubvol. The item is a list of 8-byte tree
// ids.
func UUIDKey(u UUID, typ KeyType) Key {
	return Key{ObjectID(le.Uint64(u[:8])), typ, le.Uint64(u[8:])}
}

// ParseUUIDItem decodes the tree ids of a UUID tree item.
func ParseUUIDItem(b []byte) ([]ObjectID, error) {
	if len(b) == 0 || len(b)%8 != 0 {
		return nil, formatErrorf("uuid item of %d bytes, want a multiple of 8", len(b))
	}
	ids := make([]ObjectID, len(b)/8)
	for i := range ids {
		ids[i] = ObjectID(le.Uint64(b[8*i:]))
	}
	return ids, nil
}

// Qgroup status flags.
const (
	QgroupStatusOn           uint64 = 1 << 0
	QgroupStatusRescan       uint64 = 1 << 1
	QgroupStatusInconsistent uint64 = 1 << 2
	QgroupStatusSimpleMode   uint64 = 1 << 3
)

// QgroupStatus is the state of quotas; key (0, QGROUP_STATUS, 0).
type QgroupStatus struct {
	Version    uint64
	Generation TransID
	Flags      uint64
	Rescan     ObjectID // progress
	EnableGen  TransID  // simple quotas only
}

// ParseQgroupStatus decodes a quota status item of 40 or (before simple quotas
// were invented) 32 bytes.
func ParseQgroupStatus(b []byte) (QgroupStatus, error) {
	if len(b) != 32 && len(b) != 40 {
		return QgroupStatus{}, sizeError("qgroup status", len(b), 32)
	}
	s := QgroupStatus{le.Uint64(b), TransID(le.Uint64(b[8:])), le.Uint64(b[16:]), ObjectID(le.Uint64(b[24:])), 0}
	if len(b) == 40 {
		s.EnableGen = TransID(le.Uint64(b[32:]))
	}
	return s, nil
}

// Append appends the item's bytes in the form of Linux 6.18: 40 bytes, also
// without simple quotas.
func (s *QgroupStatus) Append(b []byte) []byte {
	for _, v := range [...]uint64{s.Version, uint64(s.Generation), s.Flags, uint64(s.Rescan), uint64(s.EnableGen)} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// QgroupInfo is the use of a qgroup; key (0, QGROUP_INFO, qgroupid).
type QgroupInfo struct {
	Generation TransID
	Rfer       uint64 // bytes referenced
	RferCmpr   uint64
	Excl       uint64 // bytes exclusive
	ExclCmpr   uint64
}

// ParseQgroupInfo decodes a qgroup info item.
func ParseQgroupInfo(b []byte) (QgroupInfo, error) {
	if len(b) != 40 {
		return QgroupInfo{}, sizeError("qgroup info", len(b), 40)
	}
	return QgroupInfo{TransID(le.Uint64(b)), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])}, nil
}

// Append appends the item's bytes.
func (i *QgroupInfo) Append(b []byte) []byte {
	for _, v := range [...]uint64{uint64(i.Generation), i.Rfer, i.RferCmpr, i.Excl, i.ExclCmpr} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// QgroupLimit is the limits of a qgroup; key (0, QGROUP_LIMIT, qgroupid).
type QgroupLimit struct {
	Flags                              uint64
	MaxRfer, MaxExcl, RsvRfer, RsvExcl uint64
}

// ParseQgroupLimit decodes a qgroup limit item.
func ParseQgroupLimit(b []byte) (QgroupLimit, error) {
	if len(b) != 40 {
		return QgroupLimit{}, sizeError("qgroup limit", len(b), 40)
	}
	return QgroupLimit{le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])}, nil
}

// Append appends the item's bytes.
func (l *QgroupLimit) Append(b []byte) []byte {
	for _, v := range [...]uint64{l.Flags, l.MaxRfer, l.MaxExcl, l.RsvRfer, l.RsvExcl} {
		b = le.AppendUint64(b, v)
	}
	return b
}
