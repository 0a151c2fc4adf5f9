package volume

import (
	"errors"
	"fmt"
	"io"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// errUnfinished: mkfs or a conversion stopped before its end. The other copies
// may still show what was there before; they must not be used.
var errUnfinished = errors.New("mkfs or a conversion has not finished")

// SuperCopy is one copy of a device's superblock as it was read.
type SuperCopy struct {
	Mirror int
	Offset uint64           // physical, in bytes
	Super  *disk.Superblock // nil when Err is set
	Err    error            // why the copy is not valid
}

// ReadSuperCopies reads every copy of the superblock that fits d. The result
// is empty only when d is too small for any.
func ReadSuperCopies(d blockdev.Device) []SuperCopy {
	var out []SuperCopy
	for m := range disk.SuperMirrorMax {
		off := disk.SuperOffset(m)
		if size := d.Size(); size < disk.SuperInfoSize || off > uint64(size-disk.SuperInfoSize) {
			break
		}
		c := SuperCopy{Mirror: m, Offset: off}
		c.Super, c.Err = readSuperCopy(d, off)
		out = append(out, c)
	}
	return out
}

func readSuperCopy(d blockdev.Device, off uint64) (*disk.Superblock, error) {
	var b [disk.SuperInfoSize]byte
	if n, err := d.ReadAt(b[:], int64(off)); n < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, &DeviceError{Name: d.Name(), Op: "read", Off: off, Err: err}
	}
	corrupt := func(what string, err error) error {
		return &CorruptError{DevName: d.Name(), Physical: off, What: what, Err: err}
	}
	if disk.IsUnfinished(b[:]) {
		return nil, corrupt("superblock", errUnfinished)
	}
	if !disk.HasMagic(b[:]) {
		return nil, ErrNotBtrfs
	}
	sb, err := disk.ParseSuperblock(b[:])
	if err != nil {
		return nil, corrupt("superblock", err)
	}
	if sb.CsumType.Size() == 0 {
		return nil, &UnsupportedError{Feature: "checksum type " + sb.CsumType.String()}
	}
	if !csum.Verify(sb.CsumType, sb.Csum[:], b[disk.CsumSize:]) {
		return nil, corrupt("superblock checksum mismatch", nil)
	}
	if sb.Bytenr != off {
		return nil, corrupt(fmt.Sprintf("superblock says that it stands at %d", sb.Bytenr), nil)
	}
	// A superblock with features that are refused anyway need not keep the
	// rules of those without, and the refusal says more.
	if sb.IncompatFlags&^supportedIncompat == 0 {
		if err := sb.Validate(); err != nil {
			return nil, corrupt("superblock", err)
		}
	}
	return sb, nil
}

// member is a device that has a valid superblock.
type member struct {
	dev blockdev.Device
	sb  *disk.Superblock
}

// readSupers reads the superblocks of all devices and decides which filesystem
// is meant: that of the first device with a superblock. It returns the newest
// superblock of that filesystem, and all members, those of other filesystems
// included, because they may be seeds.
func (v *Volume) readSupers(devs []blockdev.Device, o Options) (*disk.Superblock, []member, error) {
	var all []member
	var firstErr error
	for _, d := range devs {
		if d.Size() == 0 {
			v.notice(Notice{Kind: NoticePlaceholder, Name: d.Name(), Text: "empty, stands for a missing device"})
			continue
		}
		sb, err := v.deviceSuper(d, o.SuperMirror)
		if err != nil {
			if firstErr == nil {
				firstErr = err
			}
			v.notice(Notice{Kind: NoticePlaceholder, Name: d.Name(), Text: "not usable: " + err.Error()})
			continue
		}
		all = append(all, member{d, sb})
	}
	if len(all) == 0 {
		if firstErr == nil {
			firstErr = ErrNotBtrfs
		}
		return nil, nil, firstErr
	}
	best := all[0].sb
	for _, m := range all[1:] {
		if !sameFilesystem(best, m.sb) {
			continue
		}
		// At the same generation the one whose fsid change has finished
		// counts: it holds the fsid that the filesystem is going to have.
		if m.sb.Generation > best.Generation ||
			m.sb.Generation == best.Generation && changing(best) && !changing(m.sb) {
			best = m.sb
		}
	}
	return best.Clone(), all, nil
}

func changing(sb *disk.Superblock) bool { return sb.Flags&disk.SuperFlagChangingFSID2 != 0 }

// sameFilesystem says whether two devices are members of one filesystem.
//
// Nodes never change their fsid when btrfstune -m gives the filesystem a new
// one, so the fsid in the nodes is what members share. It is not enough: two
// copies of a filesystem, one of which got a new fsid, share it too. Only when
// the change stopped half-way, which a flag in the superblocks that were not
// reached yet tells, may the visible fsids of members differ.
func sameFilesystem(a, b *disk.Superblock) bool {
	if a.NodeFSID() != b.NodeFSID() {
		return false
	}
	return a.FSID == b.FSID || changing(a) || changing(b)
}

