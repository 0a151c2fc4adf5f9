package space

import (
	"context"
	"fmt"
	"sync/atomic"

	"gobtrfs/disk"
	"gobtrfs/internal/lockrank"
)

// SizeClass keeps data extents of similar size together, so that the holes
// they leave fit the next ones.
type SizeClass uint8

// Size classes. A group takes the class of the first extent it gets.
const (
	SizeUnset SizeClass = iota
	SizeSmall
	SizeMedium
	SizeLarge
	numClasses
)

// sizeClass is the class of an extent of n bytes (kernel:
// btrfs_calc_block_group_size_class, 6.3).
func sizeClass(n Bytes) SizeClass {
	switch {
	case n <= 128*KiB:
		return SizeSmall
	case n <= 8*MiB:
		return SizeMedium
	}
	return SizeLarge
}

// Group is a block group: the space of one chunk. Its exported methods are
// safe for concurrent use.
//
// A byte of a group is, at any time, exactly one of
//
//	free ──alloc──> reserved ──markUsed──> used ──freeExtent──> pinned ──commit──> free
//	  ^                │
//	  └──returnExtent──┘            super: never anything else
//
// The free index knows only free and not free; the counters know the rest.
type Group struct {
	// Immutable.
	fs         *FS
	info       *Info
	chunk      Chunk
	superAreas []Range // copies of the superblock, never allocatable (I9)
	superBytes Bytes

	hint    atomic.Int64  // upper bound of the longest hole in bytes; written under mu
	loading chan struct{} // a semaphore: whoever reads the free space from disk
	unfit   atomic.Bool   // read-only for want of the info's profile; written under mu

	mu       lockrank.Mutex
	used     Bytes // protected by mu, as everything below
	reserved Bytes
	pinned   Bytes
	free     *freeMap             // nil until loaded
	pins     map[disk.TransID]pin // freed ranges by the transaction that freed them
	loadErr  error
	readOnly int  // how many want no allocations here
	leaving  bool // being removed; readOnly counts it
	gone     bool // removed
	fresh    bool // its items are not yet written (phase 2)
	class    SizeClass
	quiet    bool // reclaim: not allocated from since the last sweep
	failures int  // reclaim: attempts that moved nothing
}

// pin is what one transaction freed in a group. It is not reusable before the
// superblock of that transaction is durable (I10).
type pin struct {
	*freeMap // a set sector is pinned
}

// Chunk is the group's mapping. The caller must not change it.
func (g *Group) Chunk() *Chunk { return &g.chunk }

// sectors converts a range inside the group into sectors of its index.
func (g *Group) sectors(r Range) (lo, hi uint32, err error) {
	s := g.fs.sector
	off := Bytes(r.Start - g.chunk.Start)
	if r.Length <= 0 || r.Start < g.chunk.Start || off > g.chunk.Length || r.Length > g.chunk.Length-off || off%s != 0 || r.Length%s != 0 {
		return 0, 0, corruptf("range [%d, +%d) does not lie on sectors of block group %d", r.Start, r.Length, g.chunk.Start)
	}
	return uint32(off / s), uint32((off + r.Length) / s), nil
}

func (g *Group) rangeOf(lo, hi uint32) Range {
	s := g.fs.sector
	return Range{g.chunk.Start + disk.Logical(Bytes(lo)*s), Bytes(hi-lo) * s}
}

// setHint is called after every change of the free index.
func (g *Group) setHint() { g.hint.Store(int64(Bytes(g.free.largest()) * g.fs.sector)) }

// initFree makes the index from the free ranges as they stand on disk, that
// is, superblock areas included. mu must be held, or the group unpublished.
func (g *Group) initFree(ranges func(yield func(Range) error) error) error {
	m := newFreeMap(uint32(g.chunk.Length / g.fs.sector))
	err := ranges(func(r Range) error {
		lo, hi, err := g.sectors(r)
		if err == nil && !m.set(lo, hi, true) {
			err = corruptf("free range [%d, +%d) of block group %d is listed twice", r.Start, r.Length, g.chunk.Start)
		}
		return err
	})
	if err != nil {
		return err
	}
	if free := Bytes(m.free) * g.fs.sector; free != g.chunk.Length-g.used {
		return corruptf("block group %d has %d bytes free but uses %d of %d", g.chunk.Start, free, g.used, g.chunk.Length)
	}
	for _, r := range g.superAreas {
		lo, hi, _ := g.sectors(r)
		if !m.set(lo, hi, false) {
			return corruptf("an extent of block group %d covers the superblock copy at %d", g.chunk.Start, r.Start)
		}
	}
	g.free = m
	g.setHint()
	return nil
}

