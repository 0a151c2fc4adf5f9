package mkfs

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/clock"
	"gobtrfs/internal/compress"
)

// Options says what to make. The zero value is an empty filesystem with the
// defaults of current btrfs-progs.
type Options struct {
	// Label of the filesystem, at most 255 bytes. Default: none.
	Label string
	// UUID of the filesystem. The UUIDs of devices, subvolumes and the chunk
	// tree follow from it. Default: random, or, with Time or Reproducible,
	// made from what is put in.
	UUID disk.UUID
	// DeviceUUIDs of the devices in their order. Default: made from UUID.
	DeviceUUIDs []disk.UUID
	// SubvolUUID is the UUID of the top-level subvolume. Default: made from
	// UUID.
	SubvolUUID disk.UUID
	// Time is the time of creation. Default: now, or, with UUID or
	// Reproducible, the newest time in the source (1970 without one).
	Time time.Time
	// Reproducible makes the result depend on the options and the source
	// only. Default: as if set when UUID or Time is.
	Reproducible bool
	// Rand gives random UUIDs. Default: crypto/rand.Reader.
	Rand io.Reader
	// Now is the clock. Default: the system's.
	Now func() time.Time

	// NodeSize is the size of tree blocks in bytes: 4096 to 65536.
	// Default: 16384, or 4096 with mixed groups.
	NodeSize int
	// Csum is the checksum algorithm. Default: crc32c.
	Csum disk.CsumType
	// Data and Metadata name profiles ("single", "dup", "raid1" …).
	// Default: data single; metadata dup on one device and raid1 on several;
	// single for both with mixed groups.
	Data, Metadata string
	// Features turns features on or off by their names in btrfs-progs; "^"
	// before a name turns it off. See Features. Default: those of
	// btrfs-progs 6.19.
	Features []string
	// ByteCount limits how many bytes of each device are used. Default: all.
	ByteCount uint64
	// Shrink makes the filesystem as small as its contents allow. Default: it
	// takes the whole device.
	Shrink bool
	// Free is for how many bytes of new files Shrink leaves room, in data and in
	// metadata, so that Linux can make them. Without it a shrunk filesystem is
	// full: Linux mounts it for writing, deletes from it and grows it, but makes
	// no file before it has grown. At most 16 TiB. Default: 0.
	Free uint64
	// Slack is added to each device by Shrink, in bytes: unallocated room in
	// which Linux can make new chunks, which it needs to scrub RAID5 and RAID6.
	// Default: 0.
	Slack uint64
	// NoDiscard leaves out the discard of the devices' old contents.
	NoDiscard bool
	// Force overwrites what is on the devices. Default: refuse.
	Force bool

	// Source is what the filesystem shall hold. Default: nothing.
	Source Source
	// Compress is an algorithm and level, such as "zstd:3", for the contents
	// of files. Default: none.
	Compress string
	// Subvolumes are directories of the source that become subvolumes.
	Subvolumes []Subvolume
	// Flags are inode flags for files and directories of the source.
	Flags []InodeFlags
	// Map changes owners, modes, times and attributes on the way.
	Map Mapping

	// Progress is called from time to time, by one goroutine at a time.
	Progress func(Progress)
}

// Subvolume makes a directory of the source a subvolume.
type Subvolume struct {
	Path     string // slash-separated, from the top
	ReadOnly bool
	Default  bool // the one that is mounted when none is named
}

// InodeFlags turns off copy-on-write or checksums for a file, or for a directory
// and everything in it that is not in another subvolume.
type InodeFlags struct {
	Path      string
	NoDataCow bool // implies NoDataSum for regular files
	NoDataSum bool
}

// Progress is how far the work is.
type Progress struct {
	Files, TotalFiles uint64 // regular files with contents
	Bytes, TotalBytes uint64 // of their contents
}

// Result is what was made.
type Result struct {
	UUID                                     disk.UUID
	DeviceSizes                              []uint64 // total bytes of each device; with Shrink, where it can be cut off
	BytesUsed                                uint64   // in extents, copies counted once
	DeviceUsed                               uint64   // in extents, copies and parity counted
	Files                                    uint64   // inodes of all types
	Contents                                 uint64   // bytes of all regular files
	Data                                     uint64   // bytes of data extents
	Metadata                                 uint64   // bytes of tree blocks
	DataChunks, MetadataChunks, SystemChunks int
}

// plan is Options with everything decided.
type plan struct {
	Options
	format    nodeFormat
	features  features
	data      *disk.Profile
	metadata  *disk.Profile
	spec      compress.Spec
	mixed     bool
	subvolTop disk.UUID
	changes   *mapping // nil: none
}

func (p *plan) mapping() *mapping { return p.changes }

const (
	defaultNodeSize = 16384
	maxFree         = 16 << 40 // the time that laying out takes grows with the square of it
)

