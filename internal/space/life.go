package space

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"gobtrfs/disk"
)

// SetReadOnly stops allocations from the group: what is free in it is no
// longer counted as available. It fails with a *SpaceError if the info could
// then not honour what it has promised. Calls nest.
func (g *Group) SetReadOnly() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return ErrBusy
	}
	if g.readOnly == 0 {
		i, idle := g.info, g.idle()
		i.mu.Lock()
		defer i.mu.Unlock()
		// Overcommit of the generous kind is fine here: the caller is about
		// to make room (kernel: inc_block_group_ro, 5.6: half of the estimate).
		if !i.free.takeBeyond(idle, i.allowHalf-i.allow) {
			return i.spaceErrorLocked(Ticket{Bytes: idle, Class: ClassCleaner})
		}
		i.c.readOnly += idle
	}
	g.readOnly++
	return nil
}

// readOnlyLocked makes the group read-only whatever was promised. mu must be held.
func (g *Group) readOnlyLocked() {
	if g.readOnly == 0 {
		g.account(counters{readOnly: g.idle()}, 0)
	}
	g.readOnly++
}

// SetReadOnlyGrowing is SetReadOnly which has a chunk made if space is short.
func (g *Group) SetReadOnlyGrowing(ctx context.Context) error {
	for {
		seen := g.info.Gen()
		err := g.SetReadOnly()
		if err == nil || !errors.Is(err, ErrNoSpace) {
			return err
		}
		if grow := g.info.GrowPast(ctx, seen, g.fs.sector); grow != nil {
			return grow
		}
	}
}

// ClearReadOnly ends one SetReadOnly.
func (g *Group) ClearReadOnly() {
	g.mu.Lock()
	g.readOnly--
	lifted := g.readOnly == 0 && !g.gone
	if lifted {
		g.account(counters{readOnly: -g.idle()}, 0)
	}
	g.mu.Unlock()
	if lifted {
		g.info.holesAppeared()
	}
}

// GrowPast returns when the info has grown past the generation seen: at once
// if it has already, else after one new chunk (or after holes appeared
// otherwise). However many callers saw the same generation, one chunk answers
// them all. piece is the contiguous space that the chunk must have.
func (i *Info) GrowPast(ctx context.Context, seen Gen, piece Bytes) error {
	if i.Gen() > seen {
		return nil
	}
	return i.wait(ctx, Ticket{Class: ClassExtent, Piece: piece, Seen: seen})
}

// Unused returns the groups that should be removed: empty ones, but for each
// type and profile one empty group stays, so that work at the edge of a group
// does not make and remove it for ever; the last group of a profile stays, for
// it is the only record of the profile (I12); and nothing goes that promises
// rely on. The groups are read-only from now on: for each, remove its items in
// a transaction and call Remove, or call KeepAfterAll. Call it after a commit.
func (fs *FS) Unused() []*Group {
	var out []*Group
	spared := make(map[disk.BlockGroupFlags]bool)
	for _, g := range fs.Groups() {
		if !g.isUnused() {
			continue
		}
		if flags := g.chunk.Flags; !spared[flags] {
			spared[flags] = true // this one stays, and with it the profile
			continue
		}
		if g.leave() == nil {
			out = append(out, g)
		}
	}
	return out
}

func (g *Group) isUnused() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.used == 0 && g.reserved == 0 && g.pinned == 0 && g.readOnly == 0 && !g.fresh && !g.gone
}

// Sparse returns metadata and mixed groups in which no more than limit bytes each
// are in use and that are not needed: without them half of the rest, which is two
// groups at least, stays free. They are read-only from now on; empty them, and call
// ClearReadOnly after the commit that frees what was in them; or ReclaimDone too, if
// nothing could be moved. Call it after a commit.
func (fs *FS) Sparse(limit Bytes) []*Group {
	i := fs.Metadata()
	type candidate struct {
		g    *Group
		used Bytes
	}
	var cs []candidate
	var used, total Bytes
	rest := 0
	for _, g := range *i.groups.Load() {
		g.mu.Lock()
		if g.readOnly == 0 && !g.gone {
			rest, used, total = rest+1, used+g.used+g.reserved+g.pinned, total+g.chunk.Length
			if g.used > 0 && g.used <= limit && g.reserved == 0 && g.pinned == 0 && !g.fresh && g.failures < reclaimAttempts {
				cs = append(cs, candidate{g, g.used})
			}
		}
		g.mu.Unlock()
	}
	slices.SortStableFunc(cs, func(a, b candidate) int { return cmp.Compare(a.used, b.used) })
	var out []*Group
	for _, c := range cs {
		total -= c.g.chunk.Length
		if rest--; rest < 2 || total < 2*used || c.g.SetReadOnly() != nil {
			break
		}
		out = append(out, c.g)
	}
	return out
}

// leave makes a group read-only for its removal if it is still unused.
func (g *Group) leave() error {
	if err := g.SetReadOnly(); err != nil {
		return err
	}
	g.mu.Lock()
	ok := g.used == 0 && g.reserved == 0 && g.pinned == 0 && !g.fresh && !g.leaving && !g.gone
	if ok {
		g.leaving = true
	}
	g.mu.Unlock()
	if !ok {
		g.ClearReadOnly()
		return ErrBusy
	}
	return nil
}

// BeginRemove makes an empty group read-only for its removal regardless of
// hysteresis: for relocation. It fails with ErrBusy if the group is not empty,
// or if it is the last of its type and no conversion names the next profile.
func (g *Group) BeginRemove() error {
	g.fs.mu.Lock()
	target := g.fs.targets[g.info.flags]
	g.fs.mu.Unlock()
	if len(*g.info.groups.Load()) == 1 && target == nil {
		return ErrBusy
	}
	return g.leave()
}

// KeepAfterAll undoes what Unused or BeginRemove did to the group.
func (g *Group) KeepAfterAll() {
	g.mu.Lock()
	g.leaving = false
	g.mu.Unlock()
	g.ClearReadOnly()
}

// Remove forgets a group that Unused or BeginRemove gave out, after its items
// were removed in transaction t. Its pieces of the devices stay taken until
// CommitDone(t).
func (g *Group) Remove(t disk.TransID) error {
	fs := g.fs
	g.mu.Lock()
	if !g.leaving || g.gone || g.used != 0 || g.reserved != 0 || g.pinned != 0 {
		g.mu.Unlock()
		return fmt.Errorf("remove block group %d: %w", g.chunk.Start, ErrBusy)
	}
	g.gone = true
	g.hint.Store(0)
	g.account(counters{total: -g.chunk.Length, readOnly: -g.chunk.Length}, 0)
	g.mu.Unlock()
	// First among those that leave, then not among the groups: whoever looks
	// for the highest chunk meanwhile finds it in one place or the other.
	fs.devMu.Lock()
	for _, s := range g.chunk.Stripes {
		if d := fs.deviceLocked(s.Dev); d != nil {
			d.markFreed(s.Off)
		}
	}
	if g.chunk.Flags&disk.BlockGroupSystem != 0 {
		fs.sysArray -= g.chunk.sysArrayEntry()
	}
	fs.leaving = append(fs.leaving, leaving{t, g.chunk})
	fs.devMu.Unlock()
	fs.unpublish(g)
	g.info.mu.Lock()
	g.info.stats.ChunksRemoved++
	g.info.mu.Unlock()
	if fs.cfg.Events.ChunkRemoved != nil {
		fs.cfg.Events.ChunkRemoved(&g.chunk, t)
	}
	return nil
}
