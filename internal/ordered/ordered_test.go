package ordered

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestResultsComeInOrderAndInParallel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const jobs, workers = 40, 4
		start := time.Now()
		var got []int
		err := Run(t.Context(), workers, 16, func(submit func(func() int) bool) error {
			for i := range jobs {
				submit(func() int {
					time.Sleep(time.Duration(1+i%3) * time.Second)
					return i
				})
			}
			return nil
		}, func(v int) error {
			got = append(got, v)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != jobs || !slices.IsSorted(got) {
			t.Errorf("results %v", got)
		}
		if took := time.Since(start); took > 30*time.Second { // 79 s one after the other
			t.Errorf("took %v of fake time", took)
		}
	})
}

func TestAheadBoundsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const ahead = 8
		var given, taken atomic.Int64
		err := Run(t.Context(), 2, ahead, func(submit func(func() int) bool) error {
			for range 100 {
				if n := given.Add(1) - taken.Load(); n > ahead+1 {
					t.Errorf("%d under way", n)
				}
				submit(func() int { return 0 })
			}
			return nil
		}, func(int) error {
			time.Sleep(time.Second)
			taken.Add(1)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestErrorsEndEverything(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad")
	endless := func(submit func(func() int) bool) error {
		for submit(func() int { return 1 }) {
		}
		return nil
	}
	n := 0
	if err := Run(t.Context(), 3, 8, endless, func(int) error {
		if n++; n == 5 {
			return bad
		}
		return nil
	}); !errors.Is(err, bad) {
		t.Errorf("consumer's error: got %v", err)
	}
	if err := Run(t.Context(), 3, 8, func(submit func(func() int) bool) error {
		submit(func() int { return 1 })
		return bad
	}, func(int) error { return nil }); !errors.Is(err, bad) {
		t.Errorf("producer's error: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := Run(ctx, 3, 8, endless, func(int) error {
		cancel()
		return nil
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}
