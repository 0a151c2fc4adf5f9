package txn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// InsertChunk is phase 1 of a new chunk; it implements space.ChunkWriter. It
// runs in the goroutine of the flight, beside whatever operation is open: it
// touches the chunk tree alone, which has a lock of its own.
func (f *FS) InsertChunk(ctx context.Context, c *space.Chunk, system *space.Reserve) (disk.TransID, error) {
	if err := f.lockGrowth(ctx); err != nil {
		return 0, err
	}
	defer f.unlockGrowth()
	if err := f.Err(); err != nil {
		return 0, err
	}
	m := f.mapping(c)
	// The map comes first: nodes of the chunk tree may have to go into the
	// very chunk that is being recorded.
	if err := f.vol.SetChunks(append(slices.Clone(f.vol.Chunks()), m)); err != nil {
		return 0, fmt.Errorf("new chunk %d: %w", uint64(c.Start), err)
	}
	f.system = system
	defer func() { f.system = nil }()
	if err := f.recordChunk(context.WithoutCancel(ctx), c, &m); err != nil {
		err = f.abort(fmt.Errorf("record chunk %d: %w", uint64(c.Start), err))
		return 0, fmt.Errorf("%w: %w", space.ErrAborted, err)
	}
	f.touch()
	f.chunkTrans = f.Trans()
	f.unwritten = append(f.unwritten, c.Start)
	return f.Trans(), nil
}

// mapping is the chunk as it is written.
func (f *FS) mapping(c *space.Chunk) disk.ChunkMapping {
	sector := uint32(f.geometry.SectorSize)
	m := disk.ChunkMapping{Logical: c.Start, Chunk: disk.Chunk{
		Length: uint64(c.Length), Owner: disk.TreeExtent, StripeLen: disk.StripeLen, Type: c.Flags,
		IOAlign: disk.StripeLen, IOWidth: disk.StripeLen, SectorSize: sector,
		SubStripes: uint16(disk.ProfileOf(c.Flags).SubStripes),
	}}
	for _, s := range c.Stripes {
		m.Stripes = append(m.Stripes, disk.Stripe{DevID: s.Dev, Offset: uint64(s.Off), DevUUID: f.devItems[s.Dev].UUID})
	}
	return m
}

func chunkKey(at disk.Logical) disk.Key {
	return disk.Key{ObjectID: disk.FirstChunkTree, Type: disk.KeyChunkItem, Offset: uint64(at)}
}

// recordChunk changes the chunk tree and what the superblock says of it.
func (f *FS) recordChunk(ctx context.Context, c *space.Chunk, m *disk.ChunkMapping) error {
	if err := f.chunk.Insert(ctx, chunkKey(c.Start), m.Append(nil)); err != nil {
		return err
	}
	if err := f.resizeDevices(ctx, c, int64(c.StripeSize)); err != nil {
		return err
	}
	if c.Flags&disk.BlockGroupSystem != 0 {
		f.super.SysChunkArray = m.Append(chunkKey(c.Start).Append(slices.Clone(f.super.SysChunkArray)))
		f.super.SysChunkArraySize = uint32(len(f.super.SysChunkArray))
	}
	f.addFeatures(c)
	return nil
}

