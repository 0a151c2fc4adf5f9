package space

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"gobtrfs/disk"
)

// T14, I12: after a burst and the deletion of everything, two commits bring the
// filesystem back to at most one empty group per type and profile; and the last
// group of a profile stays. Mutations that turned it red: Unused without the
// spared map (profile lost).
func TestGroupsGoWhenEmpty(t *testing.T) {
	t.Parallel()
	for _, profile := range []disk.BlockGroupFlags{0, disk.BlockGroupDUP, disk.BlockGroupRAID1} {
		t.Run(disk.ProfileOf(profile).Name, func(t *testing.T) {
			t.Parallel()
			s := newSim(t, simConfig{devs: same(2, 100*GiB), data: profile, dataSize: GiB, meta: disk.BlockGroupRAID1})
			rs := s.write(s.Data(), 20*GiB)
			if n := s.Data().Usage().Groups; n != 20 {
				t.Fatalf("%d groups, want 20", n)
			}
			s.commit()
			s.free(rs)
			if gs := s.Unused(); len(gs) != 0 {
				t.Errorf("%d groups are unused while pinned", len(gs))
			}
			for range 2 {
				s.commit()
				for _, g := range s.Unused() {
					s.must(g.Remove(s.running()))
				}
			}
			s.commit()
			u := s.Data().Usage()
			if u.Groups != 1 || u.Profile != profile {
				t.Errorf("%d groups of %v stay, want 1 of %v", u.Groups, u.Profile, profile)
			}
			if left := s.Snapshot().Devices[0]; left.Pending != 0 {
				t.Errorf("%v still pending", left.Pending)
			}
			s.verify()
		})
	}
}

// Groups with little in them go as long as two stay, the emptiest first, and none
// that still holds what the last superblock refers to.
func TestSparseGroups(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{metadata: 256 * MiB})
	var rs []Range
	for range 4 {
		s.addGroup(disk.BlockGroupMetadata, 256*MiB)
	}
	for range 5 * 2 {
		rs = append(rs, s.write(s.Metadata(), 100*MiB)...)
	}
	s.commit()
	kept := make(map[*Group]Bytes)
	for _, r := range rs {
		g := s.Group(r.Start)
		keep := Bytes(len(kept)+1) * MiB
		if _, ok := kept[g]; !ok {
			kept[g] = keep
			r = Range{r.Start + disk.Logical(keep), r.Length - keep}
		}
		s.free([]Range{r})
	}
	if gs := s.Sparse(3 * MiB); len(gs) != 0 {
		t.Errorf("%d groups would be emptied while pinned", len(gs))
	}
	s.commit()
	if gs := s.Sparse(MiB - s.sector); len(gs) != 0 {
		t.Errorf("%d groups with more than the limit would be emptied", len(gs))
	}
	gs := s.Sparse(4 * MiB)
	if len(kept) != 5 || len(gs) != 3 {
		t.Fatalf("%d of %d groups would be emptied, want 3 of 5", len(gs), len(kept))
	}
	for n, g := range gs {
		if want := Bytes(n+1) * MiB; kept[g] != want {
			t.Errorf("group %d holds %v, want %v", n, kept[g], want)
		}
	}
	if again := s.Sparse(4 * MiB); len(again) != 0 {
		t.Errorf("%d groups more would be emptied", len(again))
	}
	for _, g := range gs {
		g.ClearReadOnly()
	}
	s.verify()
}

// T14: no flapping: work that bounces at the edge of a group makes one chunk,
// once. Mutation that turned it red: Unused that keeps none.
func TestNoFlappingAtAGroupBoundary(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{dataSize: GiB})
	s.write(s.Data(), GiB)
	for range 50 {
		rs := s.write(s.Data(), 64*MiB)
		s.commit()
		s.free(rs)
		s.commit()
		for _, g := range s.Unused() {
			s.must(g.Remove(s.running()))
		}
	}
	if n := s.chunks(data); n != 1 {
		t.Errorf("made %d chunks, want 1", n)
	}
}

