package space

import (
	"cmp"
	"slices"

	"gobtrfs/disk"
)

const (
	reclaimTarget   = 10 // data chunks that should be unallocated
	reclaimAttempts = 3  // relocations of a group that may move nothing
)

// ReclaimThreshold is the percentage below which a group's use makes it worth
// emptying into others: 0 while enough is unallocated, rising as that shrinks
// (kernel: calc_dynamic_reclaim_threshold, 6.11). chunk is the size of a data
// chunk, idle what is allocated to groups but unused.
func ReclaimThreshold(unallocated, chunk, idle Bytes) int {
	target := reclaimTarget * chunk
	if target <= 0 || unallocated >= target || idle < chunk {
		return 0
	}
	return int(100 * (target - max(0, unallocated)) / target)
}

// ReclaimCandidates sweeps the data groups and returns those to relocate, the
// least used first. A group qualifies when its use is below the threshold and
// nothing was allocated from it since the previous sweep; when less than one
// chunk is unallocated the second condition falls. The relocation reports each
// with ReclaimDone; a group that repeatedly cannot be moved is left alone.
func (fs *FS) ReclaimCandidates() []*Group {
	if fs.cfg.Mixed {
		return nil
	}
	unallocated, chunk := fs.dataRoom()
	i := fs.Data()
	i.mu.Lock()
	idle := i.c.total - i.c.used
	i.mu.Unlock()
	threshold := ReclaimThreshold(unallocated, chunk, idle)
	urgent := unallocated < chunk
	type candidate struct {
		g    *Group
		used Bytes
	}
	var cs []candidate
	for _, g := range *i.groups.Load() {
		g.mu.Lock()
		quiet := g.quiet || urgent
		g.quiet = true
		if quiet && g.used > 0 && g.reserved == 0 && g.pinned == 0 && g.readOnly == 0 && !g.fresh &&
			g.failures < reclaimAttempts && g.used*100 < Bytes(threshold)*g.chunk.Length {
			cs = append(cs, candidate{g, g.used})
		}
		g.mu.Unlock()
	}
	slices.SortStableFunc(cs, func(a, b candidate) int { return cmp.Compare(a.used, b.used) })
	out := make([]*Group, len(cs))
	for k, c := range cs {
		out[k] = c.g
	}
	return out
}

// ReclaimDone reports a relocation: progress says that unallocated space or
// free space in one piece grew by it. After reclaimAttempts without, the group
// is no candidate until something in it is freed.
func (g *Group) ReclaimDone(progress bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if progress {
		g.failures = 0
	} else {
		g.failures++
	}
}

// dataRoom is how many bytes of data chunks the devices could still hold, and
// the size of one such chunk.
func (fs *FS) dataRoom() (room, chunk Bytes) {
	profile := fs.Data().nextProfile()
	fs.devMu.Lock()
	defer fs.devMu.Unlock()
	r := fs.rulesLocked(fs.Data(), profile)
	return estimate(disk.ProfileOf(profile), fs.roomLocked()), min(r.maxChunk, r.writable/10, GiB)
}