// resizeDevices adds delta to the used bytes of each of the chunk's devices,
// once per stripe.
func (f *FS) resizeDevices(ctx context.Context, c *space.Chunk, delta int64) error {
	for _, s := range c.Stripes {
		item := f.devItems[s.Dev]
		item.BytesUsed += uint64(delta)
		f.devItems[s.Dev] = item
		k := disk.Key{ObjectID: disk.DevItemsObjectID, Type: disk.KeyDevItem, Offset: uint64(s.Dev)}
		if err := f.chunk.Update(ctx, k, item.Append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// removeChunk undoes recordChunk. The map keeps the chunk until the commit, as
// readers of the last one may still need it. If the error wraps
// space.ErrNoSpace nothing was changed.
func (f *FS) removeChunk(ctx context.Context, c *space.Chunk) error {
	need := space.Units{NodeSize: space.Bytes(f.geometry.NodeSize)}.System(len(c.Stripes))
	system := f.space.System().NewReserve()
	defer system.Close()
	if err := f.space.System().Reserve(ctx, need, space.ClassNoWait); err != nil {
		return err
	}
	system.Resize(need) // charges once more, which the promise just made pays for
	f.space.System().Release(need)
	if err := f.lockGrowth(ctx); err != nil {
		return err
	}
	defer f.unlockGrowth()
	f.system = system
	defer func() { f.system = nil }()
	if err := f.chunk.Delete(ctx, chunkKey(c.Start)); err != nil {
		return fmt.Errorf("chunk tree: %v: %w", err, errInternal)
	}
	if err := f.resizeDevices(ctx, c, -int64(c.StripeSize)); err != nil {
		return err
	}
	f.leaving = append(f.leaving, c.Start)
	f.dropFeatures()
	if c.Flags&disk.BlockGroupSystem == 0 {
		return nil
	}
	chunks, err := f.super.SystemChunks()
	if err != nil {
		return err
	}
	var array []byte
	for i := range chunks {
		if chunks[i].Logical != c.Start {
			array = chunks[i].Append(chunkKey(chunks[i].Logical).Append(array))
		}
	}
	f.super.SysChunkArray, f.super.SysChunkArraySize = array, uint32(len(array))
	return nil
}

// dropChunks forgets the mapping of chunks whose removal is durable.
func (f *FS) dropChunks(ctx context.Context, gone []disk.Logical) error {
	if len(gone) == 0 {
		return nil
	}
	if err := f.lockGrowth(ctx); err != nil {
		return err
	}
	defer f.unlockGrowth()
	list := slices.DeleteFunc(slices.Clone(f.vol.Chunks()), func(m disk.ChunkMapping) bool {
		return slices.Contains(gone, m.Logical)
	})
	return f.vol.SetChunks(list)
}

// loadDevices tells the allocator about devices and block groups.
func (f *FS) loadDevices(ctx context.Context) error {
	for _, d := range f.vol.Devices() {
		f.devItems[d.ID] = d.Item
		if err := f.space.AddDevice(f.members.deviceSpec(&d)); err != nil {
			return err
		}
	}
	for _, m := range f.vol.Chunks() {
		g, err := f.loadGroup(ctx, &m)
		if err != nil {
			return fmt.Errorf("load block group %d: %w", uint64(m.Logical), err)
		}
		f.groups = append(f.groups, g)
	}
	slices.SortFunc(f.groups, func(a, b *group) int { return cmp.Compare(a.start, b.start) })
	return nil
}

var errNoGroup = errors.New("chunk has no block group item")

func (f *FS) loadGroup(ctx context.Context, m *disk.ChunkMapping) (*group, error) {
	g := &group{start: m.Logical, length: m.Length, flags: m.Type}
	data, ok, err := f.groupTree.Get(ctx, g.key())
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, f.corrupt(g.key(), "%v", errNoGroup)
	}
	item, err := disk.ParseBlockGroupItem(data)
	if err != nil {
		return nil, f.corrupt(g.key(), "%v", err)
	}
	if item.Flags != m.Type {
		return nil, f.corrupt(g.key(), "type %v, the chunk has %v", item.Flags, m.Type)
	}
	g.used = item.Used
	spec := space.GroupSpec{Used: space.Bytes(item.Used), Free: []space.Range{}, ReadOnly: f.members.closed(m), Chunk: space.Chunk{
		Start: m.Logical, Length: space.Bytes(m.Length), Flags: m.Type, StripeSize: space.Bytes(m.StripeLength()),
	}}
	for _, s := range m.Stripes {
		spec.Chunk.Stripes = append(spec.Chunk.Stripes, space.Stripe{Dev: s.DevID, Off: space.Physical(s.Offset)})
	}
	yield := func(r space.Range) { spec.Free = append(spec.Free, r) }
	if f.fst.valid() {
		err = f.fst.ranges(ctx, g, yield)
	} else {
		err = f.complement(ctx, g, yield)
	}
	if err != nil {
		return nil, err
	}
	return g, f.space.AddGroup(spec)
}

// complement calls yield with what the extent items of a group leave free.
func (f *FS) complement(ctx context.Context, g *group, yield func(space.Range)) error {
	at := uint64(g.start)
	for k := (disk.Key{ObjectID: disk.ObjectID(g.start)}); ; k = k.Next() {
		it, ok, err := f.extent.Ceil(ctx, k)
		if err != nil {
			return err
		}
		if !ok || uint64(it.Key.ObjectID) >= g.end() {
			break
		}
		k = it.Key
		n := k.Offset
		switch k.Type {
		case disk.KeyMetadataItem:
			n = uint64(f.geometry.NodeSize)
		case disk.KeyExtentItem:
		default:
			continue
		}
		start := uint64(k.ObjectID)
		if start < at || n > g.end()-start {
			return f.corrupt(k, "overlaps an extent or the end of its block group")
		}
		if start > at {
			yield(space.Range{Start: disk.Logical(at), Length: space.Bytes(start - at)})
		}
		at = start + n
	}
	if at < g.end() {
		yield(space.Range{Start: disk.Logical(at), Length: space.Bytes(g.end() - at)})
	}
	return nil
}

var _ space.ChunkWriter = (*FS)(nil)
