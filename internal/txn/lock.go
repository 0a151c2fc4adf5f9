package txn

import (
	"context"
	"runtime"
	"slices"
	"sync/atomic"

	"gobtrfs/internal/lockrank"
)

// rwLock lets one writer in, or any number of readers, or any number of joiners:
// writers who have agreed among themselves how to keep apart. Unlike
// sync.RWMutex it can be waited for under a context, and I/O is allowed while
// it is held.
//
// Who waits longest and how: readers do not overtake anybody who waits, nor do
// joiners. When the last who was inside leaves, the next in the circle
//
//	readers → joiners → a writer → readers
//
// of whom somebody waits come in: all readers, all joiners, or one writer. So
// nobody starves. Among themselves writers may overtake (whoever runs takes a
// free lock, which saves a switch between goroutines for every operation), but
// none that was overtaken patience times.
//
// While nobody has to wait, crowds come and go by one compare-and-swap.
type rwLock struct {
	yields int // immutable: how often who has to wait looks again before it sleeps

	// inside counts readers and joiners who are inside, as multiples of their
	// crowd's one. With slow set it changes under mu only; that is set by
	// whoever holds mu, and stays while there is more to know than the counts.
	inside atomic.Uint64
	left   atomic.Uint32 // counts those who went while somebody waited; changed under mu

	mu      lockrank.Mutex
	readers crowd // protected by mu, as everything below
	joiners crowd
	writing bool      // a writer is inside, or the lock was handed to one
	awake   bool      // a writer was woken and has not tried its luck yet
	claims  int       // writers who yield before they queue; nobody overtakes them
	queue   []*waiter // writers waiting, first come first
}

// crowd is those who share the lock with their kind and nobody else.
type crowd struct {
	one     uint64 // immutable: in rwLock.inside
	mask    uint64 // immutable: its bits there
	waiting []*waiter
}

// Parts of rwLock.inside.
const (
	readerOne = 1
	joinerOne = 1 << 31
	crowdMask = joinerOne - 1
	slow      = 1 << 62
)

// waiter is somebody in line. woken is closed once.
type waiter struct {
	woken  chan struct{}
	owner  bool // the lock was handed over; valid when woken is closed
	passed int  // how often it was woken and somebody else had been faster
}

// spins is how often a look costs less than to let others run.
const spins = 300

// patience is how often a writer lets others overtake it.
const patience = 4

// rankLock: no lock is taken under rwLock.mu.
const rankLock lockrank.Rank = 99

func (l *rwLock) init() {
	l.mu.Init(rankLock, 0)
	l.readers.one, l.readers.mask = readerOne, readerOne*crowdMask
	l.joiners.one, l.joiners.mask = joinerOne, joinerOne*crowdMask
}

// begin takes mu and has everybody else take it, too.
func (l *rwLock) begin() {
	l.mu.Lock()
	l.inside.Or(slow)
}

// end gives mu back.
func (l *rwLock) end() {
	if !l.writing && !l.awake && l.claims == 0 && len(l.queue)+len(l.readers.waiting)+len(l.joiners.waiting) == 0 {
		l.inside.And(^uint64(slow))
	}
	l.mu.Unlock()
}

// emptyLocked says that nobody of a crowd is inside.
func (l *rwLock) emptyLocked(c *crowd) bool { return l.inside.Load()&c.mask == 0 }

// Lock lets a writer in, or returns the cause of ctx's end.
func (l *rwLock) Lock(ctx context.Context) error {
	l.begin()
	if l.tryWriteLocked() {
		l.end()
		return nil
	}
	l.claims++
	got := l.yieldLocked(l.tryWriteLocked)
	l.claims--
	if got {
		l.end()
		return nil
	}
	w := &waiter{}
	for {
		w.woken = make(chan struct{})
		if w.passed == 0 {
			l.queue = append(l.queue, w)
		} else { // overtaken: back to where it was
			l.queue = slices.Insert(l.queue, 0, w)
		}
		l.end()
		select {
		case <-w.woken:
		case <-ctx.Done():
			return l.leave(ctx, w, nil)
		}
		if w.owner {
			return nil
		}
		l.begin()
		l.awake = false
		if l.tryWriteLocked() {
			l.end()
			return nil
		}
		w.passed++
	}
}

func (l *rwLock) tryWriteLocked() bool {
	free := !l.writing && l.emptyLocked(&l.readers) && l.emptyLocked(&l.joiners)
	l.writing = l.writing || free
	return free
}

// yieldLocked lets others run and tries again, some times. Where the lock is
// held for microseconds that costs less than to sleep and be woken.
func (l *rwLock) yieldLocked(try func() bool) bool {
	for range l.yields {
		was := l.left.Load()
		l.end()
		for range spins {
			if l.left.Load() != was {
				break
			}
		}
		if l.left.Load() == was {
			runtime.Gosched()
		}
		l.begin()
		if try() {
			return true
		}
	}
	return false
}

