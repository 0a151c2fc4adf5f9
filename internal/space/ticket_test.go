package space

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// T6, I4, I7: cancellation races with the grant. Whoever has no error has its
// bytes, whoever has an error has none, to the byte. Mutations that turned it
// red: Cancel that does not look whether the ticket is still queued; wait that
// returns the context's error although the grant came first.
func TestCancelRacesGrant(t *testing.T) {
	rounds := 1_000_000
	switch {
	case testing.Short():
		rounds = 10_000
	case raceEnabled:
		rounds = 60_000
	}
	t.Parallel()
	s, release := full(t, MiB) // room for one of them at a time
	d := s.Data()
	before := d.Usage().Promised
	var granted, cancelled atomic.Int64
	var wg sync.WaitGroup
	const workers = 8
	for w := range workers {
		wg.Go(func() {
			for k := range rounds / workers {
				ctx, cancel := context.WithCancel(context.Background())
				if (k+w)%2 == 0 {
					go cancel()
				}
				err := d.Reserve(ctx, MiB, ClassNormal)
				if (k+w)%5 == 0 {
					runtime.Gosched() // so that others must queue
				}
				switch {
				case err == nil:
					granted.Add(1)
					d.Release(MiB / 2)
					d.Release(MiB / 2)
				case errors.Is(err, context.Canceled):
					cancelled.Add(1)
				default:
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	release()
	if u := d.Usage(); u.Promised != before || u.Waiting != 0 {
		t.Errorf("promised %v, want %v; %d wait", u.Promised, before, u.Waiting)
	}
	if granted.Load() == 0 || cancelled.Load() == 0 {
		t.Errorf("%d granted, %d cancelled: no race happened", granted.Load(), cancelled.Load())
	}
	t.Logf("%d granted, %d cancelled", granted.Load(), cancelled.Load())
	s.verify()
}

// T6: the same where the waiter is surely asleep when both come.
func TestCancelMeetsGrantWhileAsleep(t *testing.T) {
	rounds := 20_000
	if testing.Short() || raceEnabled {
		rounds = 1_000
	}
	t.Parallel()
	hold := make(chan struct{})
	s := newSim(t, simConfig{Config: Config{DataStages: []Stage{{Name: "hold", Lane: LanePatient,
		Run: func(ctx context.Context, _ *Info, _ Bytes) error {
			select {
			case <-hold:
			case <-ctx.Done():
			}
			return nil
		}}}}, devs: []Bytes{1300 * MiB}, dataSize: 900 * MiB})
	s.setFail(func(int) error { return ErrNoSpace })
	d := s.Data()
	total := d.Usage().Total
	s.must(d.Reserve(t.Context(), total, ClassNormal))
	won := [2]int{}
	for range rounds {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- d.Reserve(ctx, MiB, ClassNormal) }()
		for d.free.v.Load()&waitingBit == 0 {
			runtime.Gosched() // until it is queued
		}
		go cancel()
		d.Release(MiB)
		if err := <-done; err == nil {
			won[0]++ // it has what was released
		} else {
			won[1]++
			s.must(d.Reserve(t.Context(), MiB, ClassNormal))
		}
	}
	close(hold)
	if u := d.Usage(); u.Promised != total || won[0] == 0 {
		t.Errorf("promised %v of %v; grants won %d, cancels %d", u.Promised, total, won[0], won[1])
	}
}

// full is a filesystem whose data is all promised and that cannot grow; the
// returned func ends the stage on which normal tickets wait.
func full(t *testing.T, held Bytes) (*sim, func()) {
	hold := make(chan struct{})
	stage := Stage{Name: "hold", Lane: LanePatient, Run: func(ctx context.Context, _ *Info, _ Bytes) error {
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil
	}}
	s := newSim(t, simConfig{
		Config: Config{DataStages: []Stage{stage}, MetadataStages: []Stage{stage}},
		devs:   []Bytes{2 * GiB}, dataSize: GiB, metadata: 256 * MiB,
	})
	s.setFail(func(int) error { return ErrNoSpace })
	s.must(s.Data().Reserve(t.Context(), s.Data().Usage().Total-held, ClassNormal))
	return s, sync.OnceFunc(func() { close(hold) })
}

// T7, I11: a big ticket is not overtaken by later small ones, neither on the
// way in nor when bytes come back; and when it fails, those behind it are
// served. Mutations that turned it red: fast path without the waiting bit;
// grantAll that goes on past a ticket that does not fit; failHopeless without
// another round of grants.
func TestBigTicketIsNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, release := full(t, 10*MiB)
		d := s.Data()
		var order []string
		var mu sync.Mutex
		ask := func(name string, n Bytes) {
			if err := d.Reserve(t.Context(), n, ClassNormal); err != nil {
				name += " failed"
			}
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
		}
		go ask("big", 100*MiB)
		synctest.Wait()
		for k := range 3 {
			go ask(fmt.Sprint("small ", k), MiB)
			synctest.Wait()
		}
		if len(order) != 0 {
			t.Errorf("served %v ahead of the big one", order)
		}
		for range 9 {
			d.Release(10 * MiB)
			synctest.Wait()
		}
		if fmt.Sprint(order) != "[big]" {
			t.Errorf("served %v, want the big one as soon as it fits", order)
		}
		for range 3 {
			d.Release(MiB)
			synctest.Wait()
		}
		if got, want := fmt.Sprint(order), "[big small 0 small 1 small 2]"; got != want {
			t.Errorf("served %v, want %v", got, want)
		}
		order = nil
		go ask("huge", 500*MiB)
		synctest.Wait()
		go ask("behind", 0)
		synctest.Wait()
		if len(order) != 0 {
			t.Errorf("served %v while the huge one still waits", order)
		}
		release()
		synctest.Wait()
		slices.Sort(order)
		if got, want := fmt.Sprint(order), "[behind huge failed]"; got != want {
			t.Errorf("served %v, want %v", got, want)
		}
	})
}

// T7: a big ticket that is cancelled lets those behind it through at once.
// Mutation that turned it red: Cancel without pump.
func TestCancelledTicketClearsTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, release := full(t, 10*MiB)
		defer release()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = s.Data().Reserve(ctx, 100*MiB, ClassNormal) }()
		synctest.Wait()
		small := make(chan error, 1)
		go func() { small <- s.Data().Reserve(t.Context(), MiB, ClassNormal) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		select {
		case err := <-small:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("the small one still waits")
		}
	})
}

