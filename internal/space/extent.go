package space

import (
	"context"
	"errors"
	"fmt"

	"gobtrfs/disk"
)

// ExtentRequest says what AllocExtent is to find. The caller holds a promise
// of Want bytes; as much of it as the extent is long is thereby used.
type ExtentRequest struct {
	Want  Bytes        // best length; a multiple of the sector size
	Min   Bytes        // shortest that will do; 0: Want
	Align Bytes        // of the address; 0: the sector size
	Hint  disk.Logical // look here first, 0 if anywhere
	// NoGrow returns "no space" rather than wait for a new chunk.
	NoGrow bool
}

// AllocExtent finds a place for bytes that were promised. A tree node is a
// request with Want = Min = the node size; file contents may come in shorter
// pieces. The extent is then reserved: record it with MarkUsed or give it back
// with ReturnExtent; ctx ends only the waiting.
//
// A new chunk is made only if no hole of the wanted length is found in groups
// of its size class. While unallocated space is scarce, holes of the wrong
// class and shorter holes are used before that (D4).
//
// Errors are a *SpaceError, why growth failed, why a group could not be read
// if it might have had the space, or the cause of ctx's end.
func (i *Info) AllocExtent(ctx context.Context, r ExtentRequest) (Range, error) {
	r.Min, r.Align = max(r.Min, 0), max(r.Align, i.fs.sector)
	if r.Min == 0 {
		r.Min = r.Want
	}
	if r.Want <= 0 || r.Want%i.fs.sector != 0 || r.Min > r.Want || r.Align&(r.Align-1) != 0 {
		return Range{}, fmt.Errorf("allocate %d bytes, at least %d, aligned to %d: %w", r.Want, r.Min, r.Align, ErrCorrupt)
	}
	for {
		if err := context.Cause(i.fs.ctx); err != nil {
			return Range{}, err
		}
		seen := i.Gen() // before the search: what appears during it counts as later
		s := extentSearch{i: i, req: r}
		if got, ok := s.inClass(ctx); ok {
			return got, nil
		}
		scarce := i.fs.chunksLeft.Load() < scarceChunks
		if scarce || r.NoGrow {
			if got, ok := s.anywhere(ctx); ok {
				return got, nil
			}
		}
		err := context.Cause(ctx)
		if err == nil && !r.NoGrow {
			piece := r.Want
			if scarce {
				piece = r.Min
			}
			err = i.wait(ctx, Ticket{Class: ClassExtent, Bytes: 0, Piece: piece, Seen: seen})
			if err == nil {
				continue
			}
		}
		return s.last(ctx, err)
	}
}

// extentSearch is one search through the groups of an info.
type extentSearch struct {
	i       *Info
	req     ExtentRequest
	loadErr error // of a group that could not be read
}

// last is the end of a search after growth failed with err: take what there
// is, else explain.
func (s *extentSearch) last(ctx context.Context, err error) (Range, error) {
	if err == nil || errors.Is(err, ErrNoSpace) {
		if got, ok := s.anywhere(ctx); ok {
			return got, nil
		}
	}
	if s.loadErr != nil && (err == nil || errors.Is(err, ErrNoSpace)) {
		return Range{}, s.loadErr
	}
	if err != nil && !errors.Is(err, ErrNoSpace) {
		return Range{}, err
	}
	s.i.mu.Lock()
	e := s.i.spaceErrorLocked(Ticket{Class: ClassExtent, Bytes: s.req.Want, Piece: s.req.Min})
	s.i.mu.Unlock()
	return Range{}, e.withDevices(s.i)
}

// inClass looks for the wanted length in groups of its class, then in groups
// that have none yet. Only data is kept apart by size.
func (s *extentSearch) inClass(ctx context.Context) (Range, bool) {
	if s.i.flags != disk.BlockGroupData {
		return s.scan(ctx, s.req.Want, nil)
	}
	class := sizeClass(s.req.Want)
	for _, want := range []SizeClass{class, SizeUnset} {
		if got, ok := s.scan(ctx, s.req.Want, func(c SizeClass) bool { return c == want }); ok {
			return got, true
		}
	}
	return Range{}, false
}

// anywhere looks for the wanted length in every group, then for the longest
// hole that will do.
func (s *extentSearch) anywhere(ctx context.Context) (Range, bool) {
	if got, ok := s.scan(ctx, s.req.Want, nil); ok {
		return got, true
	}
	// Lengths are halved, as a hole of the length that a hint promises may be
	// gone or out of line when it is looked at: so the loop is bounded.
	for n := s.longest(); n >= s.req.Min; n = roundDown(min(n-s.i.fs.sector, n/2), s.i.fs.sector) {
		if got, ok := s.scan(ctx, n, nil); ok {
			return got, true
		}
		if n > s.req.Min && n/2 < s.req.Min {
			return s.scan(ctx, s.req.Min, nil)
		}
	}
	return Range{}, false
}