// leave takes a waiter whose ctx has ended out of line: of a crowd, or, with
// nil, of the writers. If it was woken just then, what it was woken with goes
// to the next.
func (l *rwLock) leave(ctx context.Context, w *waiter, c *crowd) error {
	l.begin()
	defer l.end()
	line := &l.queue
	if c != nil {
		line = &c.waiting
	}
	if i := slices.Index(*line, w); i >= 0 {
		*line = slices.Delete(*line, i, i+1)
		// Others of the crowd that is inside may have waited for w alone.
		for _, in := range [2]*crowd{&l.readers, &l.joiners} {
			if l.openLocked(in) {
				l.letInLocked(in)
			}
		}
		return context.Cause(ctx)
	}
	switch {
	case c != nil:
		l.inside.Add(-c.one)
	case w.owner:
		l.writing = false
	default:
		l.awake = false
	}
	l.nextLocked(c)
	return context.Cause(ctx)
}

// openLocked says whether one more may join a crowd without waiting.
func (l *rwLock) openLocked(c *crowd) bool {
	other := &l.readers
	if c == other {
		other = &l.joiners
	}
	return !l.writing && l.claims == 0 && len(l.queue) == 0 && l.emptyLocked(other) && len(other.waiting) == 0
}

func (l *rwLock) enter(ctx context.Context, c *crowd) error {
	for {
		was := l.inside.Load()
		if was&^c.mask != 0 { // slow, or the other crowd
			break
		}
		if l.inside.CompareAndSwap(was, was+c.one) {
			return nil
		}
	}
	l.begin()
	open := func() bool { return l.openLocked(c) }
	if open() || l.yieldLocked(open) {
		l.inside.Add(c.one)
		l.end()
		return nil
	}
	w := &waiter{woken: make(chan struct{})}
	c.waiting = append(c.waiting, w)
	l.end()
	select {
	case <-w.woken:
		return nil
	case <-ctx.Done():
		return l.leave(ctx, w, c)
	}
}

func (l *rwLock) exit(c *crowd) {
	for {
		was := l.inside.Load()
		if was&slow != 0 {
			break
		}
		if l.inside.CompareAndSwap(was, was-c.one) {
			return
		}
	}
	l.begin()
	l.inside.Add(-c.one)
	l.left.Add(1)
	l.nextLocked(c)
	l.end()
}

// RLock lets a reader in, or returns the cause of ctx's end.
func (l *rwLock) RLock(ctx context.Context) error { return l.enter(ctx, &l.readers) }

// RUnlock lets a reader out.
func (l *rwLock) RUnlock() { l.exit(&l.readers) }

// Join lets a joiner in, or returns the cause of ctx's end.
func (l *rwLock) Join(ctx context.Context) error { return l.enter(ctx, &l.joiners) }

// Leave lets a joiner out.
func (l *rwLock) Leave() { l.exit(&l.joiners) }

// letPass has a reader step aside for a writer who waits, if there is one, and
// says so. The reader comes back in before it returns.
func (l *rwLock) letPass(ctx context.Context) (bool, error) {
	if l.inside.Load()&slow == 0 {
		return false, nil
	}
	l.begin()
	if l.claims == 0 && len(l.queue) == 0 {
		l.end()
		return false, nil
	}
	l.inside.Add(-l.readers.one)
	l.left.Add(1)
	l.nextLocked(&l.readers)
	l.end()
	return true, l.RLock(ctx)
}

// Unlock lets the writer out.
func (l *rwLock) Unlock() {
	l.begin()
	l.writing = false
	l.left.Add(1)
	l.nextLocked(nil)
	l.end()
}

func (l *rwLock) letInLocked(c *crowd) {
	l.inside.Add(uint64(len(c.waiting)) * c.one)
	for _, w := range c.waiting {
		close(w.woken)
	}
	clear(c.waiting)
	c.waiting = c.waiting[:0]
}

// nextLocked wakes whoever is next if the lock is free; last is the crowd that
// was inside, nil a writer.
func (l *rwLock) nextLocked(last *crowd) {
	if l.writing || !l.emptyLocked(&l.readers) || !l.emptyLocked(&l.joiners) {
		return
	}
	order := [3]*crowd{&l.readers, &l.joiners, nil}
	switch last {
	case &l.readers:
		order = [3]*crowd{&l.joiners, nil, &l.readers}
	case &l.joiners:
		order = [3]*crowd{nil, &l.readers, &l.joiners}
	}
	for _, c := range order {
		switch {
		case c == nil && l.claims > 0:
			return // it looks again at once; if it gives up, somebody is inside
		case c == nil && len(l.queue) > 0:
			l.wakeWriterLocked()
			return
		case c != nil && len(c.waiting) > 0:
			l.letInLocked(c)
			return
		}
	}
}

func (l *rwLock) wakeWriterLocked() {
	w := l.queue[0]
	switch {
	case w.passed >= patience:
		w.owner, l.writing = true, true
	case l.awake:
		return
	default:
		l.awake = true
	}
	l.queue = l.queue[1:]
	close(w.woken)
}