// Unused leaves a group alone that promises rely on.
func TestPromisesKeepAGroup(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{dataSize: GiB})
	s.addGroup(data, GiB)
	s.must(s.Data().Reserve(t.Context(), 1500*MiB, ClassNormal))
	if gs := s.Unused(); len(gs) != 0 {
		t.Errorf("%d groups would go", len(gs))
	}
	s.Data().Release(1500 * MiB)
	gs := s.Unused()
	if len(gs) != 1 {
		t.Fatalf("%d groups would go, want 1", len(gs))
	}
	gs[0].KeepAfterAll()
	if err := gs[0].Remove(1); !errors.Is(err, ErrBusy) {
		t.Errorf("removed after it was kept: %v", err)
	}
	s.verify()
}

// T15, I8: the superblock's array of system chunks fills up: growth then says
// "no space" before it has touched anything, and all is as before. Nodes of the
// chunk tree never cause growth. Mutations that turned it red: growSystem
// without the capacity check.
func TestSystemArrayIsFull(t *testing.T) {
	for _, c := range []struct {
		profile disk.BlockGroupFlags
		devices int
		groups  int // entries of 17 + 48 + 32n bytes in 2048; the first has n = the profile's minimum
	}{
		{disk.BlockGroupRAID1C4, 6, 10}, {disk.BlockGroupRAID10, 20, 3}, {disk.BlockGroupRAID10, 58, 1}, {0, 1, 21},
	} {
		t.Run(fmt.Sprint(disk.ProfileOf(c.profile).Name, " on ", c.devices), func(t *testing.T) {
			t.Parallel()
			s := newSim(t, simConfig{
				Config: Config{NodeSize: 64 * KiB}, devs: same(c.devices, 200*GiB), meta: c.profile, system: 4 * MiB, metadata: 256 * MiB,
			})
			// Somebody uses up the system space between one chunk and the next.
			var err error
			for err == nil {
				sys := s.System()
				u := sys.Usage()
				s.must(sys.Reserve(t.Context(), u.Total-u.Used-u.ReadOnly-u.Promised-u.Reserved, ClassNoWait))
				err = s.Data().GrowPast(t.Context(), s.Data().Gen(), 4096)
			}
			if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "array") {
				t.Errorf("got %v", err)
			}
			if n := s.System().Usage().Groups; n != c.groups {
				t.Errorf("%d SYSTEM groups, room for %d", n, c.groups)
			}
			before := s.attempts
			if _, err := s.System().AllocExtent(t.Context(), ExtentRequest{Want: GiB}); !errors.Is(err, ErrNoSpace) || s.attempts != before {
				t.Errorf("a chunk tree node made growth: %v", err)
			}
			if err := s.System().Reserve(t.Context(), GiB, ClassNormal); !errors.Is(err, ErrNoSpace) || s.attempts != before {
				t.Errorf("a system reservation made growth: %v", err)
			}
			s.verify()
		})
	}
}

// T15: nodes of the chunk tree never make growth, though there is room for it:
// the grower, who changes the chunk tree, would wait for itself. Mutation that
// turned it red: ProtocolConfig.NoGrow false for SYSTEM.
func TestChunkTreeNeverGrows(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{})
	sys := s.System()
	for {
		r, err := sys.AllocExtent(t.Context(), ExtentRequest{Want: 16 * KiB})
		if err != nil {
			if !errors.Is(err, ErrNoSpace) {
				t.Error(err)
			}
			break
		}
		sys.charge(r.Length) // as if it had been reserved
	}
	if err := sys.Reserve(t.Context(), 16*KiB, ClassNormal); !errors.Is(err, ErrNoSpace) {
		t.Errorf("reservation: %v", err)
	}
	if n := s.chunks(system); n != 0 {
		t.Errorf("made %d chunks", n)
	}
	s.verify()
}