// deviceSuper chooses among the copies of one device's superblock. Copy 0
// decides which filesystem the device belongs to, when it is valid: what stands
// at the other places may be left over from an earlier life of the device. Of
// the copies of that filesystem the newest counts.
func (v *Volume) deviceSuper(d blockdev.Device, only int) (*disk.Superblock, error) {
	copies := ReadSuperCopies(d)
	for _, c := range copies {
		if failed := (*DeviceError)(nil); errors.As(c.Err, &failed) {
			v.unread = append(v.unread, c.Err)
		}
	}
	if only > 0 {
		if only >= len(copies) {
			return nil, fmt.Errorf("%s: no room for superblock copy %d: %w", d.Name(), only, ErrNotBtrfs)
		}
		if c := copies[only]; c.Err != nil {
			return nil, named(d, fmt.Errorf("superblock copy %d: %w", only, c.Err))
		}
		return copies[only].Super, nil
	}
	best := newestCopy(copies)
	if best == nil {
		for _, c := range copies {
			if !errors.Is(c.Err, ErrNotBtrfs) {
				return nil, named(d, c.Err)
			}
		}
		return nil, fmt.Errorf("%s: %w", d.Name(), ErrNotBtrfs)
	}
	for _, c := range copies {
		if c.Offset+disk.SuperInfoSize > best.DevItem.TotalBytes && c.Mirror > 0 {
			continue // the filesystem does not reach that far
		}
		switch {
		case c.Err != nil:
			v.notice(Notice{Kind: NoticeSuperCopies, Dev: best.DevItem.DevID, Name: d.Name(),
				Text: fmt.Sprintf("superblock copy %d at %d: %v", c.Mirror, c.Offset, c.Err)})
		case c.Super.Generation != best.Generation || c.Super.FSID != best.FSID:
			v.notice(Notice{Kind: NoticeSuperCopies, Dev: best.DevItem.DevID, Name: d.Name(),
				Text: fmt.Sprintf("superblock copy %d at %d has generation %d and fsid %v, used is generation %d and fsid %v",
					c.Mirror, c.Offset, c.Super.Generation, c.Super.FSID, best.Generation, best.FSID)})
		}
	}
	return best, nil
}

// named adds the device's name to an error that does not say it.
func named(d blockdev.Device, err error) error {
	if errors.Is(err, ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%s: %w", d.Name(), err)
}

// newestCopy is the valid copy with the highest generation, nil if there is
// none. The earliest of equals wins.
func newestCopy(copies []SuperCopy) *disk.Superblock {
	var best *disk.Superblock
	for _, c := range copies {
		if c.Err != nil {
			if c.Mirror == 0 && errors.Is(c.Err, errUnfinished) {
				return nil
			}
			continue
		}
		if best == nil {
			best = c.Super
			continue
		}
		first := copies[0].Super
		if first != nil && (c.Super.NodeFSID() != first.NodeFSID() || c.Super.DevItem.UUID != first.DevItem.UUID) {
			continue
		}
		if c.Super.Generation > best.Generation {
			best = c.Super
		}
	}
	return best
}

// applyBackupRoot replaces the roots in sb by those of backup n, counted from
// the newest; 0 leaves it alone.
func (v *Volume) applyBackupRoot(sb *disk.Superblock, n int) (*disk.Superblock, error) {
	if n == 0 {
		return sb, nil
	}
	backups := make([]disk.RootBackup, 0, disk.NumBackupRoots)
	for _, b := range sb.BackupRoots {
		if b.TreeRoot != 0 && b.TreeRootGen != 0 && b.TreeRootGen <= sb.Generation {
			backups = append(backups, b)
		}
	}
	sortBackups(backups)
	if n > len(backups) {
		return nil, fmt.Errorf("backup root %d: the superblock keeps %d", n, len(backups))
	}
	b := &backups[n-1]
	if b.TreeRootLevel >= disk.MaxLevel || b.ChunkRootLevel >= disk.MaxLevel || uint64(b.TreeRoot)%uint64(sb.SectorSize) != 0 {
		return nil, &CorruptError{Logical: b.TreeRoot, What: fmt.Sprintf("backup root %d", n),
			Err: fmt.Errorf("levels %d and %d", b.TreeRootLevel, b.ChunkRootLevel)}
	}
	out := sb.Clone()
	out.Root, out.RootLevel, out.Generation = b.TreeRoot, b.TreeRootLevel, b.TreeRootGen
	out.BytesUsed = b.BytesUsed
	// The log belongs to the current root and means nothing on an older one.
	out.LogRoot, out.LogRootLevel = 0, 0
	v.forbidWriting(fmt.Sprintf("opened with the backup root of generation %d", b.TreeRootGen))
	return out, nil
}
