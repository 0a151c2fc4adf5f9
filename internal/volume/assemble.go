package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"gobtrfs/disk"
)

// deviceKey identifies a member within a filesystem and its seeds.
type deviceKey struct {
	id   disk.DevID
	uuid disk.UUID
}

// assembly is the state of Open between the superblocks and the finished map.
type assembly struct {
	v     *Volume
	sb    *disk.Superblock
	given map[deviceKey]*member
	used  map[*member]bool
}

// loadChunks reads the chunk tree through the system chunks of the superblock
// and publishes the devices and the chunk map.
func (v *Volume) loadChunks(ctx context.Context, sb *disk.Superblock, members []member, o Options) error {
	a := &assembly{v: v, sb: sb, given: make(map[deviceKey]*member), used: make(map[*member]bool)}
	for i := range members {
		a.add(&members[i])
	}
	system, err := sb.SystemChunks()
	if err != nil {
		if err = a.corruptSystem(0, "system chunk array", err); !v.tolerate(err) {
			return err
		}
	}
	if err := a.bootstrap(&system); err != nil {
		return err
	}
	// Nodes of a seed carry the seed's fsid; until the device items are read
	// any given device may turn out to be one.
	v.fsids = []disk.UUID{sb.NodeFSID()}
	for i := range members {
		if f := members[i].sb.NodeFSID(); !slices.Contains(v.fsids, f) {
			v.fsids = append(v.fsids, f)
		}
	}
	tree, err := a.readChunkTree(ctx, o.BackupRoot)
	if err != nil {
		return err
	}
	if err := a.setDevices(tree.devices, o); err != nil {
		return err
	}
	return a.setChunks(system, tree)
}

// add enters a given device, and decides between two that claim to be the same
// member: one of this filesystem before one of a clone that got another fsid,
// then the newer one, then the first.
func (a *assembly) add(m *member) {
	k := deviceKey{m.sb.DevItem.DevID, m.sb.DevItem.UUID}
	old := a.given[k]
	if old == nil {
		a.given[k] = m
		return
	}
	keep, drop := old, m
	oldOwn, own := sameFilesystem(a.sb, old.sb), sameFilesystem(a.sb, m.sb)
	if own && !oldOwn || own == oldOwn && m.sb.Generation > old.sb.Generation {
		keep, drop = m, old
		a.given[k] = m
	}
	a.used[drop] = true // named here, and not again as foreign
	a.v.notice(Notice{Kind: NoticeDuplicate, Dev: k.id, Name: drop.dev.Name(),
		Text: fmt.Sprintf("the same member as %s (uuid %v); used is %s with generation %d, ignored is generation %d",
			keep.dev.Name(), k.uuid, keep.dev.Name(), keep.sb.Generation, drop.sb.Generation)})
}

// resolve makes the device for one (devid, uuid), missing if nobody gave it. A
// clone that got another fsid has the ids of a member and is none; a seed has
// another fsid in its nodes as well.
func (a *assembly) resolve(k deviceKey) *device {
	d := missingDevice(k.id, k.uuid)
	if m := a.given[k]; m != nil && (sameFilesystem(a.sb, m.sb) || m.sb.NodeFSID() != a.sb.NodeFSID()) {
		a.used[m] = true
		d.dev, d.name, d.super, d.size = m.dev, m.dev.Name(), m.sb, uint64(m.dev.Size())
	}
	return d
}

func (a *assembly) corruptSystem(l disk.Logical, what string, err error) error {
	return &CorruptError{Logical: l, Tree: disk.TreeChunk, What: what, Err: err,
		Key: disk.Key{ObjectID: disk.FirstChunkTree, Type: disk.KeyChunkItem, Offset: uint64(l)}}
}

