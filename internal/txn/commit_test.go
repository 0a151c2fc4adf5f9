package txn_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/clock"
	"gobtrfs/internal/space"
	"gobtrfs/internal/txn"
	"gobtrfs/internal/volume"
	"gobtrfs/mkfs"
)

// gate is a device whose flushes wait while it is shut.
type gate struct {
	blockdev.Device
	mu     sync.Mutex
	shut   chan struct{} // not nil: closed when the gate opens; protected by mu
	arrive chan struct{} // gets one for every flush that waits
	fail   atomic.Pointer[error]
}

func (g *gate) Sync() error {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		g.arrive <- struct{}{}
		<-shut
	}
	if e := g.fail.Load(); e != nil {
		return *e
	}
	return g.Device.Sync()
}

func (g *gate) close() {
	g.mu.Lock()
	g.shut = make(chan struct{})
	g.mu.Unlock()
}

func (g *gate) open() {
	g.mu.Lock()
	close(g.shut)
	g.shut = nil
	g.mu.Unlock()
}

type fixture struct {
	*testing.T
	dev *gate
	fs  *txn.FS
	vol *volume.Volume
}

// newFixture makes a filesystem in memory and opens it for writing.
func newFixture(t *testing.T, o txn.Options) *fixture {
	t.Helper()
	mem := blockdev.NewMemory(256 << 20)
	_, err := mkfs.Make(t.Context(), []blockdev.Device{mem}, mkfs.Options{})
	ok(t, err)
	g := &gate{Device: mem, arrive: make(chan struct{}, 64)}
	v, err := volume.Open(t.Context(), []blockdev.Device{g}, volume.Options{})
	ok(t, err)
	f, err := txn.Open(t.Context(), v, block.New(v, block.Options{}), o)
	ok(t, err)
	t.Cleanup(f.Close)
	return &fixture{t, g, f, v}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func key(i int) disk.Key {
	return disk.Key{ObjectID: disk.RootDirObjectID, Type: disk.KeyVerityMerkle, Offset: uint64(i)}
}

// put inserts or replaces an item of the top-level tree, large enough that few
// share a leaf.
func (f *fixture) put(i int, value uint64) error {
	return f.fs.Do(context.Background(), 1, space.ClassNormal, func(ctx context.Context) error {
		t, err := f.fs.Tree(ctx, disk.TreeFS)
		if err != nil {
			return err
		}
		data := binary.LittleEndian.AppendUint64(nil, value)
		data = append(data, make([]byte, 2000)...)
		if _, found, err := t.Get(ctx, key(i)); err != nil {
			return err
		} else if found {
			return t.Update(ctx, key(i), data)
		}
		return t.Insert(ctx, key(i), data)
	})
}

func (f *fixture) get(i int) (value uint64, err error) {
	err = f.fs.Look(context.Background(), func(ctx context.Context) error {
		t, err := f.fs.Tree(ctx, disk.TreeFS)
		if err != nil {
			return err
		}
		data, found, err := t.Get(ctx, key(i))
		if err == nil && !found {
			err = fmt.Errorf("item %d: %w", i, errMissing)
		}
		if err == nil {
			value = binary.LittleEndian.Uint64(data)
		}
		return err
	})
	return value, err
}

var errMissing = errors.New("missing")

func (f *fixture) verify() {
	f.Helper()
	ok(f.T, f.fs.Err())
	ok(f.T, f.fs.Space().Verify())
}

// TestOperationsBesideCommit: while a commit waits for the device, operations
// and readers of the running state go on, what the commit freed stays pinned,
// and the commit contains what was done before it and nothing else.
func TestOperationsBesideCommit(t *testing.T) {
	f := newFixture(t, txn.Options{CommitInterval: -1})
	for i := range 200 {
		ok(t, f.put(i, 1))
	}
	ok(t, f.fs.Commit(t.Context()))
	ok(t, f.put(0, 2))
	f.dev.close()
	done := make(chan error, 1)
	go func() { done <- f.fs.Commit(context.Background()) }()
	<-f.dev.arrive
	writing := f.fs.Trans() - 1
	for i := range 200 {
		ok(t, f.put(i, 3))
		v, err := f.get(i)
		ok(t, err)
		if v != 3 {
			t.Fatalf("item %d is %d in the running transaction, want 3", i, v)
		}
	}
	pinned := slices.Collect(func(yield func(space.Range) bool) { f.fs.Space().PinnedRanges(writing, yield) })
	if len(pinned) == 0 {
		t.Error("nothing is pinned by a commit that is not durable")
	}
	f.verify()
	select {
	case err := <-done:
		t.Fatalf("the commit returned before the device flushed: %v", err)
	default:
	}
	impatient, cancel := context.WithCancelCause(t.Context())
	cancel(errMissing)
	if err := f.fs.Commit(impatient); !errors.Is(err, errMissing) {
		t.Errorf("cancelled commit: %v", err)
	}
	f.dev.open()
	ok(t, <-done)
	if got := f.vol.Super().Generation; got != writing {
		t.Errorf("superblock of transaction %d, want %d", got, writing)
	}
	if n := committedValue(t, f.dev.Device, 0); n != 2 {
		t.Errorf("item 0 was committed as %d, want 2", n)
	}
	ok(t, f.fs.Commit(t.Context()))
	if n := committedValue(t, f.dev.Device, 0); n != 3 {
		t.Errorf("item 0 was committed as %d, want 3", n)
	}
	f.verify()
}

// committedValue opens what is on the device and reads an item.
func committedValue(t *testing.T, d blockdev.Device, i int) uint64 {
	t.Helper()
	v, err := volume.Open(t.Context(), []blockdev.Device{d}, volume.Options{})
	ok(t, err)
	f, err := txn.Open(t.Context(), v, block.New(v, block.Options{}), txn.Options{})
	ok(t, err)
	defer f.Close()
	n, err := (&fixture{T: t, fs: f}).get(i)
	ok(t, err)
	return n
}

// TestGroupCommit: however many ask at a time, the commit under way and one
// more serve them all, each with what it did before it asked.
func TestGroupCommit(t *testing.T) {
	f := newFixture(t, txn.Options{CommitInterval: -1})
	ok(t, f.put(0, 1))
	f.dev.close()
	first := f.fs.Trans()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f.fs.Commit(t.Context()); err != nil {
			t.Error(err)
		}
	})
	<-f.dev.arrive
	for i := range 64 {
		wg.Go(func() {
			if err := f.put(i, 7); err != nil {
				t.Error(err)
			}
			if err := f.fs.Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for { // until all have done their change
		n := 0
		for i := range 64 {
			if v, err := f.get(i); err == nil && v == 7 {
				n++
			}
		}
		if n == 64 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	f.dev.open()
	wg.Wait()
	// A caller may have changed something and not asked yet when the second
	// was frozen, so none asks for a third that is not needed.
	if made := f.fs.Trans() - first; made != 2 {
		t.Errorf("%d commits, want 2", made)
	}
	ok(t, f.fs.Commit(t.Context()))
	if made := f.fs.Trans() - first; made != 2 {
		t.Errorf("a commit of nothing: %d commits", made)
	}
	f.verify()
}

// TestCommitByAge: what nobody commits is committed when it is old.
func TestCommitByAge(t *testing.T) {
	c := &steppedClock{step: make(chan struct{})}
	f := newFixture(t, txn.Options{Clock: c, CommitInterval: time.Hour})
	for range 3 {
		was := f.vol.Super().Generation
		ok(t, f.put(0, 1))
		c.step <- struct{}{}
		for f.vol.Super().Generation == was {
			time.Sleep(time.Millisecond)
		}
	}
}

// steppedClock sleeps until it is told, for as long as an hour.
type steppedClock struct {
	clock.System
	step chan struct{}
}

func (c *steppedClock) Sleep(ctx context.Context, d time.Duration) error {
	if d < time.Hour {
		return c.System.Sleep(ctx, d)
	}
	select {
	case <-c.step:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// TestDirtyLimit: memory is bounded while the device does not keep up:
// operations wait, and go on when it does.
func TestDirtyLimit(t *testing.T) {
	const limit = 1 << 20
	f := newFixture(t, txn.Options{CommitInterval: -1, DirtyNodeBytes: limit})
	f.dev.close()
	var made atomic.Int64
	done := make(chan error, 1)
	go func() {
		for i := range 3000 {
			if err := f.put(i, 1); err != nil {
				done <- err
				return
			}
			made.Add(1)
		}
		done <- nil
	}()
	<-f.dev.arrive
	last := int64(-1)
	for n := made.Load(); n != last; n = made.Load() { // until it stands still
		last = n
		time.Sleep(100 * time.Millisecond)
	}
	// Two transactions of at most 1 MiB and a quarter, of seven items a node.
	if last >= 3000 || last*2000 > 3*limit {
		t.Errorf("%d operations while nothing could be written", last)
	}
	f.dev.open()
	ok(t, <-done)
	ok(t, f.fs.Commit(t.Context()))
	f.verify()
}

// TestFailedWriteReachesAll: everybody who waits for a commit that fails, or
// for one after it, gets the device's error, and so does whoever comes later.
func TestFailedWriteReachesAll(t *testing.T) {
	f := newFixture(t, txn.Options{CommitInterval: -1})
	ok(t, f.put(0, 1))
	f.dev.close()
	errs := make(chan error, 9)
	go func() { errs <- f.fs.Commit(context.Background()) }()
	<-f.dev.arrive
	ok(t, f.put(1, 1))
	for range 8 {
		go func() { errs <- f.fs.Commit(context.Background()) }()
	}
	cause := errors.New("the disk is on fire")
	f.dev.fail.Store(&cause)
	f.dev.open()
	for range 9 {
		if err := <-errs; !errors.Is(err, cause) || !errors.Is(err, txn.ErrAborted) {
			t.Errorf("commit: %v", err)
		}
	}
	if err := f.put(2, 1); !errors.Is(err, cause) {
		t.Errorf("an operation afterwards: %v", err)
	}
	if err := f.fs.Commit(t.Context()); !errors.Is(err, cause) {
		t.Errorf("a commit afterwards: %v", err)
	}
}

// TestSettled (X2): whatever was done, at each commit the allocator, the extent
// tree and the free-space tree agree; a second opening counts everything anew.
func TestSettled(t *testing.T) {
	f := newFixture(t, txn.Options{CommitInterval: -1})
	for round := range 6 {
		for i := range 150 * (round + 1) {
			ok(t, f.put(i, uint64(round)))
		}
		ok(t, f.fs.Tidy(t.Context()))
		f.verify()
		if n := committedValue(t, f.dev.Device, 1); n != uint64(round) {
			t.Fatalf("round %d: item 1 is %d on the device", round, n)
		}
	}
}

// TestCommitWithoutChange: where only the superblock changes, as after the replay
// of a log that adds nothing, the root tree is of its generation all the same.
func TestCommitWithoutChange(t *testing.T) {
	f := newFixture(t, txn.Options{CommitInterval: -1})
	ok(t, f.put(1, 7))
	ok(t, f.fs.Commit(t.Context()))
	ok(t, f.fs.Do(t.Context(), 1, space.ClassNormal, func(ctx context.Context) error {
		return f.fs.NeedIncompat(ctx, disk.IncompatCompressZstd)
	}))
	ok(t, f.fs.Commit(t.Context()))
	f.verify()
	if n := committedValue(t, f.dev.Device, 1); n != 7 {
		t.Errorf("item 1 is %d on the device", n)
	}
}

// TestFirstOfTransaction: RunCommitted finds trees that nobody has changed yet,
// beside a commit that is being written or not.
func TestFirstOfTransaction(t *testing.T) {
	f := newFixture(t, txn.Options{CommitInterval: -1})
	for i := range 50 {
		ok(t, f.put(i, 1))
		err := f.fs.RunCommitted(t.Context(), txn.Operation{Items: 1, Run: func(ctx context.Context) error {
			tree, err := f.fs.Tree(ctx, disk.TreeFS)
			if err == nil && !f.fs.Clean(tree) {
				t.Error("the tree was changed before")
			}
			return err
		}})
		ok(t, err)
	}
	ok(t, f.fs.Commit(t.Context()))
	f.verify()
}
