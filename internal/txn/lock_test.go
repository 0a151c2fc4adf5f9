package txn

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestLockKeepsApart: one writer alone, readers together or joiners together, whatever is
// cancelled in between, and everybody who is not gets in.
func TestLockKeepsApart(t *testing.T) {
	var l rwLock
	l.init()
	var readers, joiners, writers, most atomic.Int32
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 1))
			for range 2000 {
				ctx, cancel := context.WithCancel(t.Context())
				if rnd.IntN(3) == 0 {
					go cancel()
				}
				switch rnd.IntN(3) {
				case 0:
					if l.Lock(ctx) == nil {
						if writers.Add(1) != 1 || readers.Load() != 0 || joiners.Load() != 0 {
							t.Error("a writer is not alone")
						}
						writers.Add(-1)
						l.Unlock()
					}
				case 1:
					if l.RLock(ctx) == nil {
						n := readers.Add(1)
						for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
						}
						if writers.Load() != 0 || joiners.Load() != 0 {
							t.Error("a reader met a writer or a joiner")
						}
						readers.Add(-1)
						l.RUnlock()
					}
				case 2:
					if l.Join(ctx) == nil {
						joiners.Add(1)
						if writers.Load() != 0 || readers.Load() != 0 {
							t.Error("a joiner met a writer or a reader")
						}
						joiners.Add(-1)
						l.Leave()
					}
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if l.writing || l.awake || l.inside.Load() != 0 || len(l.queue)+len(l.readers.waiting)+len(l.joiners.waiting) != 0 {
		t.Errorf("left behind: %+v", &l)
	}
}

// TestLockOrder: readers share, and joiners share; they do not overtake who
// waits, whom a stream of them would starve; then all kinds take turns.
func TestLockOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		var l rwLock
		l.init()
		var mu sync.Mutex
		var order []string // protected by mu
		enter := func(name string, lock func(context.Context) error, unlock func()) {
			go func() {
				if err := lock(ctx); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				time.Sleep(time.Second)
				unlock()
			}()
			synctest.Wait()
		}
		enter("r1", l.RLock, l.RUnlock)
		enter("r2", l.RLock, l.RUnlock)
		enter("w1", l.Lock, l.Unlock)
		enter("w2", l.Lock, l.Unlock)
		enter("j1", l.Join, l.Leave)
		enter("r3", l.RLock, l.RUnlock)
		enter("j2", l.Join, l.Leave)
		impatient, cancel := context.WithTimeoutCause(ctx, time.Millisecond, errors.New("why"))
		defer cancel()
		if err := l.Lock(impatient); err == nil || err.Error() != "why" {
			t.Errorf("cancelled: %v", err)
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		want := []string{"r1", "r2", "j1", "j2", "w1", "r3", "w2"}
		if len(order) > 4 {
			slices.Sort(order[2:4]) // they come in together
		}
		if !slices.Equal(order, want) {
			t.Fatalf("order %v, want %v", order, want)
		}
	})
}