// T7, I1: requests inside a transaction go before all others, and never wait
// for a commit, which would wait for them. Here the commit stage returns only
// when the transaction has ended, and the transaction ends only when its
// request is answered. Mutations that turned it red (it hangs): stages() giving
// ClassTransaction patient stages; failHopeless waiting for the patient lane
// whoever asks; one queue for cleaner and transactions.
func TestTransactionDoesNotWaitForCommit(t *testing.T) {
	for _, first := range []Class{ClassNormal, ClassCleaner} {
		t.Run(fmt.Sprint("behind class ", first), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan struct{})
				commit := Stage{Name: "commit", Lane: LanePatient, Run: func(ctx context.Context, _ *Info, _ Bytes) error {
					select {
					case <-ended:
					case <-ctx.Done():
					}
					return nil
				}}
				s := newSim(t, simConfig{Config: Config{MetadataStages: []Stage{commit}}, devs: []Bytes{2 * GiB}})
				s.setFail(func(int) error { return ErrNoSpace })
				m := s.Metadata()
				s.must(m.Reserve(t.Context(), m.Usage().Total, ClassTransaction))
				outside := make(chan error, 1)
				go func() { outside <- m.Reserve(t.Context(), 2*GiB, first) }()
				synctest.Wait()
				go func() { // the holder of the transaction
					defer close(ended)
					if err := m.Reserve(t.Context(), GiB, ClassTransaction); !errors.Is(err, ErrNoSpace) {
						t.Errorf("inside the transaction: %v", err)
					}
					if err := m.Reserve(t.Context(), 64*KiB, ClassTransaction); err != nil {
						t.Errorf("what fits was refused: %v", err)
					}
				}()
				<-ended
				if err := <-outside; !errors.Is(err, ErrNoSpace) {
					t.Errorf("outside: %v", err)
				}
			})
		})
	}
}

// T7: what makes room may draw on the global reserve at the last, down to a
// tenth of it; others may not. Mutations that turned it red: steal without the
// tenth; ClassNormal allowed to steal.
func TestStealingLeavesATenth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, simConfig{devs: []Bytes{GiB}})
		s.setFail(func(int) error { return ErrNoSpace })
		m, g := s.Metadata(), s.GlobalReserve()
		g.Resize(100 * MiB)
		taken := Bytes(0)
		for m.Reserve(t.Context(), MiB, ClassTransaction) == nil {
			taken += MiB
		}
		if err := m.Reserve(t.Context(), 4*MiB, ClassNormal); !errors.Is(err, ErrNoSpace) {
			t.Errorf("normal: %v", err)
		}
		for k := range 30 {
			err := m.Reserve(t.Context(), 4*MiB, []Class{ClassSteal, ClassCleaner}[k%2])
			if (err == nil) != (k < 22) {
				t.Errorf("steal %d: %v", k, err)
			}
		}
		if have := g.Available(); have != 12*MiB {
			t.Errorf("the reserve has %v left, want 12 MiB", have)
		}
		m.Release(taken)
		s.commit() // a commit refills it before anybody else is served
		if have := g.Available(); have != 100*MiB {
			t.Errorf("after the commit it has %v, want 100 MiB", have)
		}
		s.verify()
	})
}

