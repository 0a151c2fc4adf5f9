package disk

import (
	"errors"
	"math/bits"
)

// Validate says what in a superblock cannot be right, by the rules of Linux 6.18
// (btrfs_validate_super). All findings are joined; each wraps ErrFormat.
// Checksum, features, and whether the copy stands where Bytenr says are the
// caller's to compare.
func (s *Superblock) Validate() error {
	var bad []error
	no := func(format string, args ...any) { bad = append(bad, formatErrorf("superblock: "+format, args...)) }

	if s.CsumType.Size() == 0 {
		no("csum_type %d, want 0 to %d", uint16(s.CsumType), uint16(CsumBLAKE2b))
	}
	sectors := isPowerOfTwo(s.SectorSize) && s.SectorSize >= MinNodeSize && s.SectorSize <= MaxNodeSize
	if !sectors {
		no("sectorsize %d, want a power of two from %d to %d", s.SectorSize, MinNodeSize, MaxNodeSize)
	}
	if !isPowerOfTwo(s.NodeSize) || s.NodeSize < max(s.SectorSize, MinNodeSize) || s.NodeSize > MaxNodeSize {
		no("nodesize %d, want a power of two from sectorsize %d to %d", s.NodeSize, s.SectorSize, MaxNodeSize)
	}
	if s.LeafSize != s.NodeSize {
		no("leafsize %d, want nodesize %d", s.LeafSize, s.NodeSize)
	}
	if !isPowerOfTwo(s.StripeSize) {
		no("stripesize %d, want a power of two", s.StripeSize)
	}
	for _, r := range [...]struct {
		name  string
		at    Logical
		level uint8
	}{{"root", s.Root, s.RootLevel}, {"chunk_root", s.ChunkRoot, s.ChunkRootLevel}, {"log_root", s.LogRoot, s.LogRootLevel}} {
		if r.level >= MaxLevel {
			no("%s_level %d, want at most %d", r.name, r.level, MaxLevel-1)
		}
		if sectors && uint64(r.at)%uint64(s.SectorSize) != 0 {
			no("%s %d, want a multiple of %d", r.name, uint64(r.at), s.SectorSize)
		}
	}
	if s.DevItem.FSID != s.NodeFSID() {
		no("dev_item.fsid %v, want %v", s.DevItem.FSID, s.NodeFSID())
	}
	if s.CompatROFlags&CompatROBlockGroupTree != 0 &&
		(s.CompatROFlags&CompatROFreeSpaceTreeValid == 0 || s.IncompatFlags&IncompatNoHoles == 0) {
		no("block-group-tree without a valid free-space-tree or without no-holes")
	}
	// The six trees of the emptiest filesystem have a node each.
	if s.BytesUsed < 6*uint64(s.NodeSize) {
		no("bytes_used %d, want at least %d", s.BytesUsed, 6*uint64(s.NodeSize))
	}
	if s.NumDevices == 0 {
		no("num_devices 0, want at least 1")
	}
	if b := s.Bytenr; b != SuperOffset(0) && b != SuperOffset(1) && b != SuperOffset(2) {
		no("bytenr %d, want the place of a superblock", b)
	}
	if err := s.validateSystemChunks(); err != nil {
		bad = append(bad, err)
	}
	return errors.Join(bad...)
}

func isPowerOfTwo(v uint32) bool { return bits.OnesCount32(v) == 1 }

// validateSystemChunks checks the chunks that the superblock itself holds.
func (s *Superblock) validateSystemChunks() error {
	if len(s.SysChunkArray) < KeySize+chunkFixedSize+stripeSize {
		return formatErrorf("superblock: sys_chunk_array_size %d, want at least %d", len(s.SysChunkArray), KeySize+chunkFixedSize+stripeSize)
	}
	chunks, err := s.SystemChunks()
	if err != nil {
		return err
	}
	for i := range chunks {
		if err := chunks[i].Validate(s.Geometry()); err != nil {
			return err
		}
		if chunks[i].Type&BlockGroupSystem == 0 {
			return formatErrorf("system chunk at %d: type %v, want SYSTEM", uint64(chunks[i].Logical), chunks[i].Type)
		}
	}
	return nil
}

// Validate says what in a chunk cannot be right in a filesystem with geometry g,
// by the rules of Linux 6.18 (btrfs_check_chunk_valid). The error wraps
// ErrFormat. Whether the stripes fit their devices takes more than a chunk to
// know.
func (c *ChunkMapping) Validate(g Geometry) error {
	if len(c.Stripes) > 1<<16-1 {
		return formatErrorf("chunk at %d: num_stripes %d, want at most 65535", uint64(c.Logical), len(c.Stripes))
	}
	fixed := Chunk{
		Length: c.Length, Owner: c.Owner, StripeLen: c.StripeLen, Type: c.Type, IOAlign: c.IOAlign,
		IOWidth: c.IOWidth, SectorSize: c.SectorSize, SubStripes: c.SubStripes,
	}
	b := fixed.Append(make([]byte, 0, chunkFixedSize))
	le.PutUint16(b[44:], uint16(len(c.Stripes)))
	if bad := checkChunk(c.Logical, b, &g); bad != nil {
		return formatErrorf("chunk at %d: %s %v, want %s", uint64(c.Logical), bad.field, bad.found, bad.want)
	}
	return nil
}
