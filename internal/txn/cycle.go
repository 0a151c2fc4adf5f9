package txn

import (
	"context"
	"fmt"
	"sync"

	"gobtrfs/disk"
	"gobtrfs/internal/lockrank"
	"gobtrfs/internal/space"
)

// Ranks of the mutexes of this package. None is taken under another.
const (
	rankTrees lockrank.Rank = 91 + iota
	rankCycle
)

// cycle is who commits and who waits for it (group commit).
//
//	idle ──take──> taken: settle, freeze ──> writing ──give──> idle
//
// Whoever wants a commit and finds the cycle idle starts a goroutine that
// takes it through; everybody else waits for what moves. All that was changed
// before the freeze is in the commit: so a caller who comes while it is settled
// is served by it, and those who come while it is written share the next one.
type cycle struct {
	mu     lockrank.Mutex
	busy   bool           // protected by mu, as everything below
	closed bool           // nothing may start any more
	done   disk.TransID   // the last transaction whose superblock is durable
	moved  chan struct{}  // closed, and made anew, at every freeze and give
	timer  func()         // stops the timer of the running transaction; nil: there is none
	work   sync.WaitGroup // goroutines; Add under mu while not closed
	ctx    context.Context
	stop   context.CancelFunc
}

func (c *cycle) init(done disk.TransID) {
	c.mu.Init(rankCycle, 0)
	c.done, c.moved = done, make(chan struct{})
	c.ctx, c.stop = context.WithCancel(context.Background())
}

// moveLocked wakes everybody who waits.
func (c *cycle) moveLocked() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// take waits until the cycle is idle and takes it.
func (c *cycle) take(ctx context.Context) error {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return space.ErrClosed
		}
		if !c.busy {
			c.busy = true
			c.mu.Unlock()
			return nil
		}
		moved := c.moved
		c.mu.Unlock()
		if err := wait(ctx, moved); err != nil {
			return err
		}
	}
}

// give ends a turn that made everything up to done durable; 0: nothing new.
func (c *cycle) give(done disk.TransID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	c.done = max(c.done, done)
	c.moveLocked()
}

// spawn runs work of the cycle's holder beside the caller. After close it is
// run at once.
func (c *cycle) spawn(work func()) {
	if !c.start(work) {
		work()
	}
}

// start runs work beside the caller, unless the cycle is closed.
func (c *cycle) start(work func()) bool {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false
	}
	c.work.Add(1)
	c.mu.Unlock()
	go func() {
		defer c.work.Done()
		work()
	}()
	return true
}

// close waits for all work, and lets no new one start.
func (c *cycle) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.work.Wait()
}

