package scrub

import (
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/volume"
)

// supers verifies all copies of the superblock on all devices, and puts bad
// ones right from the good one of the same device.
func (s *scrubber) supers() {
	for _, d := range s.vol.Devices() {
		if d.Missing || d.Seed || d.Super == nil {
			continue
		}
		for _, c := range volume.ReadSuperCopies(d.Device) {
			if c.Offset+disk.SuperInfoSize > d.Item.TotalBytes {
				continue // behind the filesystem's end
			}
			p := Problem{Kind: KindSuper, Dev: d.ID, Physical: c.Offset, Length: disk.SuperInfoSize, Mirror: c.Mirror + 1, Correctable: true}
			switch {
			case c.Err != nil:
				p.What = c.Err.Error()
			case c.Super.Generation != d.Super.Generation || c.Super.FSID != d.Super.FSID:
				p.What = fmt.Sprintf("generation %d, want %d", c.Super.Generation, d.Super.Generation)
			default:
				continue
			}
			if s.o.Repair && !d.Stale {
				p.Corrected, p.What = s.rewriteSuper(&d, c.Offset, p.What)
			}
			s.report(p)
		}
	}
}

func (s *scrubber) rewriteSuper(d *volume.DeviceInfo, off uint64, what string) (bool, string) {
	sb := d.Super.Clone()
	sb.Bytenr = off
	b, err := sb.Encode()
	if err != nil {
		return false, fmt.Sprintf("%s; %v", what, err)
	}
	sum := csum.Sum(sb.CsumType, b[disk.CsumSize:])
	copy(b, sum[:])
	w := &worker{s: s}
	return w.rewrite(d.ID, off, b, what)
}