// I8: a SYSTEM chunk that cannot be recorded is withdrawn without a trace.
func TestSystemChunkIsWithdrawn(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{system: 64 * KiB})
	before := s.Snapshot()
	eio := errors.New("input/output error")
	s.setFail(func(int) error { return eio })
	if err := s.Data().GrowPast(t.Context(), s.Data().Gen(), 4096); !errors.Is(err, eio) {
		t.Errorf("got %v", err)
	}
	after := s.Snapshot()
	if before.SystemArray != after.SystemArray || before.Devices[0].Allocated != after.Devices[0].Allocated || after.Infos[1].Groups != 1 {
		t.Errorf("it left a trace: %+v", after)
	}
	s.verify()
	s.setFail(nil)
	s.must(s.Data().GrowPast(t.Context(), s.Data().Gen(), 4096))
	if s.chunks(system) != 1 || s.chunks(data) != 1 {
		t.Errorf("made %d system and %d data chunks", s.chunks(system), s.chunks(data))
	}
}

// T18, I1: a group that cannot be moved is tried a bounded number of times, and
// the choice follows the rules: below the dynamic threshold, untouched since
// the last sweep unless space is urgent, the least used first. Mutations that
// turned it red: failures not counted; sort reversed; quiet ignored.
func TestReclaimGivesUpOnAnUnmovableGroup(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{devs: []Bytes{16 * GiB}, dataSize: GiB})
	var groups []*Group
	rs := s.write(s.Data(), 12*GiB)
	s.commit()
	// Keep one, two, three … extents of each group.
	kept := make(map[*Group]int)
	for _, r := range rs {
		g := s.Group(r.Start)
		if kept[g] == 0 {
			groups = append(groups, g)
		}
		if kept[g]++; kept[g] > len(groups)%5+1 {
			s.must(s.FreeExtent(t.Context(), r, s.running()))
		}
	}
	s.commit()
	if cs := s.ReclaimCandidates(); len(cs) != 0 {
		t.Fatalf("%d candidates in the first sweep, all were written to since", len(cs))
	}
	cs := s.ReclaimCandidates()
	if len(cs) < 3 {
		t.Fatalf("%d candidates, want several", len(cs))
	}
	for k := 1; k < len(cs); k++ {
		if cs[k-1].Usage().Used > cs[k].Usage().Used {
			t.Error("not the least used first")
		}
	}
	stuck, tries := cs[0], 0
	for range 100 {
		for _, g := range s.ReclaimCandidates() {
			if g == stuck {
				tries++
				g.ReclaimDone(false)
			}
		}
	}
	if tries != reclaimAttempts {
		t.Errorf("tried the unmovable group %d times, want %d", tries, reclaimAttempts)
	}
	// Something in it was freed: it is worth another try.
	for _, r := range rs {
		if s.Group(r.Start) == stuck {
			s.must(s.FreeExtent(t.Context(), Range{r.Start, 4096}, s.running()))
			break
		}
	}
	s.commit()
	found := false
	for _, g := range s.ReclaimCandidates() {
		found = found || g == stuck
	}
	if !found {
		t.Error("not tried again after something was freed in it")
	}
}

func TestReclaimThreshold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		unallocated, idle Bytes
		want              int
	}{{10 * GiB, 5 * GiB, 0}, {GiB, 5 * GiB, 90}, {5 * GiB, 5 * GiB, 50}, {0, 5 * GiB, 100}, {0, GiB - 1, 0}, {20 * GiB, 5 * GiB, 0}} {
		if got := ReclaimThreshold(c.unallocated, GiB, c.idle); got != c.want {
			t.Errorf("%v unallocated, %v idle: %d, want %d", c.unallocated, c.idle, got, c.want)
		}
	}
}

