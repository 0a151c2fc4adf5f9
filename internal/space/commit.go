package space

import (
	"cmp"
	"slices"

	"gobtrfs/disk"
)

// PinnedRanges calls yield with every range that CommitDone(t) will make free,
// in order of address: what may be discarded once t is durable.
func (fs *FS) PinnedRanges(t disk.TransID, yield func(Range) bool) {
	for _, g := range fs.pinnedGroups(t) {
		g.mu.Lock()
		var rs []Range
		for id, p := range g.pins {
			if id <= t {
				p.runs(func(lo, hi uint32) bool { rs = append(rs, g.rangeOf(lo, hi)); return true })
			}
		}
		g.mu.Unlock()
		for _, r := range mergeRanges(rs) {
			if !yield(r) {
				return
			}
		}
	}
}

// pinnedGroups are the groups in which transactions up to t freed anything, in
// order of address.
func (fs *FS) pinnedGroups(t disk.TransID) []*Group {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var gs []*Group
	for id, set := range fs.pinnedIn {
		if id <= t {
			for g := range set {
				gs = append(gs, g)
			}
		}
	}
	slices.SortFunc(gs, func(a, b *Group) int { return cmp.Compare(a.chunk.Start, b.chunk.Start) })
	return slices.Compact(gs)
}

// CommitDone says that the superblock of transaction t is durable on every
// device. Only now may what t and earlier transactions freed be used again:
// extents (I10) and pieces of devices. Standing reserves are filled first, then
// waiters are served.
func (fs *FS) CommitDone(t disk.TransID) {
	freed := make(map[*Info]bool)
	for _, g := range fs.pinnedGroups(t) {
		g.mu.Lock()
		if !g.gone && g.unpin(t) > 0 && g.readOnly == 0 {
			freed[g.info] = true
		}
		g.mu.Unlock()
	}
	fs.mu.Lock()
	for id := range fs.pinnedIn {
		if id <= t {
			delete(fs.pinnedIn, id)
		}
	}
	fs.mu.Unlock()

	room := fs.releaseLeaving(t)
	if room {
		fs.refreshAllowances()
	}
	for _, i := range fs.infos {
		i.mu.Lock()
		for _, r := range i.reserves {
			r.refill()
		}
		if freed[i] {
			i.perform(i.proto.HolesAppeared(ledger{i}, nil))
		}
		i.mu.Unlock()
	}
	// Metadata that became free may have lifted the floor under which data
	// was not allowed to grow: that, too, is a new epoch.
	if room || freed[fs.Metadata()] && fs.floorHeld.Swap(false) {
		fs.newEpoch()
	}
}

// releaseLeaving forgets the device extents of chunks removed up to t.
func (fs *FS) releaseLeaving(t disk.TransID) bool {
	fs.devMu.Lock()
	defer fs.devMu.Unlock()
	n := len(fs.leaving)
	fs.leaving = slices.DeleteFunc(fs.leaving, func(l leaving) bool {
		if l.trans > t {
			return false
		}
		for _, s := range l.chunk.Stripes {
			if d := fs.deviceLocked(s.Dev); d != nil {
				d.release(s.Off)
			}
		}
		return true
	})
	return len(fs.leaving) < n
}
