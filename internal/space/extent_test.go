package space

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gobtrfs/disk"
)

// take reserves and allocates n bytes of data.
func (s *sim) take(n Bytes) Range {
	s.tb.Helper()
	s.must(s.Data().Reserve(context.Background(), n, ClassNormal))
	r, err := s.Data().AllocExtent(context.Background(), ExtentRequest{Want: n})
	s.must(err)
	return r
}

// D4: with room to spare, sizes keep to their own groups; when fewer than ten
// chunks are unallocated, a hole of the wrong class is used before a new chunk
// is made. Mutations that turned it red: scarceChunks 0; the class not set by
// the first extent; not reset when the group is empty.
func TestSizeClassesUntilSpaceIsScarce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		device Bytes
		chunks int
	}{{"plenty", 100 * GiB, 3}, {"scarce", 9 * GiB, 1}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSim(t, simConfig{devs: []Bytes{c.device}})
			var rs []Range
			for range 3 {
				for _, n := range []Bytes{64 * KiB, MiB, 16 * MiB} {
					rs = append(rs, s.take(n))
				}
			}
			if n := s.chunks(data); n != c.chunks {
				t.Errorf("made %d chunks, want %d", n, c.chunks)
			}
			same := s.Group(rs[0].Start) == s.Group(rs[3].Start)
			other := s.Group(rs[0].Start) != s.Group(rs[1].Start)
			if !same || other != (c.name == "plenty") {
				t.Errorf("small with small: %v, small apart from medium: %v", same, other)
			}
			g := s.Group(rs[0].Start)
			for _, r := range rs {
				s.must(s.ReturnExtent(r))
			}
			if g.class != SizeUnset {
				t.Errorf("an empty group has class %d", g.class)
			}
		})
	}
}

// Data may come in pieces; when space is scarce the longest hole is used
// before a chunk is made, and at the very end every last sector.
func TestShortHolesAreUsedUp(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{devs: []Bytes{600 * MiB}})
	d := s.Data()
	ctx := context.Background()
	for d.GrowPast(ctx, d.Gen(), 4096) == nil {
	}
	u := d.Usage()
	free := u.Total - u.ReadOnly
	s.must(d.Reserve(ctx, free, ClassNormal))
	var singles []Range
	for range 100 { // holes of one sector between single sectors
		a, err := d.AllocExtent(ctx, ExtentRequest{Want: 4096})
		s.must(err)
		b, err := d.AllocExtent(ctx, ExtentRequest{Want: 4096, Hint: a.End()})
		s.must(err)
		if b.Start != a.End() {
			t.Fatalf("hint %d not followed: %d", a.End(), b.Start)
		}
		s.must(s.MarkUsed(a))
		singles = append(singles, b)
	}
	for _, b := range singles {
		s.must(s.ReturnExtent(b))
		s.must(d.Reserve(ctx, b.Length, ClassNoWait))
	}
	left := free - 100*4096
	for pieces := 0; left > 0; pieces++ {
		want := min(left, 64*MiB)
		r, err := d.AllocExtent(ctx, ExtentRequest{Want: want, Min: 4096})
		if err != nil {
			t.Fatalf("%v left, %d pieces: %v", left, pieces, err)
		}
		left -= r.Length
		if pieces > 400 {
			t.Fatalf("cut up into more than %d pieces", pieces)
		}
	}
	if u := d.Usage(); u.Reserved+u.Used != free || u.Promised != 0 || u.LargestHole != 0 {
		t.Errorf("reserved %v, used %v of %v, largest hole %v", u.Reserved, u.Used, free, u.LargestHole)
	}
	var e *SpaceError
	if _, err := d.AllocExtent(ctx, ExtentRequest{Want: 4096}); !errors.As(err, &e) || e.GrowthFailed == "" {
		t.Errorf("got %v", err)
	}
	if _, err := d.AllocExtent(ctx, ExtentRequest{Want: 4096, NoGrow: true}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("without growth: %v", err)
	}
	s.verify()
}

