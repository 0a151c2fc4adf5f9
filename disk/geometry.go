package disk

// Geometry is what the validators must know of the filesystem.
type Geometry struct {
	NodeSize      int
	SectorSize    int
	CsumType      CsumType
	IncompatFlags uint64
	CompatROFlags uint64
	Generation    TransID // of the superblock
	// Writable refuses items too that only a reader may ignore, and such that
	// earlier kernels wrote and Linux 6.18 refuses.
	Writable bool
}

// Geometry is the superblock's part of what the validators need.
func (s *Superblock) Geometry() Geometry {
	return Geometry{
		NodeSize: int(s.NodeSize), SectorSize: int(s.SectorSize), CsumType: s.CsumType,
		IncompatFlags: s.IncompatFlags, CompatROFlags: s.CompatROFlags, Generation: s.Generation,
	}
}