// bootstrap publishes a map of the system chunks alone, through which the
// chunk tree is read. Its devices are found by id and uuid, because no device
// item is known yet.
func (a *assembly) bootstrap(system *[]disk.ChunkMapping) error {
	devices := make(map[deviceKey]*device)
	var failed error
	*system = slices.DeleteFunc(*system, func(c disk.ChunkMapping) bool {
		err := c.Validate(a.sb.Geometry())
		if err == nil {
			return false
		}
		if err = a.corruptSystem(c.Logical, "system chunk", err); failed == nil && !a.v.tolerate(err) {
			failed = err
		}
		return true
	})
	if failed != nil {
		return failed
	}
	for i := range *system {
		c := &(*system)[i]
		for _, s := range c.Stripes {
			k := deviceKey{s.DevID, s.DevUUID}
			if devices[k] == nil {
				devices[k] = a.resolve(k)
			}
		}
	}
	m, err := buildMap(a.sb, slices.Clone(*system), func(s *disk.Stripe) *device {
		return devices[deviceKey{s.DevID, s.DevUUID}]
	})
	if err != nil {
		return err
	}
	a.v.chunks.Store(m)
	return nil
}

// readChunkTree reads the chunk tree of the current superblock; when that
// fails and a backup root was asked for, the one of the backup.
func (a *assembly) readChunkTree(ctx context.Context, backup int) (*chunkTree, error) {
	sb := a.sb
	tree, err := walkChunkTree(ctx, a.v, sb.ChunkRoot, int(sb.ChunkRootLevel), sb.ChunkRootGen)
	if err == nil || ctx.Err() != nil {
		return tree, err
	}
	if backup == 0 {
		return a.salvageChunkTree(ctx, err)
	}
	for _, b := range sb.BackupRoots {
		if b.TreeRoot != sb.Root || b.TreeRootGen != sb.Generation || b.ChunkRoot == sb.ChunkRoot {
			continue
		}
		if old, backupErr := walkChunkTree(ctx, a.v, b.ChunkRoot, int(b.ChunkRootLevel), b.ChunkRootGen); backupErr == nil {
			a.v.notice(Notice{Kind: NoticeChunkRoot, Text: fmt.Sprintf("used the chunk root of the backup at %d: %v", uint64(b.ChunkRoot), err)})
			return old, nil
		}
	}
	return nil, err
}

// setDevices makes the final devices from the device items.
func (a *assembly) setDevices(items []disk.DevItem, o Options) error {
	v, own := a.v, a.sb.NodeFSID()
	fsids := []disk.UUID{own}
	var missing []error
	for _, item := range items {
		d := a.resolve(deviceKey{item.DevID, item.UUID})
		d.item, d.seed = item, item.FSID != own
		if d.seed && !slices.Contains(fsids, item.FSID) {
			fsids = append(fsids, item.FSID)
		}
		v.devices = append(v.devices, d)
		switch {
		case d.dev == nil:
			v.notice(Notice{Kind: NoticeMissing, Dev: d.id, Text: "missing, uuid " + d.uuid.String()})
			missing = append(missing, &DeviceError{Dev: d.id, Name: "uuid " + d.uuid.String(), Op: "open", Err: ErrMissingDevice})
			continue
		case !d.seed && d.super.Generation < v.newestGeneration(a.given):
			d.stale = true
			d.missed = d.super.Generation+1 < v.newestGeneration(a.given)
			v.notice(Notice{Kind: NoticeStale, Dev: d.id, Name: d.name,
				Text: fmt.Sprintf("stale: generation %d, the newest is %d; read only where there is no better copy", d.super.Generation, v.newestGeneration(a.given))})
		}
		if d.super.Bytenr != disk.SuperInfoOffset && !d.seed {
			// The kernel looks at no other copy. What we write by another one
			// might be a filesystem that was wiped on purpose.
			v.forbidWriting(fmt.Sprintf("copy 0 of the superblock of device %d is not the newest valid one", d.id))
		}
		if d.size < item.TotalBytes {
			v.notice(Notice{Kind: NoticeTruncated, Dev: d.id, Name: d.name,
				Text: fmt.Sprintf("truncated: %d bytes, the filesystem says %d", d.size, item.TotalBytes)})
		}
		if changing(d.super) {
			v.notice(Notice{Kind: NoticeFSIDChange, Dev: d.id, Name: d.name, Text: "unfinished fsid change, fsid " + d.super.FSID.String()})
		}
	}
	v.fsids = fsids
	slices.SortFunc(v.devices, func(x, y *device) int { return cmp.Compare(x.id, y.id) })
	for _, m := range a.sortedGiven() {
		if !a.used[m] {
			v.notice(Notice{Kind: NoticeForeign, Dev: m.sb.DevItem.DevID, Name: m.dev.Name(), Text: a.foreign(m)})
		}
	}
	if n := uint64(len(items)); n != a.sb.NumDevices && o.BackupRoot == 0 {
		v.notice(Notice{Kind: NoticeDeviceCount, Text: fmt.Sprintf("the superblock counts %d devices, the chunk tree has %d", a.sb.NumDevices, n)})
	}
	if len(missing) > 0 && !o.Degraded {
		return errors.Join(missing...)
	}
	return nil
}