// I14: data never takes what metadata needs. Metadata is low: the room of its
// next chunk stays, data gets a smaller chunk or none; when metadata has grown,
// data may have the rest. Mutations that turned it red: keepFloors not called;
// standing reserves not in the floor; no new epoch when the floor is lifted.
func TestDataLeavesMetadataItsChunk(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{devs: []Bytes{10 * GiB}, meta: disk.BlockGroupDUP, metadata: 32 * MiB})
	m, d := s.Metadata(), s.Data()
	s.setFail(func(int) error { return ErrTransient })
	s.GlobalReserve().Resize(64 * MiB) // metadata is low, and its chunk does not come
	waitIdle(m)
	s.setFail(nil)
	for d.GrowPast(t.Context(), d.Gen(), 4096) == nil {
	}
	chunk := 256 * MiB
	if left := s.Snapshot().Growable[meta]; left < chunk || left > chunk+64*MiB {
		t.Errorf("metadata can still grow by %v, want one chunk of %v and little more", left, chunk)
	}
	if err := m.GrowPast(t.Context(), m.Gen(), 4096); err != nil {
		t.Errorf("metadata did not get its chunk: %v", err)
	}
	// Not low any more: the rest is free for data.
	for d.GrowPast(t.Context(), d.Gen(), 4096) == nil {
	}
	if left := s.Snapshot().Devices[0].Unallocated; left > MiB {
		t.Errorf("%v left over", left)
	}
	s.verify()
}

// I14: what metadata promised beyond its groups can always be made good.
func TestDataLeavesWhatMetadataPromised(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{devs: []Bytes{20 * GiB}, metadata: 256 * MiB})
	m, d := s.Metadata(), s.Data()
	promised := Bytes(0)
	for m.Reserve(t.Context(), 16*MiB, ClassTransaction) == nil && promised < 2*GiB {
		promised += 16 * MiB
	}
	for d.GrowPast(t.Context(), d.Gen(), 4096) == nil {
	}
	for promised > 0 {
		r, err := m.AllocExtent(t.Context(), ExtentRequest{Want: MiB})
		if err != nil {
			t.Fatalf("a promise of %v was broken: %v", promised, err)
		}
		s.must(s.MarkUsed(r))
		promised -= r.Length
	}
	s.verify()
}

// waitIdle returns when the info has nothing in flight.
func waitIdle(i *Info) {
	for {
		i.mu.Lock()
		busy := i.proto.Growing() || i.proto.Queued() > 0
		i.mu.Unlock()
		if !busy {
			return
		}
		runtime.Gosched()
	}
}

// Read-only groups: space leaves and returns; with promises in the way a chunk
// is made first, one for all who ask.
func TestReadOnlyMakesRoomFirst(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{dataSize: GiB})
	d := s.Data()
	g := s.Groups()[2]
	s.must(d.Reserve(t.Context(), 512*MiB, ClassNormal))
	if err := g.SetReadOnly(); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("took what was promised: %v", err)
	}
	for _, err := range herd(8, func(int) error { return g.SetReadOnlyGrowing(t.Context()) }) {
		s.must(err)
	}
	if n := s.chunks(data); n != 1 {
		t.Errorf("made %d chunks, want 1", n)
	}
	r, err := d.AllocExtent(t.Context(), ExtentRequest{Want: MiB})
	s.must(err)
	if s.Group(r.Start) == g {
		t.Error("allocated from a read-only group")
	}
	s.verify()
	for range 8 {
		g.ClearReadOnly()
	}
	if u := d.Usage(); u.ReadOnly != 0 {
		t.Errorf("%v still read-only", u.ReadOnly)
	}
	s.verify()
}