// I5: "no space" explains itself and comes only after every stage of the class
// has run, in order, after the request. A stage that makes room ends the search
// for it. Mutations that turned it red: todo empty from the start; running set
// for tickets that come while the stage runs; rounds not refilled after
// progress.
func TestNoSpaceIsTheLastResort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *sim
		gain := 0
		s = &sim{}
		stages := []Stage{
			{Name: "cheap", BeforeGrowth: true, Run: func(context.Context, *Info, Bytes) error { s.stages = append(s.stages, "cheap"); return nil }},
			{Name: "flush", Lane: LanePatient, Run: func(_ context.Context, i *Info, _ Bytes) error {
				time.Sleep(time.Second)
				s.stages = append(s.stages, "flush")
				if gain > 0 {
					gain--
					i.Release(MiB)
				}
				return nil
			}},
			{Name: "commit", Lane: LanePatient, Run: func(context.Context, *Info, Bytes) error {
				time.Sleep(time.Second)
				s.stages = append(s.stages, "commit")
				return nil
			}},
		}
		*s = *newSim(t, simConfig{Config: Config{DataStages: stages}, devs: []Bytes{2 * GiB}, dataSize: GiB})
		s.FS.cfg.Writer = s
		s.setFail(func(int) error { s.stages = append(s.stages, "grow"); return ErrNoSpace })
		d := s.Data()
		s.must(d.Reserve(t.Context(), d.Usage().Total, ClassNormal))
		err := d.Reserve(t.Context(), MiB, ClassNormal)
		var e *SpaceError
		if !errors.As(err, &e) || !errors.Is(err, syscall.ENOSPC) || e.Need != MiB || len(e.Unallocated) != 1 || len(e.Tried) != 3 {
			t.Errorf("got %v", err)
		}
		if got, want := fmt.Sprint(s.stages), "[cheap grow flush commit]"; got != want {
			t.Errorf("ran %v, want %v", got, want)
		}
		// Each run frees a third of what is needed: the stages are run again.
		s.stages, gain = nil, 3
		if err := d.Reserve(t.Context(), 3*MiB, ClassNormal); err != nil {
			t.Errorf("stages that make progress are not repeated: %v", err)
		}
		if got, want := fmt.Sprint(s.stages), "[cheap flush commit cheap flush commit cheap flush]"; got != want {
			t.Errorf("ran %v, want %v", got, want)
		}
		// A ticket that comes while the last stage runs gets its own run of it.
		s.stages = nil
		second := make(chan error)
		go func() { _ = d.Reserve(t.Context(), MiB, ClassNormal) }()
		time.Sleep(1500 * time.Millisecond)
		go func() { second <- d.Reserve(t.Context(), MiB, ClassNormal) }()
		<-second
		if got, want := fmt.Sprint(s.stages), "[cheap flush commit cheap flush commit]"; got != want {
			t.Errorf("ran %v, want %v", got, want)
		}
	})
}

// Without waiting: at once or not at all; an emergency takes what exists even
// if it was promised. Mutation that turned it red: reserveNow that ignores
// queued tickets.
func TestClassesThatDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, release := full(t, MiB)
		defer release()
		d := s.Data()
		if err := d.Reserve(t.Context(), 2*MiB, ClassNoWait); !errors.Is(err, ErrNoSpace) {
			t.Errorf("too much: %v", err)
		}
		go func() { _ = d.Reserve(t.Context(), 50*MiB, ClassNormal) }()
		synctest.Wait()
		if err := d.Reserve(t.Context(), 4096, ClassNoWait); !errors.Is(err, ErrNoSpace) {
			t.Errorf("overtook a ticket: %v", err)
		}
		if err := d.Reserve(t.Context(), 2*MiB, ClassEmergency); err != nil {
			t.Errorf("emergency: %v", err)
		}
		if err := d.Reserve(t.Context(), 2*GiB, ClassEmergency); !errors.Is(err, ErrNoSpace) {
			t.Errorf("emergency beyond what exists: %v", err)
		}
		d.Release(2 * MiB)
	})
}

// I13: Close ends all waiting, and no goroutine is left.
func TestCloseEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := full(t, 0)
		errs := make(chan error, 20)
		for k := range 20 {
			c := []Class{ClassNormal, ClassTransaction, ClassCleaner, ClassSteal}[k%4]
			go func() { errs <- s.Data().Reserve(t.Context(), GiB, c) }()
		}
		synctest.Wait()
		s.Close()
		for range 20 {
			if err := <-errs; !errors.Is(err, ErrClosed) && !errors.Is(err, ErrNoSpace) {
				t.Errorf("got %v", err)
			}
		}
		if _, err := s.Data().AllocExtent(t.Context(), ExtentRequest{Want: 4096}); !errors.Is(err, ErrClosed) {
			t.Errorf("AllocExtent after Close: %v", err)
		}
		if err := s.Data().Reserve(t.Context(), 4096, ClassNormal); !errors.Is(err, ErrClosed) {
			t.Errorf("Reserve after Close: %v", err)
		}
	})
}