// newestGeneration is the generation of the newest member's superblock. It is
// not that of Super when a backup root is in use.
func (v *Volume) newestGeneration(given map[deviceKey]*member) disk.TransID {
	sb := v.super.Load()
	newest := sb.Generation
	for _, m := range given {
		if sameFilesystem(sb, m.sb) {
			newest = max(newest, m.sb.Generation)
		}
	}
	return newest
}

// sortedGiven is the given devices in the order of their ids and names, so
// that notices come in the same order every time.
func (a *assembly) sortedGiven() []*member {
	out := make([]*member, 0, len(a.given))
	for _, m := range a.given {
		out = append(out, m)
	}
	slices.SortFunc(out, func(x, y *member) int {
		return cmp.Or(cmp.Compare(x.sb.DevItem.DevID, y.sb.DevItem.DevID), cmp.Compare(x.dev.Name(), y.dev.Name()))
	})
	return out
}

// foreign says why a device is not a member.
func (a *assembly) foreign(m *member) string {
	item := &m.sb.DevItem
	if !sameFilesystem(a.sb, m.sb) {
		return fmt.Sprintf("belongs to filesystem %v, not to %v", m.sb.FSID, a.sb.FSID)
	}
	if item.DevID == 0 {
		return "target of an unfinished device replacement"
	}
	for _, d := range a.v.devices {
		if d.id == item.DevID {
			return fmt.Sprintf("was device %d with uuid %v, which is now uuid %v", item.DevID, item.UUID, d.uuid)
		}
	}
	return fmt.Sprintf("device %d is no longer part of the filesystem", item.DevID)
}

// setChunks publishes the final map: the chunks of the tree, and the system
// chunks of the superblock, through which the tree was read and which
// therefore win where the two differ.
func (a *assembly) setChunks(system []disk.ChunkMapping, tree *chunkTree) error {
	all := slices.Clone(tree.chunks)
	for _, s := range system {
		i, found := slices.BinarySearchFunc(tree.chunks, s.Logical, func(c disk.ChunkMapping, l disk.Logical) int {
			return cmp.Compare(c.Logical, l)
		})
		switch {
		case !found:
			all = append(all, s)
		case !sameChunk(&tree.chunks[i].Chunk, &s.Chunk):
			all[i] = s
		default:
			continue
		}
		a.v.notice(Notice{Kind: NoticeSystemChunks, Text: fmt.Sprintf("the system chunk at %d is not the same in the superblock and in the chunk tree", uint64(s.Logical))})
	}
	if err := a.v.SetChunks(all); err != nil {
		return a.v.salvageChunks(all, err)
	}
	return nil
}

// checkStripePlace says whether a stripe reaches behind the device that holds
// it. While a device is being removed its item says that it has no bytes; then
// the device itself is asked.
func checkStripePlace(c *disk.Chunk, s *disk.Stripe, d *device) error {
	total, length := d.item.TotalBytes, c.StripeLength()
	if total == 0 && d.dev == nil {
		return nil
	}
	if total == 0 {
		total = d.size
	}
	if s.Offset > total || length > total-s.Offset {
		return fmt.Errorf("%d bytes at %d reach behind the device's %d bytes", length, s.Offset, total)
	}
	return nil
}