// Profiles: what was mirrored stays so, plain groups of a mirrored type are not
// used, a conversion decides at once, and a degraded filesystem makes do.
func TestProfileOfTheNextChunk(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{devs: same(2, 50*GiB), data: disk.BlockGroupRAID1, dataSize: GiB})
	d := s.Data()
	if p := d.Usage().Profile; p != disk.BlockGroupRAID1 {
		t.Errorf("profile %v, want RAID1", p)
	}
	raid0, _ := disk.ParseProfile("raid0")
	s.SetTarget(data, raid0)
	s.must(d.GrowPast(t.Context(), d.Gen(), 4096))
	if c := s.made[0]; c.Flags.Profile() != disk.BlockGroupRAID0 || len(c.Stripes) != 2 {
		t.Errorf("made %v on %d stripes", c.Flags, len(c.Stripes))
	}
	s.must(d.Reserve(t.Context(), MiB, ClassNormal))
	r, err := d.AllocExtent(t.Context(), ExtentRequest{Want: MiB})
	s.must(err)
	if f := s.Group(r.Start).chunk.Flags; f.Profile() != disk.BlockGroupRAID0 {
		t.Errorf("allocated from %v during a conversion to RAID0", f)
	}
	s.SetTarget(data, nil)
	s.must(s.ChangeDevice(DeviceSpec{ID: 2, Size: 50 * GiB, ReadOnly: true}))
	s.must(d.GrowPast(t.Context(), d.Gen(), 4096))
	if c := s.made[1]; c.Flags.Profile() != disk.BlockGroupRAID0 || len(c.Stripes) != 1 {
		t.Errorf("degraded: made %v on %d stripes", c.Flags, len(c.Stripes))
	}
	if err := s.RemoveDevice(2); !errors.Is(err, ErrBusy) {
		t.Errorf("removed a device with extents: %v", err)
	}
	if err := s.ChangeDevice(DeviceSpec{ID: 2, Size: GiB}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("shrunk below its extents: %v", err)
	}
}

// A filesystem that the caller describes wrongly is refused, and what was
// loaded before the fault stays whole.
func TestLoadRefusesNonsense(t *testing.T) {
	t.Parallel()
	ok := Chunk{Start: 1 << 30, Length: GiB, Flags: data, StripeSize: GiB, Stripes: []Stripe{{1, 1 << 30}}}
	for _, c := range []struct {
		name   string
		change func(*GroupSpec)
	}{
		{"no type", func(g *GroupSpec) { g.Chunk.Flags = 0 }},
		{"mixed without the feature", func(g *GroupSpec) { g.Chunk.Flags = disk.BlockGroupMixed }},
		{"no length", func(g *GroupSpec) { g.Chunk.Length = 0 }},
		{"negative length", func(g *GroupSpec) { g.Chunk.Length = -GiB }},
		{"odd length", func(g *GroupSpec) { g.Chunk.Length = GiB - 1 }},
		{"absurd length", func(g *GroupSpec) { g.Chunk.Length = 1 << 60 }},
		{"wraps around", func(g *GroupSpec) { g.Chunk.Start = 1<<64 - 4096 }},
		{"uses more than it has", func(g *GroupSpec) { g.Used = GiB + 4096 }},
		{"no stripes", func(g *GroupSpec) { g.Chunk.Stripes = nil }},
		{"unknown device", func(g *GroupSpec) { g.Chunk.Stripes[0].Dev = 9 }},
		{"beyond the device", func(g *GroupSpec) { g.Chunk.Stripes[0].Off = 1 << 50 }},
		{"offset wraps", func(g *GroupSpec) { g.Chunk.Stripes[0].Off = 1<<64 - 4096 }},
		{"overlaps on the device", func(g *GroupSpec) { g.Chunk.Stripes[0].Off = Physical(MiB) }},
		{"overlaps logically", func(g *GroupSpec) { g.Chunk.Start = 0 }},
		{"second stripe is bad", func(g *GroupSpec) { g.Chunk.Stripes = append(g.Chunk.Stripes, Stripe{1, 1 << 30}) }},
		{"free space disagrees with used", func(g *GroupSpec) { g.Used = 4096; g.Free = []Range{{1 << 30, 4096}} }},
		{"free space twice", func(g *GroupSpec) { g.Used = GiB - 8192; g.Free = []Range{{1 << 30, 4096}, {1 << 30, 4096}} }},
		{"free space outside", func(g *GroupSpec) { g.Used = GiB - 4096; g.Free = []Range{{1 << 40, 4096}} }},
		{"free space unknown", func(g *GroupSpec) { g.Used = 4096 }},
		{"extent over a superblock", func(g *GroupSpec) {
			g.Used = GiB
			g.Chunk.Stripes[0].Off = 256<<30 - 1<<20
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSim(t, simConfig{devs: []Bytes{300 * GiB}})
			spec := GroupSpec{Chunk: ok}
			spec.Chunk.Stripes = append([]Stripe(nil), ok.Stripes...)
			c.change(&spec)
			if err := s.AddGroup(spec); !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v", err)
			}
			s.verify()
		})
	}
	s := newSim(t, simConfig{})
	if err := s.AddDevice(DeviceSpec{ID: 1, Size: GiB}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("same device twice: %v", err)
	}
	if err := s.AddDeviceExtent(7, 0, 4096, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("extent of an unknown device: %v", err)
	}
	for _, cfg := range []Config{{SectorSize: 3000}, {NodeSize: 1 << 20}, {DataStages: make([]Stage, 9)}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
}

