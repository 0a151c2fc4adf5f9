package mkfs

import (
	"context"
	"errors"
	"fmt"
	"io"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// finishLayout waits for the data, gives back what its last chunk does not need,
// and finds places for everything else.
func (m *maker) finishLayout() (*tail, error) {
	m.meta.flush()
	m.w.drain()
	if m.data.cur == nil && !m.plan.mixed {
		// A data chunk says what profile data shall have, even without data.
		if m.plan.Shrink {
			m.data.order.maxLength = max(mib, m.plan.room())
		} else {
			m.data.order.maxLength = 0
		}
		if err := m.data.grow(); err != nil {
			return nil, err
		}
	}
	if m.compact && m.data.cur != nil {
		if err := m.layout.trim(m.data.cur, max(m.data.cur.next+m.plan.room(), 1)); err != nil {
			return nil, err
		}
	}
	if err := m.freeData(); err != nil {
		return nil, err
	}
	return m.solve()
}

// unspill moves the nodes that were kept aside to their places.
func (m *maker) unspill(ctx context.Context) error {
	s := m.meta.spill
	if s == nil {
		return nil
	}
	m.meta.flush()
	buf := make([]byte, mib)
	base := m.meta.region.base
	for off := uint64(0); off < s.size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		at := base + disk.Logical(off)
		c := m.layout.chunkAt(at)
		if c == nil {
			return fmt.Errorf("no chunk for the node at %d", at)
		}
		n := min(uint64(len(buf)), s.size-off, uint64(c.End()-at))
		if err := s.read(buf[:n], off); err != nil {
			return err
		}
		if err := c.write(m.devices, at, buf[:n]); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// refuseUsed fails when a device holds something.
func refuseUsed(d blockdev.Device) error {
	what, err := signature(d)
	if err != nil {
		return fmt.Errorf("look at %s: %w", d.Name(), err)
	}
	if what != "" {
		return fmt.Errorf("%s holds %s: %w", d.Name(), what, ErrExists)
	}
	return nil
}

// clearDevice removes the places by which a filesystem is known, old superblocks
// first: from then on the device holds nothing that could be taken for whole.
func clearDevice(d blockdev.Device, discard bool) error {
	zero := make([]byte, disk.BlockReservedStart)
	wipe := func(at, n int64) error {
		n = min(n, d.Size()-at)
		if n <= 0 {
			return nil
		}
		old := make([]byte, n)
		if _, err := d.ReadAt(old, at); err != nil && err != io.EOF {
			return err
		}
		if isZero(old) {
			return nil // leaves sparse files sparse
		}
		_, err := d.WriteAt(zero[:n], at)
		return err
	}
	for m := range disk.SuperMirrorMax {
		if err := wipe(int64(disk.SuperOffset(m)), disk.SuperInfoSize); err != nil {
			return err
		}
	}
	if discard {
		if err := d.Discard(0, d.Size()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	if err := wipe(0, disk.BlockReservedStart); err != nil {
		return err
	}
	const backup = 64 << 10 // a backup partition table, md metadata
	return wipe(max(0, d.Size()-backup), backup)
}

// count fills in the result.
func (m *maker) count() {
	r := m.result
	r.UUID = m.plan.UUID
	for _, d := range m.devices {
		r.DeviceSizes = append(r.DeviceSizes, d.size)
	}
	for _, c := range m.layout.chunks {
		r.BytesUsed += c.used
		r.DeviceUsed += c.used * uint64(len(c.Stripes)) * c.StripeLength() / c.Length
		switch {
		case c.Type&disk.BlockGroupSystem != 0:
			r.SystemChunks++
		case c.Type&disk.BlockGroupMetadata != 0:
			r.MetadataChunks++
		default:
			r.DataChunks++
		}
	}
	r.Metadata = r.BytesUsed - r.Data
}

// writeSupers makes everything durable, then writes the superblocks: copies first,
// the one that counts last. It is the point of no return: until here a run can be
// interrupted.
func (m *maker) writeSupers(ctx context.Context, roots [tailTrees]treeRoot) error {
	for _, d := range m.devices {
		if err := d.dev.Sync(); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s := m.super(roots)
	for mirror := disk.SuperMirrorMax - 1; mirror >= 0; mirror-- {
		at := disk.SuperOffset(mirror)
		for _, d := range m.devices {
			if at+disk.SuperInfoSize > d.size {
				continue
			}
			s.Bytenr = at
			s.DevItem = d.devItem(m.plan.UUID)
			b, err := s.Encode()
			if err != nil {
				return err
			}
			sum := csum.Sum(m.plan.Csum, b[disk.CsumSize:])
			copy(b, sum[:])
			if _, err := d.dev.WriteAt(b, int64(at)); err != nil {
				return err
			}
		}
	}
	for _, d := range m.devices {
		if err := d.dev.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// super is the superblock without what differs from device to device.
func (m *maker) super(roots [tailTrees]treeRoot) *disk.Superblock {
	p := m.plan
	root, chunkRoot := roots[tailRoot], roots[tailChunk]
	s := &disk.Superblock{
		FSID: p.UUID, Flags: disk.SuperFlagWritten, Generation: generation, Root: root.at, ChunkRoot: chunkRoot.at,
		BytesUsed: m.result.BytesUsed, RootDirObjectID: disk.RootTreeDir, NumDevices: uint64(len(m.devices)),
		SectorSize: sectorSize, NodeSize: uint32(p.format.size), LeafSize: uint32(p.format.size), StripeSize: sectorSize,
		ChunkRootGen: generation, CompatROFlags: p.features.compatRO, IncompatFlags: p.features.incompat, CsumType: p.Csum,
		RootLevel: uint8(root.level), ChunkRootLevel: uint8(chunkRoot.level), Label: p.Label, UUIDTreeGeneration: uint64(generation),
	}
	if !p.features.freeSpaceTree() {
		s.CacheGeneration = 1<<64 - 1 // no v1 cache
	}
	for _, d := range m.devices {
		s.TotalBytes += d.size
	}
	for _, c := range m.layout.chunks {
		if c.Type&disk.BlockGroupSystem != 0 {
			k := disk.Key{ObjectID: disk.FirstChunkTree, Type: disk.KeyChunkItem, Offset: uint64(c.Logical)}
			s.SysChunkArray = c.Chunk.Append(k.Append(s.SysChunkArray))
		}
	}
	s.SysChunkArraySize = uint32(len(s.SysChunkArray))
	b := disk.RootBackup{
		TreeRoot: root.at, TreeRootGen: generation, TreeRootLevel: uint8(root.level),
		ChunkRoot: chunkRoot.at, ChunkRootGen: generation, ChunkRootLevel: uint8(chunkRoot.level),
		ExtentRoot: roots[tailExtent].at, ExtentRootGen: generation, ExtentRootLevel: uint8(roots[tailExtent].level),
		DevRoot: roots[tailDev].at, DevRootGen: generation, DevRootLevel: uint8(roots[tailDev].level),
		TotalBytes: s.TotalBytes, BytesUsed: s.BytesUsed, NumDevices: s.NumDevices,
	}
	for _, r := range m.roots {
		switch r.owner {
		case disk.TreeFS:
			b.FSRoot, b.FSRootGen, b.FSRootLevel = r.at, generation, uint8(r.level)
		case disk.TreeCsum:
			b.CsumRoot, b.CsumRootGen, b.CsumRootLevel = r.at, generation, uint8(r.level)
		}
	}
	s.BackupRoots[0] = b
	return s
}

// writeParity fills in the parity of RAID5 and RAID6 chunks, row by row, wherever
// something was given out.
func (m *maker) writeParity(ctx context.Context) error {
	for _, c := range m.layout.chunks {
		p := disk.ProfileOf(c.Type)
		if p.Parity == 0 {
			continue
		}
		row := disk.StripeLen * uint64(p.DataStripes(len(c.Stripes)))
		for at := uint64(0); at < c.next; at += row {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := m.parityRow(c, at/row); err != nil {
				return err
			}
		}
	}
	return nil
}