// load reads the free space from disk unless that is done. Every change of a
// group loads it first: what is loaded is then the state of the last commit,
// to which nothing has happened since.
func (g *Group) load(ctx context.Context) error {
	g.mu.Lock()
	done, err := g.free != nil, g.loadErr
	g.mu.Unlock()
	if done || err != nil {
		return err
	}
	select {
	case g.loading <- struct{}{}:
		defer func() { <-g.loading }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	g.mu.Lock()
	done, err = g.free != nil, g.loadErr
	g.mu.Unlock()
	if done || err != nil {
		return err
	}
	var ranges []Range
	err = g.fs.cfg.Loader.LoadFreeSpace(ctx, &g.chunk, func(r Range) error {
		ranges = append(ranges, r)
		return nil
	})
	if cause := context.Cause(ctx); cause != nil {
		return cause // says nothing about the group
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		err = g.initFree(func(yield func(Range) error) error {
			for _, r := range ranges {
				if err := yield(r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		g.loadErr = fmt.Errorf("load free space of block group %d: %w", g.chunk.Start, err)
		g.hint.Store(0)
	}
	return g.loadErr
}

// alloc takes n bytes that begin at or after from. mu must be held.
func (g *Group) alloc(n, align Bytes, from disk.Logical) (Range, bool) {
	s := g.fs.sector
	a := uint32(align / s)
	// Addresses, not offsets, are aligned; the group may start anywhere.
	phase := uint32((align - Bytes(g.chunk.Start)%align) % align / s)
	lo, ok := g.free.find(uint32(n/s), a, phase, uint32(Bytes(from-g.chunk.Start)/s))
	if !ok {
		return Range{}, false
	}
	g.free.set(lo, lo+uint32(n/s), false)
	g.setHint()
	g.quiet = false
	g.account(counters{reserved: n}, n)
	return g.rangeOf(lo, lo+uint32(n/s)), true
}

// account moves the group's counters and its info's together; promise is what
// turns from a promise into a counter. It returns what Info.change returns.
// mu must be held.
func (g *Group) account(d counters, promise Bytes) bool {
	g.mu.AssertHeld()
	g.used += d.used
	g.reserved += d.reserved
	g.pinned += d.pinned
	g.info.mu.Lock()
	defer g.info.mu.Unlock()
	return g.info.change(d, promise)
}

// idle is the part of the group that is none of used, reserved, pinned, super.
func (g *Group) idle() Bytes {
	return g.chunk.Length - g.used - g.reserved - g.pinned - g.superBytes
}

// toFree makes n bytes available again, or read-only if the group is.
func (g *Group) toFree(d counters, n Bytes) {
	if g.readOnly > 0 {
		d.readOnly += n
	}
	g.account(d, 0)
	g.setHint()
	if g.used == 0 && g.reserved == 0 {
		g.class = SizeUnset
	}
}

// checkAllocated says whether the range is allocated: neither free nor a
// superblock area. mu must be held.
func (g *Group) checkAllocated(r Range) (lo, hi uint32, err error) {
	if lo, hi, err = g.sectors(r); err != nil {
		return 0, 0, err
	}
	if !g.free.all(lo, hi, false) {
		return 0, 0, corruptf("range [%d, +%d) is not allocated", r.Start, r.Length)
	}
	for _, s := range g.superAreas {
		if s.overlaps(r) {
			return 0, 0, corruptf("range [%d, +%d) covers a superblock copy", r.Start, r.Length)
		}
	}
	for t, p := range g.pins {
		if !p.all(lo, hi, false) {
			return 0, 0, corruptf("part of [%d, +%d) was freed already in transaction %d", r.Start, r.Length, t)
		}
	}
	return lo, hi, nil
}

// take reserves a range that must be free. mu must be held.
func (g *Group) take(r Range) error {
	lo, hi, err := g.sectors(r)
	if err != nil {
		return err
	}
	if !g.free.all(lo, hi, true) {
		return corruptf("range [%d, +%d) is not free", r.Start, r.Length)
	}
	g.free.set(lo, hi, false)
	g.setHint()
	g.quiet = false
	g.account(counters{reserved: r.Length}, 0)
	return nil
}

// markUsed turns reserved into used: the extent item exists. mu must be held.
func (g *Group) markUsed(r Range) error {
	if _, _, err := g.checkAllocated(r); err != nil {
		return err
	}
	if g.reserved < r.Length {
		return corruptf("[%d, +%d) was not reserved", r.Start, r.Length)
	}
	g.account(counters{used: r.Length, reserved: -r.Length}, 0)
	return nil
}

// returnExtent frees a reserved extent that was never recorded. mu must be held.
func (g *Group) returnExtent(r Range) error {
	lo, hi, err := g.checkAllocated(r)
	if err != nil {
		return err
	}
	if g.reserved < r.Length {
		return corruptf("[%d, +%d) was not reserved", r.Start, r.Length)
	}
	g.free.set(lo, hi, true)
	g.toFree(counters{reserved: -r.Length}, r.Length)
	return nil
}

// freeExtent pins a used extent until t is durable. mu must be held.
func (g *Group) freeExtent(r Range, t disk.TransID) error {
	lo, hi, err := g.checkAllocated(r)
	if err != nil {
		return err
	}
	if g.used < r.Length {
		return corruptf("[%d, +%d) is freed but block group %d uses only %d bytes", r.Start, r.Length, g.chunk.Start, g.used)
	}
	p, ok := g.pins[t]
	if !ok {
		p = pin{newFreeMap(uint32(g.chunk.Length / g.fs.sector))}
		if g.pins == nil {
			g.pins = make(map[disk.TransID]pin)
		}
		g.pins[t] = p
	}
	p.set(lo, hi, true)
	g.account(counters{used: -r.Length, pinned: r.Length}, 0)
	return nil
}

// unpin makes what transactions up to t freed available, and returns how much
// that was. mu must be held.
func (g *Group) unpin(t disk.TransID) Bytes {
	total := Bytes(0)
	for id, p := range g.pins {
		if id > t {
			continue
		}
		p.runs(func(lo, hi uint32) bool { return g.free.set(lo, hi, true) })
		total += Bytes(p.freeMap.free) * g.fs.sector
		delete(g.pins, id)
	}
	if total > 0 {
		g.toFree(counters{pinned: -total}, total)
		g.failures = 0 // relocating what is left is another matter now
	}
	return total
}