// newPlan checks the options and fills in the defaults that do not depend on the
// source.
func newPlan(o Options, devices int) (*plan, error) {
	p := &plan{Options: o}
	if len(o.Label) >= disk.LabelSize {
		return nil, fmt.Errorf("label of %d bytes, at most %d fit", len(o.Label), disk.LabelSize-1)
	}
	if p.Rand == nil {
		p.Rand = rand.Reader
	}
	if p.Now == nil {
		p.Now = clock.System{}.Now
	}
	p.Reproducible = o.Reproducible || !o.UUID.IsZero() || !o.Time.IsZero()
	var err error
	if p.features, err = parseFeatures(o.Features...); err != nil {
		return nil, err
	}
	p.mixed = p.features.incompat&disk.IncompatMixedGroups != 0
	if p.spec, err = compress.ParseSpec(orDefault(o.Compress, "none")); err != nil {
		return nil, err
	}
	if err := p.setNodes(); err != nil {
		return nil, err
	}
	if err := p.setProfiles(devices); err != nil {
		return nil, err
	}
	p.changes = &mapping{o.Map}
	if err := p.changes.validate(); err != nil {
		return nil, err
	}
	if o.Free > maxFree {
		return nil, fmt.Errorf("room for %d bytes of new files, at most %d", o.Free, uint64(maxFree))
	}
	if n := len(o.DeviceUUIDs); n != 0 && n != devices {
		return nil, fmt.Errorf("%d device UUIDs for %d devices", n, devices)
	}
	return p, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func (p *plan) setNodes() error {
	def := defaultNodeSize
	if p.mixed {
		def = sectorSize
	}
	size := orDefault(p.NodeSize, def)
	if size < disk.MinNodeSize || size > disk.MaxNodeSize || size&(size-1) != 0 {
		return fmt.Errorf("node size %d: want a power of two from %d to %d", size, disk.MinNodeSize, disk.MaxNodeSize)
	}
	if p.mixed && size != sectorSize {
		return fmt.Errorf("mixed block groups need a node size of %d", sectorSize)
	}
	if p.Csum.Size() == 0 {
		return fmt.Errorf("unknown checksum algorithm %v", p.Csum)
	}
	if size > sectorSize {
		p.features.incompat |= disk.IncompatBigMetadata
	}
	p.format = nodeFormat{size: size, csum: p.Csum}
	return nil
}

func (p *plan) setProfiles(devices int) error {
	data, metadata := "single", "dup"
	if devices > 1 {
		metadata = "raid1"
	}
	if p.mixed {
		metadata = orDefault(p.Metadata, orDefault(p.Data, "single"))
		data = metadata
	}
	for _, v := range []struct {
		what, name string
		into       **disk.Profile
	}{{"data", orDefault(p.Data, data), &p.data}, {"metadata", orDefault(p.Metadata, metadata), &p.metadata}} {
		prof, ok := disk.ParseProfile(v.name)
		if !ok {
			return fmt.Errorf("unknown %s profile %q", v.what, v.name)
		}
		if devices < prof.DevsMin {
			return fmt.Errorf("%s profile %s needs %d devices, there are %d", v.what, prof.Name, prof.DevsMin, devices)
		}
		*v.into = prof
	}
	if p.mixed && p.data != p.metadata {
		return fmt.Errorf("mixed block groups need one profile for data and metadata, not %s and %s", p.data.Name, p.metadata.Name)
	}
	flags := p.data.Flag | p.metadata.Flag
	if flags&disk.BlockGroupRAID56Mask != 0 {
		p.features.incompat |= disk.IncompatRAID56
	}
	if flags&(disk.BlockGroupRAID1C3|disk.BlockGroupRAID1C4) != 0 {
		p.features.incompat |= disk.IncompatRAID1C34
	}
	switch p.spec.Algorithm {
	case disk.CompressLZO:
		p.features.incompat |= disk.IncompatCompressLZO
	case disk.CompressZstd:
		p.features.incompat |= disk.IncompatCompressZstd
	}
	return nil
}

// systemFlags, metadataFlags and dataFlags are types with profiles.
func (p *plan) systemFlags() disk.BlockGroupFlags { return disk.BlockGroupSystem | p.metadata.Flag }

func (p *plan) metadataFlags() disk.BlockGroupFlags {
	if p.mixed {
		return disk.BlockGroupMixed | p.metadata.Flag
	}
	return disk.BlockGroupMetadata | p.metadata.Flag
}

func (p *plan) dataFlags() disk.BlockGroupFlags {
	if p.mixed {
		return p.metadataFlags()
	}
	return disk.BlockGroupData | p.data.Flag
}

// identify decides UUIDs and the time of creation, now that the source is known.
func (p *plan) identify(t *tree) error {
	if p.Time.IsZero() {
		if p.Reproducible {
			newest := p.changes.clamp(onDisk(t.newest()))
			p.Time = time.Unix(newest.Sec, int64(newest.Nsec))
		} else {
			p.Time = p.Now()
		}
	}
	if p.UUID.IsZero() {
		if p.Reproducible {
			p.UUID = derive(t.fingerprint(), fmt.Sprint("filesystem ", p.Time.UnixNano(), p.Label, p.format.size, p.Csum, p.spec, p.data.Name, p.metadata.Name, p.features))
		} else if err := p.randomUUID(); err != nil {
			return err
		}
	}
	p.format.fsid = p.UUID
	p.format.chunkTree = derive(p.UUID[:], "chunk tree")
	p.subvolTop = orDefault(p.SubvolUUID, derive(p.UUID[:], "subvolume 5"))
	return nil
}

func (p *plan) randomUUID() error {
	if _, err := io.ReadFull(p.Rand, p.UUID[:]); err != nil {
		return fmt.Errorf("random UUID: %w", err)
	}
	p.UUID = asUUID(p.UUID)
	return nil
}

// derive makes a UUID out of a seed and a name.
func derive(seed []byte, name string) disk.UUID {
	h := sha256.New()
	h.Write(seed)
	io.WriteString(h, name) //nolint:errcheck // a hash never fails
	return asUUID(disk.UUID(h.Sum(nil)[:16]))
}

// asUUID sets the bits that say "version 4, random".
func asUUID(u disk.UUID) disk.UUID {
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}