func sameChunk(a, b *disk.Chunk) bool {
	return a.Length == b.Length && a.Type == b.Type && slices.Equal(a.Stripes, b.Stripes)
}

// checkPlaces checks that every stripe of a chunk lies on a device of the
// filesystem, and within it.
func checkPlaces(c *disk.ChunkMapping, byID map[disk.DevID]*device) error {
	for i := range c.Stripes {
		s := &c.Stripes[i]
		d := byID[s.DevID]
		var err error
		e := &CorruptError{Dev: s.DevID, Physical: s.Offset, Logical: c.Logical, Tree: disk.TreeChunk, What: fmt.Sprintf("chunk stripe %d", i),
			Key: disk.Key{ObjectID: disk.FirstChunkTree, Type: disk.KeyChunkItem, Offset: uint64(c.Logical)}}
		switch {
		case d == nil:
			err = fmt.Errorf("no device item for device %d", s.DevID)
		case d.uuid != s.DevUUID:
			err = fmt.Errorf("device uuid %v, the device item says %v", s.DevUUID, d.uuid)
		default:
			e.DevName = d.name
			err = checkStripePlace(&c.Chunk, s, d)
		}
		if err != nil {
			e.Err = err
			return e
		}
	}
	return nil
}

// checkPhysicalOverlap fails when two stripes claim the same bytes.
func checkPhysicalOverlap(chunks []disk.ChunkMapping) error {
	type extent struct {
		dev        disk.DevID
		start, end uint64
		chunk      *disk.ChunkMapping
	}
	var all []extent
	for i := range chunks {
		c := &chunks[i]
		for _, s := range c.Stripes {
			all = append(all, extent{s.DevID, s.Offset, s.Offset + c.StripeLength(), c})
		}
	}
	slices.SortFunc(all, func(x, y extent) int {
		return cmp.Or(cmp.Compare(x.dev, y.dev), cmp.Compare(x.start, y.start), cmp.Compare(x.chunk.Logical, y.chunk.Logical))
	})
	for i := 1; i < len(all); i++ {
		if p, e := &all[i-1], &all[i]; p.dev == e.dev && e.start < p.end {
			return &CorruptError{Dev: e.dev, Physical: e.start, Logical: e.chunk.Logical, Tree: disk.TreeChunk, What: "chunk stripe",
				Key: disk.Key{ObjectID: disk.FirstChunkTree, Type: disk.KeyChunkItem, Offset: uint64(e.chunk.Logical)},
				Err: fmt.Errorf("overlaps a stripe of chunk %d", uint64(p.chunk.Logical))}
		}
	}
	return nil
}

// buildMap sorts chunks, refuses overlaps, and resolves the devices; every
// chunk must have passed Validate.
func buildMap(sb *disk.Superblock, list []disk.ChunkMapping, dev func(*disk.Stripe) *device) (*chunkMap, error) {
	slices.SortStableFunc(list, func(x, y disk.ChunkMapping) int { return cmp.Compare(x.Logical, y.Logical) })
	m := &chunkMap{mappings: list, chunks: make([]chunk, len(list))}
	for i := range list {
		c := &list[i]
		if i > 0 && c.Logical < list[i-1].End() {
			return nil, &CorruptError{Logical: c.Logical, Tree: disk.TreeChunk, What: "chunk",
				Key: disk.Key{ObjectID: disk.FirstChunkTree, Type: disk.KeyChunkItem, Offset: uint64(c.Logical)},
				Err: fmt.Errorf("overlaps the chunk at %d of %d bytes", uint64(list[i-1].Logical), list[i-1].Length)}
		}
		p := disk.ProfileOf(c.Type)
		m.chunks[i] = chunk{ChunkMapping: c, profile: p, data: p.DataStripes(len(c.Stripes)), devs: make([]*device, len(c.Stripes)),
			remapped: inStripeTree(sb, c.Type)}
		for j := range c.Stripes {
			m.chunks[i].devs[j] = dev(&c.Stripes[j])
		}
	}
	return m, nil
}
