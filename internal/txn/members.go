package txn

import (
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
	"gobtrfs/internal/volume"
)

// Which members of a filesystem are written, and what may be allocated while
// some are not. docs/design/0006 says why.

// members is what the devices of a filesystem are to somebody who writes it.
type members struct {
	away map[disk.DevID]string // is not written, and why
	seed map[disk.DevID]bool   // is never written
}

func membersOf(v *volume.Volume) members {
	m := members{make(map[disk.DevID]string), make(map[disk.DevID]bool)}
	for _, d := range v.Devices() {
		switch {
		case d.Seed:
			m.seed[d.ID] = true
		case d.Missing:
			m.away[d.ID] = "is missing"
		case d.Missed:
			m.away[d.ID] = "has missed commits"
		}
	}
	return m
}

// gateMembers refuses a set of devices that cannot be written safely: too few
// of them for some chunk, or not all of them although nobody asked for that.
func (f *FS) gateMembers() error {
	m := f.members
	for _, d := range f.vol.Devices() {
		if why := m.away[d.ID]; why != "" && !f.opts.Degraded {
			return fmt.Errorf("%w: device %d %s, and the filesystem was not opened as degraded", volume.ErrReadOnly, uint64(d.ID), why)
		}
		if d.Item.TotalBytes == 0 {
			return &volume.UnsupportedError{Feature: fmt.Sprintf("writing to a filesystem whose device %d is being removed", uint64(d.ID))}
		}
	}
	for _, c := range f.vol.Chunks() {
		p, away := disk.ProfileOf(c.Type), 0
		var last disk.DevID
		for _, s := range c.Stripes {
			if m.away[s.DevID] != "" {
				away, last = away+1, s.DevID
			}
		}
		if away > p.Tolerated {
			return fmt.Errorf("%w: device %d %s, and the %s block group at %d does not do without it",
				volume.ErrReadOnly, uint64(last), m.away[last], p.Name, uint64(c.Logical))
		}
	}
	return nil
}

// deviceSpec is what the allocator is to know of a device.
func (m members) deviceSpec(d *volume.DeviceInfo) space.DeviceSpec {
	s := space.DeviceSpec{ID: d.ID, Size: space.Bytes(d.Item.TotalBytes), ReadOnly: m.seed[d.ID] || m.away[d.ID] != ""}
	if !s.ReadOnly {
		s.Size = min(s.Size, space.Bytes(d.Size))
	}
	return s
}

// closed says whether nothing may be allocated in a chunk: it lies on a seed,
// or it has parity and a member is away. In such a row parity stands for the
// member's bytes, and while new bytes were written beside them a power cut would
// take those, committed as they are.
func (m members) closed(c *disk.ChunkMapping) bool {
	for _, s := range c.Stripes {
		if m.seed[s.DevID] || m.away[s.DevID] != "" && c.Type&disk.BlockGroupRAID56Mask != 0 {
			return true
		}
	}
	return false
}

// InPlace says whether what is written over committed bytes at addr may be
// written there: not where nothing may be allocated.
func (f *FS) InPlace(addr disk.Logical) bool {
	c, ok := f.vol.Chunk(addr)
	return ok && !f.members.closed(c)
}

// profileFeatures are the incompatible features that come and go with the
// profiles in use.
var profileFeatures = [...]struct {
	profiles disk.BlockGroupFlags
	feature  uint64
}{
	{disk.BlockGroupRAID56Mask, disk.IncompatRAID56},
	{disk.BlockGroupRAID1C3 | disk.BlockGroupRAID1C4, disk.IncompatRAID1C34},
}

// addFeatures sets the features that a new chunk needs. growth must be held.
func (f *FS) addFeatures(c *space.Chunk) {
	for _, p := range profileFeatures {
		if c.Flags&p.profiles != 0 {
			f.super.IncompatFlags |= p.feature
		}
	}
}

// dropFeatures clears the features that only chunks which are leaving needed.
// growth must be held.
func (f *FS) dropFeatures() {
	leaving := make(map[disk.Logical]bool)
	for _, at := range f.leaving {
		leaving[at] = true
	}
	for _, p := range profileFeatures {
		inUse := false
		for _, c := range f.vol.Chunks() {
			inUse = inUse || c.Type&p.profiles != 0 && !leaving[c.Logical]
		}
		if !inUse {
			f.super.IncompatFlags &^= p.feature
		}
	}
}