// A hole that is long enough but lies badly is used as far as it is aligned, at
// least for the shortest length that will do. Mutation that turned it red:
// anywhere without the final try of Min.
func TestBadlyAlignedHoleIsUsed(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{devs: []Bytes{600 * MiB}})
	d := s.Data()
	s.must(d.GrowPast(t.Context(), d.Gen(), 4096))
	s.setFail(func(int) error { return ErrNoSpace })
	g := s.Group(s.made[0].Start)
	r := s.take(s.Data().Usage().LargestHole)
	g.mu.Lock() // 12 KiB, of which the last 8 are aligned
	hole := Range{r.Start + disk.Logical(60*KiB), 12 * KiB}
	s.must(g.returnExtent(hole))
	g.mu.Unlock()
	s.must(d.Reserve(t.Context(), 12*KiB, ClassNormal))
	got, err := d.AllocExtent(t.Context(), ExtentRequest{Want: 12 * KiB, Min: 8 * KiB, Align: 64 * KiB})
	s.must(err)
	if want := (Range{hole.Start + 4096, 8 * KiB}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A piece longer than any chunk would have is refused without making chunks:
// else one impossible request would eat the filesystem.
func TestImpossiblePieceMakesNoChunk(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{devs: []Bytes{100 * GiB}, dataSize: GiB})
	s.must(s.Data().Reserve(t.Context(), 4*GiB, ClassNormal))
	before := s.chunks(data)
	_, err := s.Data().AllocExtent(t.Context(), ExtentRequest{Want: 2 * GiB})
	if !errors.Is(err, ErrNoSpace) || s.chunks(data) != before {
		t.Errorf("%v, %d chunks", err, s.chunks(data)-before)
	}
	// The same for bytes that the devices cannot give.
	err = s.Data().Reserve(t.Context(), TiB, ClassNormal)
	if !errors.Is(err, ErrNoSpace) || s.chunks(data) != before {
		t.Errorf("%v, %d chunks", err, s.chunks(data)-before)
	}
	// Nor those that they could give if overcommit came on top.
	m := s.Metadata()
	most := s.Snapshot().Growable[meta] + m.Usage().Total
	for _, c := range []Class{ClassNormal, ClassTransaction} {
		err = m.Reserve(t.Context(), most+4096, c)
		if !errors.Is(err, ErrNoSpace) || s.chunks(meta) != 0 {
			t.Errorf("class %d: %v, %d chunks", c, err, s.chunks(meta))
		}
	}
}

// loader reads free space that a test wrote down.
type loader struct {
	free  map[disk.Logical][]Range
	err   error
	calls atomic.Int64
	begin chan struct{} // if set, a load waits here
}

