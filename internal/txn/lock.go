package txn

import (
	"context"
	"slices"

	"gobtrfs/internal/lockrank"
)

// rwLock lets one writer or any number of readers in. Unlike sync.RWMutex it
// can be waited for under a context, and I/O is allowed while it is held.
//
// Who waits longest and how: readers do not overtake a waiting writer, so
// writers do not starve. A writer that leaves lets all waiting readers in, so
// readers wait for one writer at most. Among themselves writers may overtake
// (whoever runs takes a free lock, which saves a switch between goroutines for
// every operation), but none that was overtaken patience times.
type rwLock struct {
	mu      lockrank.Mutex
	readers int       // inside; protected by mu, as everything below
	writing bool      // a writer is inside, or the lock was handed to one
	awake   bool      // a writer was woken and has not tried its luck yet
	reading []*waiter // waiting, first come first
	queue   []*waiter // writers waiting, first come first
}

// waiter is somebody in line. woken is closed once.
type waiter struct {
	woken  chan struct{}
	owner  bool // the lock was handed over; valid when woken is closed
	passed int  // how often it was woken and somebody else had been faster
}

// patience is how often a writer lets others overtake it.
const patience = 4

// rankLock: no lock is taken under rwLock.mu.
const rankLock lockrank.Rank = 99

func (l *rwLock) init() { l.mu.Init(rankLock, 0) }

// Lock lets a writer in, or returns the cause of ctx's end.
func (l *rwLock) Lock(ctx context.Context) error {
	l.mu.Lock()
	if !l.writing && l.readers == 0 {
		l.writing = true
		l.mu.Unlock()
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
		l.mu.Unlock()
		select {
		case <-w.woken:
		case <-ctx.Done():
			return l.leave(ctx, w, &l.queue)
		}
		if w.owner {
			return nil
		}
		l.mu.Lock()
		l.awake = false
		if !l.writing && l.readers == 0 {
			l.writing = true
			l.mu.Unlock()
			return nil
		}
		w.passed++
	}
}

// leave takes a waiter whose ctx has ended out of line. If it was woken just
// then, what it was woken with goes to the next.
func (l *rwLock) leave(ctx context.Context, w *waiter, line *[]*waiter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(*line, w); i >= 0 {
		*line = slices.Delete(*line, i, i+1)
		// Readers may have waited for this writer alone.
		if !l.writing && len(l.queue) == 0 {
			l.letReadersIn()
		}
		return context.Cause(ctx)
	}
	switch {
	case line == &l.reading:
		l.readers--
	case w.owner:
		l.writing = false
	default:
		l.awake = false
	}
	l.next()
	return context.Cause(ctx)
}

// RLock lets a reader in, or returns the cause of ctx's end.
func (l *rwLock) RLock(ctx context.Context) error {
	l.mu.Lock()
	if !l.writing && len(l.queue) == 0 {
		l.readers++
		l.mu.Unlock()
		return nil
	}
	w := &waiter{woken: make(chan struct{})}
	l.reading = append(l.reading, w)
	l.mu.Unlock()
	select {
	case <-w.woken:
		return nil
	case <-ctx.Done():
		return l.leave(ctx, w, &l.reading)
	}
}

// Unlock lets the writer out.
func (l *rwLock) Unlock() {
	l.mu.Lock()
	l.writing = false
	if len(l.reading) > 0 {
		l.letReadersIn()
	} else {
		l.next()
	}
	l.mu.Unlock()
}

// RUnlock lets a reader out.
func (l *rwLock) RUnlock() {
	l.mu.Lock()
	l.readers--
	l.next()
	l.mu.Unlock()
}

func (l *rwLock) letReadersIn() {
	for _, w := range l.reading {
		l.readers++
		close(w.woken)
	}
	l.reading = l.reading[:0]
}

// next wakes whoever is next if the lock is free.
func (l *rwLock) next() {
	if l.writing || l.readers > 0 {
		return
	}
	if len(l.queue) == 0 {
		l.letReadersIn()
		return
	}
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