func wait(ctx context.Context, ch <-chan struct{}) error {
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Commit makes everything durable that was done before. Callers share commits:
// however many there are at a time, the one that is being settled and the next
// serve them all. ctx ends the waiting only.
func (f *FS) Commit(ctx context.Context) error {
	if err := f.mendSuspected(ctx); err != nil {
		return err
	}
	c := &f.cycle
	due := f.statsDue()
	c.mu.Lock()
	target := f.Trans()
	if !due && !f.touched.Load() {
		target--
	}
	c.mu.Unlock()
	for {
		c.mu.Lock()
		if c.done >= target {
			c.mu.Unlock()
			return nil
		}
		moved, start, closed := c.moved, !c.busy, c.closed
		c.mu.Unlock()
		if err := f.Err(); err != nil {
			return err
		}
		if f.replaying.Load() != nil {
			return fmt.Errorf("commit before the log is replayed: %w", space.ErrNoSpace)
		}
		if closed {
			return space.ErrClosed
		}
		if start {
			f.startCommit(f.commitOnce)
		}
		if err := wait(ctx, moved); err != nil {
			return err
		}
	}
}

// tidyRounds bounds the commits of Tidy behind the first: one may empty a group,
// and its removal another.
const tidyRounds = 4

// Tidy is Commit; block groups that are empty then, or as good as empty, go, in
// commits of their own.
func (f *FS) Tidy(ctx context.Context) error {
	if err := f.Commit(ctx); err != nil {
		return err
	}
	for range tidyRounds {
		n, err := f.removeUnused(ctx)
		if err != nil {
			return err
		}
		left, err := f.evacuate(ctx)
		if err == nil && n+len(left) > 0 {
			err = f.Commit(ctx)
		}
		for _, g := range left {
			g.ClearReadOnly()
		}
		if err != nil || n+len(left) == 0 {
			return err
		}
	}
	return nil
}

// startCommit has the cycle run through beside the caller, unless it is busy.
func (f *FS) startCommit(run func(ctx context.Context)) {
	c := &f.cycle
	c.mu.Lock()
	if c.busy || c.closed {
		c.mu.Unlock()
		return
	}
	c.busy = true
	c.mu.Unlock()
	c.spawn(func() { run(context.Background()) })
}

// commitOnce takes the cycle, which must have been taken, through one turn.
func (f *FS) commitOnce(ctx context.Context) {
	var s *sealed
	defer func() { f.finish(s) }()
	if f.lockWriter(ctx) != nil {
		return // aborted: all who wait see that
	}
	defer f.state.Unlock()
	if f.replaying.Load() != nil || !f.touched.Load() && !f.statsDue() {
		return
	}
	var err error
	if s, err = f.seal(ctx); err != nil {
		f.abort(err)
	}
}

// finish writes what was sealed, nil if nothing was, and ends the turn.
func (f *FS) finish(s *sealed) {
	done := disk.TransID(0)
	if s != nil {
		if err := f.write(context.Background(), s); err == nil {
			done = s.trans
		}
	}
	f.cycle.give(done)
}

// commitAlone is a turn that nobody waits for: because of the transaction's
// age or size. Nobody else would look for empty groups.
func (f *FS) commitAlone(ctx context.Context) {
	f.commitOnce(ctx)
	if f.Err() == nil {
		_, _ = f.removeUnused(ctx) // an error aborts, and is seen by all
	}
}

// commitSoon starts a commit if none is under way.
func (f *FS) commitSoon() {
	if !f.inStep {
		f.startCommit(f.commitAlone)
		return
	}
	ctx := context.Background()
	if f.cycle.take(ctx) == nil {
		f.commitAlone(ctx)
	}
}

// touch notes that something changed in the running transaction.
//
// REQUIRES: the writer or growth.
func (f *FS) touch() {
	if f.touched.Load() {
		return
	}
	f.touched.Store(true)
	if f.opts.CommitInterval < 0 {
		return
	}
	c := &f.cycle
	c.mu.Lock()
	if c.timer != nil || c.closed {
		c.mu.Unlock()
		return
	}
	ctx, stop := context.WithCancel(c.ctx)
	c.timer = stop
	c.mu.Unlock()
	c.spawn(func() {
		defer stop()
		if f.opts.Clock.Sleep(ctx, f.opts.CommitInterval) == nil && c.take(ctx) == nil {
			f.commitAlone(context.Background())
		}
	})
}

// nextTransaction starts the next transaction: the running one was frozen.
//
// REQUIRES: the writer and growth.
func (f *FS) nextTransaction() {
	c := &f.cycle
	c.mu.Lock()
	defer c.mu.Unlock()
	f.trans.Add(1)
	f.touched.Store(false)
	if c.timer != nil {
		c.timer()
		c.timer = nil
	}
	c.moveLocked()
}

// maxHeads bounds the extents with delayed refs that one transaction gathers
// before it is committed: memory, and the work that its commit must find room
// for. With half as many a million files in one directory, whose names go to
// random leaves, are committed every ten thousand creates.
const maxHeads = 8000

// fullness is how full the running transaction is: from 1 on it is committed,
// from hard on operations wait.
func (f *FS) fullness() float64 {
	bytes := int64(f.dirty.Len()) * int64(f.geometry.NodeSize)
	return max(float64(f.refs.len())/maxHeads, float64(bytes)/float64(f.opts.DirtyNodeBytes))
}

// hard is the fullness at which operations wait for the next freeze.
const hard = 1.25

// throttle waits while the running transaction is full, which is while the one
// before it is being written.
func (f *FS) throttle(ctx context.Context) error {
	for first := true; ; first = false {
		if err := f.Err(); err != nil {
			return err
		}
		if first && f.fullness() < hard { // the usual case takes no lock
			return nil
		}
		c := &f.cycle
		c.mu.Lock()
		moved, closed := c.moved, c.closed
		c.mu.Unlock()
		if f.fullness() < hard || f.replaying.Load() != nil {
			return nil
		}
		if closed {
			return space.ErrClosed
		}
		f.startCommit(f.commitAlone)
		if err := wait(ctx, moved); err != nil {
			return err
		}
	}
}
