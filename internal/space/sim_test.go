package space

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"gobtrfs/disk"
)

// sim is a filesystem without trees: a ChunkWriter that remembers, delays and
// fails as it is told.
type sim struct {
	*FS
	tb      testing.TB
	latency time.Duration // of InsertChunk
	yield   bool          // give way in InsertChunk instead of sleeping

	mu       sync.Mutex
	trans    disk.TransID            // protected by mu, as everything below
	attempts int                     // calls of InsertChunk
	fail     func(attempt int) error // from 1; nil: succeed
	made     []Chunk                 // in order
	inside   int                     // calls of InsertChunk under way
	stages   []string                // stages that ran
	byType   map[disk.BlockGroupFlags]int
}

type simConfig struct {
	Config
	devs     []Bytes              // Default: one of 100 GiB
	data     disk.BlockGroupFlags // profile of the initial groups; no data group if -1 groups
	meta     disk.BlockGroupFlags // profile of metadata and system
	system   Bytes                // size of the initial SYSTEM group. Default: 8 MiB
	metadata Bytes                // size of the initial METADATA group. Default: 256 MiB
	dataSize Bytes                // size of the initial DATA group. Default: none
}

func newSim(tb testing.TB, c simConfig) *sim {
	tb.Helper()
	s := &sim{tb: tb, trans: 1, byType: make(map[disk.BlockGroupFlags]int)}
	if c.Writer == nil {
		c.Writer = s
	}
	fs, err := New(c.Config)
	if err != nil {
		tb.Fatal(err)
	}
	s.FS = fs
	if c.devs == nil {
		c.devs = []Bytes{100 * GiB}
	}
	for n, size := range c.devs {
		s.must(fs.AddDevice(DeviceSpec{ID: disk.DevID(n + 1), Size: size}))
	}
	if c.system == 0 {
		c.system = 8 * MiB
	}
	if c.metadata == 0 {
		c.metadata = 256 * MiB
	}
	s.addGroup(disk.BlockGroupSystem|c.meta, c.system)
	if c.Mixed {
		s.addGroup(disk.BlockGroupMixed|c.meta, c.metadata)
	} else {
		s.addGroup(disk.BlockGroupMetadata|c.meta, c.metadata)
	}
	if c.dataSize > 0 {
		s.addGroup(disk.BlockGroupData|c.data, c.dataSize)
	}
	fs.Open()
	tb.Cleanup(func() {
		fs.Close()
		s.verify()
		for _, i := range s.infos {
			if i.proto.Growing() || i.proto.Queued() > 0 {
				tb.Errorf("I3, I13: %v is growing or waited for after the end", i.flags)
			}
		}
	})
	return s
}

func (s *sim) must(err error) {
	if err != nil {
		s.tb.Helper()
		s.tb.Fatal(err)
	}
}

// addGroup places an empty group of the given stripe size, as mkfs would.
func (s *sim) addGroup(flags disk.BlockGroupFlags, stripe Bytes) {
	p := disk.ProfileOf(flags)
	c := Chunk{Start: s.nextLogical(), Flags: flags, StripeSize: stripe}
	devs := max(p.DevsMin, 1)
	for n := range devs {
		at, size := s.devs[n].hole(stripe * Bytes(p.DevStripes))
		if size < stripe*Bytes(p.DevStripes) {
			s.tb.Fatalf("no room for %v", flags)
		}
		for k := range p.DevStripes {
			c.Stripes = append(c.Stripes, Stripe{s.devs[n].ID, at + Physical(k)*Physical(stripe)})
		}
	}
	c.Length = stripe * Bytes(p.DataStripes(len(c.Stripes)))
	s.must(s.AddGroup(GroupSpec{Chunk: c}))
}

// InsertChunk implements ChunkWriter.
func (s *sim) InsertChunk(ctx context.Context, c *Chunk, system *Reserve) (disk.TransID, error) {
	s.mu.Lock()
	s.attempts++
	n, fail := s.attempts, s.fail
	if s.inside++; s.inside > 1 {
		s.tb.Error("I3: two chunks are made at once")
	}
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.inside--; s.mu.Unlock() }()
	if s.latency > 0 {
		time.Sleep(s.latency)
	}
	if s.yield {
		for range 4 {
			runtime.Gosched()
		}
	}
	if fail != nil {
		if err := fail(n); err != nil {
			return 0, err
		}
	}
	if want := s.units.System(len(c.Stripes)); system.Available() < want {
		s.tb.Errorf("chunk tree got %v, needs %v", system.Available(), want)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made = append(s.made, *c)
	s.byType[c.Flags.Type()]++
	return s.trans, nil
}

func (s *sim) chunks(t disk.BlockGroupFlags) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byType[t]
}

func (s *sim) setFail(f func(attempt int) error) {
	s.mu.Lock()
	s.fail, s.attempts = f, 0
	s.mu.Unlock()
}

// commit writes what is due and makes the running transaction durable.
func (s *sim) commit() {
	for _, g := range s.NewGroups() {
		s.Written(g)
	}
	s.mu.Lock()
	t := s.trans
	s.trans++
	s.mu.Unlock()
	s.CommitDone(t)
}

func (s *sim) running() disk.TransID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trans
}

func (s *sim) verify() {
	s.tb.Helper()
	if err := s.Verify(); err != nil {
		s.tb.Error(err)
	}
}

// write reserves, allocates and records n bytes of data in extents of at most
// 128 MiB.
func (s *sim) write(i *Info, n Bytes) []Range {
	s.tb.Helper()
	s.must(i.Reserve(context.Background(), n, ClassNormal))
	var out []Range
	for n > 0 {
		r, err := i.AllocExtent(context.Background(), ExtentRequest{Want: min(n, 128*MiB), Min: s.sector})
		s.must(err)
		s.must(s.MarkUsed(r))
		out, n = append(out, r), n-r.Length
	}
	return out
}

// free frees extents in the running transaction.
func (s *sim) free(rs []Range) {
	s.tb.Helper()
	for _, r := range rs {
		s.must(s.FreeExtent(context.Background(), r, s.running()))
	}
}
