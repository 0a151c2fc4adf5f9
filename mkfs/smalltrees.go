package mkfs

import (
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// item is an item of one of the trees that are small enough to be made in memory.
type item struct {
	key  disk.Key
	data []byte
}

func sortItems(list []item) []item {
	slices.SortFunc(list, func(a, b item) int { return a.key.Compare(b.key) })
	return list
}

// sizes is how many nodes the items need.
func countNodes(f *nodeFormat, list []item) uint64 {
	c := packCounter{size: f.size}
	for _, i := range list {
		c.add(len(i.data))
	}
	return c.nodes()
}

// devItem describes a device.
func (d *device) devItem(fsid disk.UUID) disk.DevItem {
	return disk.DevItem{
		DevID: d.id, TotalBytes: d.size, BytesUsed: d.used, IOAlign: sectorSize, IOWidth: sectorSize, SectorSize: sectorSize,
		UUID: d.uuid, FSID: fsid,
	}
}

// chunkItems is the chunk tree.
func chunkItems(l *layout, f *nodeFormat) []item {
	var out []item
	for _, d := range l.devices {
		di := d.devItem(f.fsid)
		out = append(out, item{disk.Key{ObjectID: disk.DevItemsObjectID, Type: disk.KeyDevItem, Offset: uint64(d.id)}, di.Append(nil)})
	}
	for _, c := range l.chunks {
		out = append(out, item{disk.Key{ObjectID: disk.FirstChunkTree, Type: disk.KeyChunkItem, Offset: uint64(c.Logical)}, c.Chunk.Append(nil)})
	}
	return out
}

// devItems is the device tree.
func devItems(l *layout, f *nodeFormat) []item {
	var out []item
	for _, d := range l.devices {
		out = append(out, item{disk.Key{ObjectID: disk.DevStatsObjectID, Type: disk.KeyPersistentItem, Offset: uint64(d.id)}, new(disk.DevStats).Append(nil)})
	}
	for _, c := range l.chunks {
		for _, s := range c.Stripes {
			e := disk.DevExtent{ChunkTree: disk.TreeChunk, ChunkObjectID: disk.FirstChunkTree, ChunkOffset: c.Logical, Length: c.StripeLength(), ChunkTreeUUID: f.chunkTree}
			out = append(out, item{disk.Key{ObjectID: disk.ObjectID(s.DevID), Type: disk.KeyDevExtent, Offset: s.Offset}, e.Append(nil)})
		}
	}
	return sortItems(out)
}

// groupItems is the block group items, one for each chunk.
func groupItems(l *layout) []item {
	var out []item
	for _, c := range l.chunks {
		g := disk.BlockGroupItem{Used: c.used, ChunkObjectID: disk.FirstChunkTree, Flags: c.Type}
		out = append(out, item{disk.Key{ObjectID: disk.ObjectID(c.Logical), Type: disk.KeyBlockGroupItem, Offset: c.Length}, g.Append(nil)})
	}
	return out
}

// freeItems is the free-space tree: for each group the exact complement of its
// extents. The places of superblock copies count as free here; who reads the tree
// leaves them out.
func freeItems(l *layout) []item {
	var out []item
	for _, c := range l.chunks {
		free := c.free()
		at := disk.ObjectID(c.Logical)
		out = append(out, item{disk.Key{ObjectID: at, Type: disk.KeyFreeSpaceInfo, Offset: c.Length}, disk.FreeSpaceInfo{ExtentCount: uint32(len(free))}.Append(nil)})
		for _, s := range free {
			out = append(out, item{disk.Key{ObjectID: at + disk.ObjectID(s.start), Type: disk.KeyFreeSpaceExtent, Offset: s.len()}, nil})
		}
	}
	return out
}

// uuidItems is the UUID tree.
func uuidItems(p *plan, subvols []*subvolume) []item {
	var out []item
	for _, s := range subvols {
		u := p.uuidOf(s)
		out = append(out, item{disk.UUIDKey(u, disk.KeyUUIDSubvol), le.AppendUint64(nil, uint64(s.id))})
	}
	return sortItems(out)
}

// relocItems is the data relocation tree: an empty directory.
func relocItems(p *plan) []item {
	now := onDisk(p.Time)
	dir := disk.InodeItem{Generation: generation, NBytes: uint64(p.format.size), Nlink: 1, Mode: modeDir | 0o755, Atime: now, Ctime: now, Mtime: now, Otime: now}
	return []item{
		{disk.Key{ObjectID: disk.RootDirObjectID, Type: disk.KeyInodeItem}, dir.Append(nil)},
		{disk.Key{ObjectID: disk.RootDirObjectID, Type: disk.KeyInodeRef, Offset: uint64(disk.RootDirObjectID)}, disk.InodeRef{Name: []byte("..")}.Append(nil)},
	}
}

// uuidOf is a subvolume's UUID.
func (p *plan) uuidOf(s *subvolume) disk.UUID {
	if s.id == disk.TreeFS {
		return p.subvolTop
	}
	return derive(p.UUID[:], "subvolume "+s.id.String())
}

const defaultName = "default"

// rootItems is the tree of tree roots.
func rootItems(p *plan, t *tree, subvols []*subvolume, roots []treeRoot) []item {
	now := onDisk(p.Time)
	bySubvol := map[disk.ObjectID]*subvolume{}
	dflt := disk.TreeFS
	var out []item
	for _, s := range subvols {
		bySubvol[s.id] = s
		if s.isDflt {
			dflt = s.id
		}
		out = append(out, refItems(t, subvols, s)...)
	}
	for _, r := range roots {
		if r.owner == disk.TreeRoot || r.owner == disk.TreeChunk {
			continue
		}
		out = append(out, item{disk.Key{ObjectID: r.owner, Type: disk.KeyRootItem}, rootItem(p, r, bySubvol[r.owner])})
	}
	dir := disk.InodeItem{Generation: generation, NBytes: uint64(p.format.size), Nlink: 1, Mode: modeDir | 0o755, Atime: now, Ctime: now, Mtime: now, Otime: now}
	name := []byte(defaultName)
	entry := disk.DirItem{Location: disk.Key{ObjectID: dflt, Type: disk.KeyRootItem, Offset: 1<<64 - 1}, TransID: generation, Type: disk.FtDir, Name: name}
	out = append(out,
		item{disk.Key{ObjectID: disk.RootTreeDir, Type: disk.KeyInodeItem}, dir.Append(nil)},
		item{disk.Key{ObjectID: disk.RootTreeDir, Type: disk.KeyInodeRef, Offset: uint64(disk.RootTreeDir)}, disk.InodeRef{Name: []byte("..")}.Append(nil)},
		item{disk.Key{ObjectID: disk.RootTreeDir, Type: disk.KeyDirItem, Offset: uint64(csum.NameHash(name))}, entry.Append(nil)},
		item{disk.Key{ObjectID: disk.TreeFS, Type: disk.KeyInodeRef, Offset: uint64(disk.RootTreeDir)}, disk.InodeRef{Name: name}.Append(nil)})
	return sortItems(out)
}

// refItems ties a subvolume to its directory entry.
func refItems(t *tree, subvols []*subvolume, s *subvolume) []item {
	if s.at == 0 {
		return nil
	}
	n := &t.names[s.at]
	parent := subvols[s.parent].id
	ref := disk.RootRef{DirID: t.ino(n.parent), Sequence: uint64(n.pos) + firstIndex, Name: []byte(n.text)}
	return []item{
		{disk.Key{ObjectID: parent, Type: disk.KeyRootRef, Offset: uint64(s.id)}, ref.Append(nil)},
		{disk.Key{ObjectID: s.id, Type: disk.KeyRootBackref, Offset: uint64(parent)}, ref.Append(nil)},
	}
}

func rootItem(p *plan, r treeRoot, s *subvolume) []byte {
	now := onDisk(p.Time)
	item := disk.RootItem{
		Inode:      disk.InodeItem{Generation: generation, Size: 3, NBytes: uint64(p.format.size), Nlink: 1, Mode: modeDir | 0o755},
		Generation: generation, GenerationV2: generation, Bytenr: r.at, BytesUsed: r.nodes * uint64(p.format.size), Refs: 1, Level: uint8(r.level),
	}
	if r.owner == disk.TreeDataReloc {
		item.RootDirID = disk.RootDirObjectID
	}
	if s != nil {
		item.Inode.Flags = disk.InodeRootItemIni
		item.RootDirID = disk.RootDirObjectID
		item.UUID = p.uuidOf(s)
		item.Ctime, item.Otime = now, now
		item.CTransID, item.OTransID = generation, generation
		if s.readOnly {
			item.Flags = disk.RootSubvolReadOnly
		}
	}
	return item.Append(nil)
}