// What the caller does wrongly with extents is refused and changes nothing.
func TestExtentMisuse(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{dataSize: GiB})
	ctx := context.Background()
	used := s.write(s.Data(), MiB)[0]
	s.must(s.Data().Reserve(ctx, MiB, ClassNormal))
	reserved, err := s.Data().AllocExtent(ctx, ExtentRequest{Want: MiB})
	s.must(err)
	free := Range{reserved.End(), 4096}
	for name, err := range map[string]error{
		"mark a free range":          s.MarkUsed(free),
		"free a free range":          s.FreeExtent(ctx, free, 1),
		"return a free range":        s.ReturnExtent(free),
		"return more than reserved":  s.ReturnExtent(Range{used.Start, 2 * MiB}),
		"mark more than reserved":    s.MarkUsed(Range{used.Start, 2 * MiB}),
		"free more than used":        s.FreeExtent(ctx, Range{used.Start, 2 * MiB}, 1),
		"outside all groups":         s.MarkUsed(Range{1 << 60, 4096}),
		"off the sectors":            s.MarkUsed(Range{used.Start + 1, 4096}),
		"no length":                  s.MarkUsed(Range{used.Start, 0}),
		"over the end of a group":    s.MarkUsed(Range{used.Start, 2 * GiB}),
		"negative reservation":       s.Data().Reserve(ctx, -4096, ClassNoWait),
		"allocation of odd length":   second(s.Data().AllocExtent(ctx, ExtentRequest{Want: 100})),
		"allocation of odd minimum":  second(s.Data().AllocExtent(ctx, ExtentRequest{Want: 4096, Min: 8192})),
		"allocation of odd aligment": second(s.Data().AllocExtent(ctx, ExtentRequest{Want: 4096, Align: 12288})),
	} {
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.verify()
}

func second(_ Range, err error) error { return err }

// Beside mixed groups there may be some of one type alone. They are counted with
// the others, nothing is put into them, and what they hold can be freed.
func TestGroupsOfOneTypeBesideMixed(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{Config: Config{Mixed: true}, metadata: 64 * MiB, dataSize: 64 * MiB})
	c := Chunk{Start: s.nextLogical(), Flags: meta, Length: 64 * MiB, StripeSize: 64 * MiB, Stripes: []Stripe{{1, 50 << 30}}}
	held := Range{c.Start, MiB}
	s.must(s.AddGroup(GroupSpec{Chunk: c, Used: MiB, Free: []Range{{held.End(), 63 * MiB}}}))
	for _, r := range s.write(s.Data(), 200*MiB) {
		if g := s.Group(r.Start); g.chunk.Flags.Type() != disk.BlockGroupMixed {
			t.Errorf("%d bytes were put into a group of type %v", r.Length, g.chunk.Flags)
		}
	}
	s.free([]Range{held})
	s.commit()
	if g := s.Group(c.Start); g.used != 0 || g.info != s.Data() {
		t.Errorf("after freeing, the group of type %v uses %d bytes", g.chunk.Flags, g.used)
	}
}