func (l *loader) LoadFreeSpace(ctx context.Context, c *Chunk, yield func(Range) error) error {
	l.calls.Add(1)
	if l.begin != nil {
		select {
		case <-l.begin:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for _, r := range l.free[c.Start] {
		if err := yield(r); err != nil {
			return err
		}
	}
	return l.err
}

// Free space is read when first needed, once, however many need it; before any
// change of the group, so that what is read is the last commit's state.
// Mutations that turned it red: withGroup without load; load that does not look
// again when it has waited for another reader.
func TestFreeSpaceIsReadOnce(t *testing.T) {
	t.Parallel()
	l := &loader{free: map[disk.Logical][]Range{}, begin: make(chan struct{})}
	s := newSim(t, simConfig{Config: Config{Loader: l}})
	var groups [2]Chunk
	for k := range groups {
		c := Chunk{Start: disk.Logical(10+k) << 30, Length: GiB, Flags: data, StripeSize: GiB, Stripes: []Stripe{{1, Physical(10+k) << 30}}}
		l.free[c.Start] = []Range{{c.Start + 4096, GiB - 8192}}
		s.must(s.AddGroup(GroupSpec{Chunk: c, Used: 8192}))
		groups[k] = c
	}
	go func() {
		for range 100 {
			runtime.Gosched() // let them all arrive
		}
		close(l.begin)
	}()
	for _, err := range herd(16, func(int) error { return s.Group(groups[0].Start).load(t.Context()) }) {
		s.must(err)
	}
	if n := l.calls.Load(); n != 1 {
		t.Errorf("read %d times", n)
	}
	s.must(s.FreeExtent(t.Context(), Range{groups[1].Start, 4096}, 1)) // not read yet
	s.must(s.Data().Reserve(t.Context(), 4096, ClassNormal))
	r, err := s.Data().AllocExtent(t.Context(), ExtentRequest{Want: 4096, Hint: groups[1].Start})
	s.must(err)
	if d := cmp.Diff(Range{groups[1].Start + 4096, 4096}, r); d != "" {
		t.Error(d)
	}
	if n := l.calls.Load(); n != 2 {
		t.Errorf("read %d times", n)
	}
	s.verify()
}

// A group that cannot be read is no reason to say "no space": the reason is
// reported, unless another group has the space; and a caller that gives up
// while reading does not spoil the group.
func TestUnreadableFreeSpace(t *testing.T) {
	t.Parallel()
	eio := errors.New("input/output error")
	l := &loader{err: eio}
	s := newSim(t, simConfig{Config: Config{Loader: l}, devs: []Bytes{3 * GiB}})
	s.setFail(func(int) error { return ErrNoSpace })
	c := Chunk{Start: 10 << 30, Length: GiB, Flags: data, StripeSize: GiB, Stripes: []Stripe{{1, 1 << 30}}}
	s.must(s.AddGroup(GroupSpec{Chunk: c, Used: 8192}))
	s.must(s.Data().Reserve(t.Context(), 2*MiB, ClassNormal))
	l.begin = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Data().AllocExtent(ctx, ExtentRequest{Want: 4096}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while reading: %v", err)
	}
	close(l.begin)
	if _, err := s.Data().AllocExtent(t.Context(), ExtentRequest{Want: 4096}); !errors.Is(err, eio) {
		t.Errorf("got %v, want the reason", err)
	}
	s.setFail(nil)
	s.must(s.AddDevice(DeviceSpec{ID: 2, Size: 10 * GiB}))
	if _, err := s.Data().AllocExtent(t.Context(), ExtentRequest{Want: 4096}); err != nil {
		t.Errorf("a new chunk would have done: %v", err)
	}
}

// What may be discarded after a commit is what it frees.
func TestPinnedRanges(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{dataSize: GiB})
	rs := s.write(s.Data(), 3*MiB)
	r := rs[0]
	for _, p := range []Range{{r.Start, MiB}, {r.Start + disk.Logical(MiB), 4096}} {
		s.must(s.FreeExtent(t.Context(), p, s.running()))
	}
	later := Range{r.Start + disk.Logical(2*MiB), 4096}
	s.must(s.FreeExtent(t.Context(), later, s.running()+1))
	var got []Range
	s.PinnedRanges(s.running(), func(r Range) bool { got = append(got, r); return true })
	if d := cmp.Diff([]Range{{r.Start, MiB + 4096}}, got); d != "" {
		t.Error(d)
	}
	s.commit()
	if u := s.Data().Usage(); u.Pinned != 4096 {
		t.Errorf("%v pinned, want the later transaction's 4 KiB", u.Pinned)
	}
}

// What a log refers to is taken where it is, once, and goes the way of any
// other extent afterwards.
func TestTakeExtent(t *testing.T) {
	t.Parallel()
	s := newSim(t, simConfig{devs: []Bytes{2 * GiB}})
	ctx := context.Background()
	first := s.take(64 * KiB)
	at := Range{Start: first.Start + disk.Logical(MiB), Length: 128 * KiB}
	s.must(s.TakeExtent(ctx, at))
	for name, r := range map[string]Range{
		"the same again":     at,
		"a part of it":       {Start: at.Start + 4096, Length: 4096},
		"allocated":          {Start: first.Start, Length: 4096},
		"half a sector":      {Start: at.Start + 1<<20, Length: 100},
		"in no group at all": {Start: 1 << 50, Length: 4096},
	} {
		if err := s.TakeExtent(ctx, r); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.must(s.Data().Reserve(ctx, 2*MiB, ClassNormal))
	if got, err := s.Data().AllocExtent(ctx, ExtentRequest{Want: 2 * MiB, Hint: at.Start}); err != nil || got.overlaps(at) {
		t.Errorf("allocated %+v over %+v: %v", got, at, err)
	}
	s.must(s.MarkUsed(at))
	s.must(s.FreeExtent(ctx, at, 1))
	s.verify()
	s.CommitDone(1)
	s.must(s.TakeExtent(ctx, at))
	s.must(s.ReturnExtent(at))
	s.verify()
}
