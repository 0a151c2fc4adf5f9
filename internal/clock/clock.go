// Package clock is where the library takes its time from, so that what is
// written to disk and how long anything waits can be decided by the caller.
package clock

import (
	"context"
	"sync"
	"time"
)

// Clock tells the time and waits. Implementations are safe for concurrent use.
type Clock interface {
	// Now is the current time.
	Now() time.Time
	// Sleep waits for d, or until ctx ends, whose cause it then returns.
	Sleep(ctx context.Context, d time.Duration) error
}

// System is the clock of the operating system. Inside a testing/synctest
// bubble it is the bubble's fake clock.
type System struct{}

// Now is time.Now.
func (System) Now() time.Time { return time.Now() }

// Sleep waits on a timer.
func (System) Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Manual is a clock that moves only when somebody sleeps on it or moves it:
// for reproducible images and for tests. The zero value stands at the zero
// time.
type Manual struct {
	mu  sync.Mutex
	now time.Time // protected by mu
}

// NewManual makes a clock that stands at t.
func NewManual(t time.Time) *Manual { return &Manual{now: t} }

// Now is the time to which the clock was last moved.
func (m *Manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// Advance moves the clock by d.
func (m *Manual) Advance(d time.Duration) {
	m.mu.Lock()
	m.now = m.now.Add(d)
	m.mu.Unlock()
}

// Sleep moves the clock by d and returns at once.
func (m *Manual) Sleep(ctx context.Context, d time.Duration) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if d > 0 {
		m.Advance(d)
	}
	return nil
}
