package space

import (
	"errors"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/invariants"
)

// Verify recounts everything: I3, I7, I8, I9 and that the headroom word agrees
// with the counters. It stops all allocation while it looks, so it is for
// tests, and for whoever has a reason to doubt. Where invariants are checked it
// also compares the promises made with those that the counters imply; nobody
// may then be inside Reserve or Release.
func (fs *FS) Verify() error {
	gs := fs.Groups()
	for _, g := range gs {
		g.mu.Lock()
	}
	defer func() {
		for _, g := range gs {
			g.mu.Unlock()
		}
	}()
	var errs []error
	for _, g := range gs {
		errs = append(errs, g.verifyLocked())
	}
	for _, i := range fs.infos {
		errs = append(errs, i.verify(gs))
	}
	return errors.Join(append(errs, fs.verifyGeometry(gs))...)
}

// verifyLocked checks one group. mu must be held.
func (g *Group) verifyLocked() error {
	if g.gone {
		return nil // between its removal and the end of its listing
	}
	at := g.chunk.Start
	if g.used < 0 || g.reserved < 0 || g.pinned < 0 || g.idle() < 0 {
		return fmt.Errorf("I7: block group %d: used %d, reserved %d, pinned %d, idle %d", at, g.used, g.reserved, g.pinned, g.idle())
	}
	if g.free == nil {
		return nil
	}
	if free := Bytes(g.free.free) * g.fs.sector; free != g.idle() {
		return fmt.Errorf("I7: block group %d: index has %d bytes free, counters say %d", at, free, g.idle())
	}
	for _, r := range g.superAreas {
		if lo, hi, _ := g.sectors(r); !g.free.all(lo, hi, false) {
			return fmt.Errorf("I9: block group %d: superblock copy at %d is free", at, r.Start)
		}
	}
	pinned := Bytes(0)
	for t, p := range g.pins {
		pinned += Bytes(p.freeMap.free) * g.fs.sector
		overlap := false
		p.runs(func(lo, hi uint32) bool { overlap = !g.free.all(lo, hi, false); return !overlap })
		if overlap {
			return fmt.Errorf("I10: block group %d: what transaction %d freed can be allocated", at, t)
		}
	}
	if pinned != g.pinned {
		return fmt.Errorf("I7: block group %d: %d bytes pinned, counter says %d", at, pinned, g.pinned)
	}
	return nil
}

// verify checks an info against its groups, whose mu is held.
func (i *Info) verify(gs []*Group) error {
	var want counters
	for _, g := range gs {
		if g.info != i || g.gone {
			continue
		}
		want.add(counters{total: g.chunk.Length, used: g.used, reserved: g.reserved, pinned: g.pinned, readOnly: g.superBytes})
		if g.readOnly > 0 {
			want.readOnly += g.idle()
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.c != want {
		return fmt.Errorf("I7: %v counters are %+v, sums over groups %+v", i.flags, i.c, want)
	}
	before := i.promised.Load()
	mayUse := i.mayUse()
	if invariants.Enabled && before == i.promised.Load() && int64(mayUse) != before {
		return fmt.Errorf("I7: %v headroom implies %d promised, %d were", i.flags, mayUse, before)
	}
	if mayUse < 0 {
		return fmt.Errorf("I7: %v has promised %d", i.flags, mayUse)
	}
	if len(i.waiters) != i.proto.Queued() {
		return fmt.Errorf("I4: %v has %d waiters, %d tickets", i.flags, len(i.waiters), i.proto.Queued())
	}
	return nil
}

// verifyGeometry checks that chunks and device extents are a bijection, do not
// overlap, and fit their devices (I8).
func (fs *FS) verifyGeometry(gs []*Group) error {
	for k := 1; k < len(gs); k++ {
		if gs[k-1].chunk.Range().End() > gs[k].chunk.Start {
			return fmt.Errorf("I8: block groups %d and %d overlap", gs[k-1].chunk.Start, gs[k].chunk.Start)
		}
	}
	fs.devMu.Lock()
	defer fs.devMu.Unlock()
	type place struct {
		dev disk.DevID
		off Physical
	}
	owner := make(map[place]disk.Logical)
	array := 0
	for _, g := range gs {
		for _, s := range g.chunk.Stripes {
			owner[place{s.Dev, s.Off}] = g.chunk.Start
		}
		if g.chunk.Flags&disk.BlockGroupSystem != 0 && !g.gone {
			array += g.chunk.sysArrayEntry()
		}
	}
	if array != fs.sysArray || array > sysArrayBytes {
		return fmt.Errorf("I8: SYSTEM chunks take %d bytes of the array, counter says %d of %d", array, fs.sysArray, sysArrayBytes)
	}
	for _, d := range fs.devs {
		if err := d.verify(); err != nil {
			return err
		}
		for _, e := range d.busy {
			if at, ok := owner[place{d.ID, e.off}]; ok && at == e.chunk {
				delete(owner, place{d.ID, e.off})
			}
		}
	}
	for p, chunk := range owner {
		return fmt.Errorf("I8: chunk %d has no extent at %d of device %d", chunk, p.off, p.dev)
	}
	return nil
}

// verify checks that a device's extents are disjoint and inside it.
func (d *device) verify() error {
	usable := max(0, d.Size-deviceStart)
	for k, e := range d.busy {
		usable -= e.countable()
		if k > 0 && d.busy[k-1].end() > e.off || e.end() > Physical(d.Size) {
			return fmt.Errorf("I8: extent of chunk %d at %d of device %d overlaps or is outside", e.chunk, e.off, d.ID)
		}
	}
	if usable != d.usable {
		return fmt.Errorf("I7: device %d has %d bytes left, counter says %d", d.ID, usable, d.usable)
	}
	return nil
}
