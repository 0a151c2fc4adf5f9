package space

import (
	"context"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"gobtrfs/disk"
)

// model is the naive oracle of T9: one state per sector of every group, and
// plain sums.
type model struct {
	s        *sim
	extents  []modelExtent
	promised map[*Info]Bytes
	readOnly []*Group
}

type modelExtent struct {
	r      Range
	state  int // reserved, used, pinned
	freed  disk.TransID
	forget bool
}

const (
	mReserved = iota
	mUsed
	mPinned
)

// T9, I7–I10: random operations, in random order, against an oracle that knows
// only a list of extents; after each step every counter, every hole and every
// address must agree. Mutations that turned it red: unpin of all transactions
// instead of those up to t; toFree that ignores read-only; alloc that forgets
// the superblock areas; returnExtent counting into pinned; markFreed releasing
// at once; ClearReadOnly that returns superblock bytes; refit that forgets the
// counters.
func TestRandomOperationsAgreeWithModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		mixed := rapid.Bool().Draw(rt, "mixed")
		profile := rapid.SampledFrom([]disk.BlockGroupFlags{0, disk.BlockGroupDUP, disk.BlockGroupRAID1}).Draw(rt, "metadata")
		s := newSim(t, simConfig{
			Config: Config{Mixed: mixed, DataChunkSize: 32 * MiB, MetadataChunkSize: 16 * MiB},
			devs:   []Bytes{400 * MiB, 300 * MiB}, meta: profile, metadata: 16 * MiB,
		})
		defer s.Close()
		m := &model{s: s, promised: make(map[*Info]Bytes)}
		info := func(rt *rapid.T) *Info {
			if rapid.Bool().Draw(rt, "metadata?") {
				return s.Metadata()
			}
			return s.Data()
		}
		sectors := func(rt *rapid.T, most int) Bytes {
			return 4096 * Bytes(rapid.IntRange(1, most).Draw(rt, "sectors"))
		}
		ctx := context.Background()
		rt.Repeat(map[string]func(*rapid.T){
			"reserve": func(rt *rapid.T) {
				i, n := info(rt), sectors(rt, 3000)
				if err := i.Reserve(ctx, n, ClassNormal); err == nil {
					m.promised[i] += n
				} else if !errors.Is(err, ErrNoSpace) {
					rt.Fatal(err)
				}
			},
			"release": func(rt *rapid.T) {
				i := info(rt)
				n := min(m.promised[i], sectors(rt, 3000))
				i.Release(n)
				m.promised[i] -= n
			},
			"alloc": func(rt *rapid.T) {
				i, n := info(rt), sectors(rt, 3000)
				n = min(n, m.promised[i])
				if n == 0 {
					rt.Skip("nothing promised")
				}
				m.alloc(rt, i, n)
			},
			"mark used": func(rt *rapid.T) {
				m.pick(rt, mReserved, func(e *modelExtent) { s.must(s.MarkUsed(e.r)); e.state = mUsed })
			},
			"return": func(rt *rapid.T) {
				m.pick(rt, mReserved, func(e *modelExtent) { s.must(s.ReturnExtent(e.r)); e.forget = true })
			},
			"free": func(rt *rapid.T) {
				m.pick(rt, mUsed, func(e *modelExtent) {
					s.must(s.FreeExtent(ctx, e.r, s.running()))
					e.state, e.freed = mPinned, s.running()
				})
			},
			"free part": func(rt *rapid.T) {
				m.pick(rt, mUsed, func(e *modelExtent) {
					if e.r.Length < 8192 {
						return
					}
					head := Range{e.r.Start, 4096}
					s.must(s.FreeExtent(ctx, head, s.running()))
					e.r = Range{e.r.Start + 4096, e.r.Length - 4096}
					m.extents = append(m.extents, modelExtent{r: head, state: mPinned, freed: s.running()})
				})
			},
			"free twice": func(rt *rapid.T) {
				m.pick(rt, mPinned, func(e *modelExtent) {
					if err := s.FreeExtent(ctx, e.r, s.running()); !errors.Is(err, ErrCorrupt) {
						rt.Fatalf("freed twice: %v", err)
					}
				})
			},
			"begin transaction": func(*rapid.T) { // the previous one is still being written
				s.mu.Lock()
				s.trans++
				s.mu.Unlock()
			},
			"commit": func(*rapid.T) { m.commit(s.running()); s.commit() },
			"older commit": func(*rapid.T) {
				if t := s.running() - 1; t > 0 {
					m.commit(t)
					s.CommitDone(t)
				}
			},
			"read-only": func(rt *rapid.T) {
				g := rapid.SampledFrom(s.Groups()).Draw(rt, "group")
				if g.SetReadOnly() == nil {
					m.readOnly = append(m.readOnly, g)
				}
			},
			"read-write": func(*rapid.T) {
				if n := len(m.readOnly); n > 0 {
					m.readOnly[n-1].ClearReadOnly()
					m.readOnly = m.readOnly[:n-1]
				}
			},
			"convert": func(rt *rapid.T) {
				p, _ := disk.ParseProfile(rapid.SampledFrom([]string{"", "single", "DUP", "RAID1", "RAID0"}).Draw(rt, "profile"))
				s.SetTarget(info(rt).Type(), p) // nil ends it
			},
			"remove unused": func(rt *rapid.T) {
				for _, g := range s.Unused() {
					if rapid.Bool().Draw(rt, "keep") {
						g.KeepAfterAll()
						continue
					}
					s.must(g.Remove(s.running()))
				}
			},
			"": func(rt *rapid.T) { m.check(rt) },
		})
	})
}