// longest is the longest hole anywhere, at most what is wanted.
func (s *extentSearch) longest() Bytes {
	best := Bytes(0)
	for _, g := range *s.i.groups.Load() {
		best = max(best, Bytes(g.hint.Load()))
	}
	return min(best, s.req.Want)
}

// scan takes the first fit of n bytes among the groups whose class is
// accepted, beginning where the hint or the last success points.
func (s *extentSearch) scan(ctx context.Context, n Bytes, accept func(SizeClass) bool) (Range, bool) {
	gs := *s.i.groups.Load()
	cursor := &s.i.cursor[sizeClass(n)]
	from := s.req.Hint
	if from == 0 {
		from = disk.Logical(cursor.Load())
	}
	first := 0
	for lo, hi := 0, len(gs); lo < hi; { // the group at or before from
		mid := (lo + hi) / 2
		if gs[mid].chunk.Start <= from {
			first, lo = mid, mid+1
		} else {
			hi = mid
		}
	}
	for k := range gs {
		g := gs[(first+k)%len(gs)]
		if Bytes(g.hint.Load()) < n || g.unfit.Load() {
			continue
		}
		if got, ok := s.try(ctx, g, n, accept); ok {
			cursor.Store(uint64(g.chunk.Start))
			return got, true
		}
	}
	return Range{}, false
}

// try allocates from one group.
func (s *extentSearch) try(ctx context.Context, g *Group, n Bytes, accept func(SizeClass) bool) (Range, bool) {
	if err := g.load(ctx); err != nil {
		if s.loadErr == nil {
			s.loadErr = err
		}
		return Range{}, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readOnly > 0 || g.gone || accept != nil && !accept(g.class) {
		return Range{}, false
	}
	if g.chunk.Range().End() > s.req.Hint && s.req.Hint >= g.chunk.Start {
		if got, ok := g.alloc(n, s.req.Align, s.req.Hint); ok {
			g.setClass(n)
			return got, true
		}
	}
	got, ok := g.alloc(n, s.req.Align, g.chunk.Start)
	if ok {
		g.setClass(n)
	}
	return got, ok
}

// setClass gives a data group the class of its first extent. mu must be held.
func (g *Group) setClass(n Bytes) {
	if g.class == SizeUnset && g.info.flags == disk.BlockGroupData {
		g.class = sizeClass(n)
	}
}

// withGroup runs f on the group that holds r, with mu held and free space loaded.
func (fs *FS) withGroup(ctx context.Context, r Range, f func(*Group) error) (*Group, error) {
	g := fs.Group(r.Start)
	if g == nil {
		return nil, corruptf("[%d, +%d) is in no block group", r.Start, r.Length)
	}
	if err := g.load(ctx); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g, f(g)
}

// MarkUsed records that the extent item of a reserved extent now exists.
func (fs *FS) MarkUsed(r Range) error {
	_, err := fs.withGroup(fs.ctx, r, func(g *Group) error { return g.markUsed(r) })
	return err
}

// ReturnExtent frees a reserved extent, or a part of one, that was never
// recorded. Nothing on disk refers to it, so it is free at once. The promise
// it came from is not restored.
func (fs *FS) ReturnExtent(r Range) error {
	g, err := fs.withGroup(fs.ctx, r, func(g *Group) error { return g.returnExtent(r) })
	if err == nil {
		g.info.holesAppeared()
	}
	return err
}

// FreeExtent frees a used extent, or a part of one, in transaction t. It is
// pinned until CommitDone(t). The group's free space is read first if need be,
// hence ctx.
func (fs *FS) FreeExtent(ctx context.Context, r Range, t disk.TransID) error {
	_, err := fs.withGroup(ctx, r, func(g *Group) error {
		if err := g.freeExtent(r, t); err != nil {
			return err
		}
		fs.mu.Lock()
		if fs.pinnedIn[t] == nil {
			fs.pinnedIn[t] = make(map[*Group]bool)
		}
		fs.pinnedIn[t][g] = true
		fs.mu.Unlock()
		return nil
	})
	return err
}

// holesAppeared answers those who wait for holes, and grants what now fits.
func (i *Info) holesAppeared() {
	i.mu.Lock()
	i.perform(i.proto.HolesAppeared(ledger{i}, nil))
	i.mu.Unlock()
}

// TakeExtent reserves a particular place, all of which must be free: what a log
// tree refers to. It is a corruption if it is not. No promise pays for it, as
// nobody waits yet when it is called.
func (fs *FS) TakeExtent(ctx context.Context, r Range) error {
	if r.Length <= 0 || r.Length%fs.sector != 0 || Bytes(r.Start)%fs.sector != 0 {
		return corruptf("[%d, +%d) is no range of sectors", r.Start, r.Length)
	}
	_, err := fs.withGroup(ctx, r, func(g *Group) error { return g.take(r) })
	return err
}