func (m *model) alloc(rt *rapid.T, i *Info, n Bytes) {
	req := ExtentRequest{Want: n, Min: 4096, Align: rapid.SampledFrom([]Bytes{0, 4096, 65536}).Draw(rt, "align")}
	if len(m.extents) > 0 {
		req.Hint = rapid.SampledFrom(m.extents).Draw(rt, "hint").r.End()
	}
	r, err := i.AllocExtent(context.Background(), req)
	if err != nil {
		if !errors.Is(err, ErrNoSpace) {
			rt.Fatal(err)
		}
		return
	}
	if req.Align > 0 && Bytes(r.Start)%req.Align != 0 {
		rt.Fatalf("[%d, +%d) is not aligned to %d", r.Start, r.Length, req.Align)
	}
	m.promised[i] -= r.Length
	for _, e := range m.extents {
		if e.r.overlaps(r) {
			rt.Fatalf("I10: [%d, +%d) given out, but [%d, +%d) is in state %d", r.Start, r.Length, e.r.Start, e.r.Length, e.state)
		}
	}
	g := m.s.Group(r.Start)
	if g == nil || !g.chunk.Range().overlaps(r) || r.End() > g.chunk.Range().End() || g.info != i || r.Length > n {
		rt.Fatalf("[%d, +%d) is not inside a group of %v", r.Start, r.Length, i.flags)
	}
	if slices.Contains(m.readOnly, g) {
		rt.Fatalf("allocated from read-only group %d", g.chunk.Start)
	}
	if !g.carries(i.nextProfile()) {
		rt.Fatalf("allocated from %v while the profile is %v", g.chunk.Flags, i.nextProfile())
	}
	for _, super := range g.chunk.SuperblockRanges() {
		if super.overlaps(r) {
			rt.Fatalf("I9: [%d, +%d) covers a superblock copy", r.Start, r.Length)
		}
	}
	m.extents = append(m.extents, modelExtent{r: r, state: mReserved})
}

func (m *model) pick(rt *rapid.T, state int, f func(*modelExtent)) {
	var of []int
	for k := range m.extents {
		if m.extents[k].state == state {
			of = append(of, k)
		}
	}
	if len(of) == 0 {
		rt.Skip("no such extent")
	}
	k := rapid.SampledFrom(of).Draw(rt, "extent")
	e := m.extents[k]
	f(&e)
	m.extents[k] = e
	m.extents = slices.DeleteFunc(m.extents, func(e modelExtent) bool { return e.forget })
}

func (m *model) commit(t disk.TransID) {
	m.extents = slices.DeleteFunc(m.extents, func(e modelExtent) bool { return e.state == mPinned && e.freed <= t })
}

func (m *model) check(rt *rapid.T) {
	if err := m.s.Verify(); err != nil {
		rt.Fatal(err)
	}
	type sums struct{ used, reserved, pinned Bytes }
	want := make(map[*Group]sums)
	for _, e := range m.extents {
		g := m.s.Group(e.r.Start)
		if g == nil {
			rt.Fatalf("the group of [%d, +%d) is gone", e.r.Start, e.r.Length)
		}
		w := want[g]
		switch e.state {
		case mUsed:
			w.used += e.r.Length
		case mReserved:
			w.reserved += e.r.Length
		case mPinned:
			w.pinned += e.r.Length
		}
		want[g] = w
	}
	for _, g := range m.s.Groups() {
		u := g.Usage()
		if got := (sums{u.Used, u.Reserved, u.Pinned}); got != want[g] {
			rt.Fatalf("I7: group %d has %+v, want %+v", g.chunk.Start, got, want[g])
		}
	}
	for _, i := range m.s.infos {
		if u := i.Usage(); u.Promised != m.promised[i] {
			rt.Fatalf("I7: %v promised %d, want %d", i.flags, u.Promised, m.promised[i])
		}
	}
	m.checkFree(rt)
}

// checkFree compares the free index of every group with the model, sector by
// sector: free is exactly what is in no extent and under no superblock.
func (m *model) checkFree(rt *rapid.T) {
	for _, g := range m.s.Groups() {
		taken := g.chunk.SuperblockRanges()
		for _, e := range m.extents {
			if e.r.overlaps(g.chunk.Range()) {
				taken = append(taken, e.r)
			}
		}
		at := g.chunk.Start
		var want []Range
		for _, r := range mergeRanges(taken) {
			if r.Start > at {
				want = append(want, Range{at, Bytes(r.Start - at)})
			}
			at = r.End()
		}
		if end := g.chunk.Range().End(); at < end {
			want = append(want, Range{at, Bytes(end - at)})
		}
		var got []Range
		g.free.runs(func(lo, hi uint32) bool { got = append(got, g.rangeOf(lo, hi)); return true })
		if !slices.Equal(got, want) {
			rt.Fatalf("group %d: free %v, want %v", g.chunk.Start, got, want)
		}
	}
}
