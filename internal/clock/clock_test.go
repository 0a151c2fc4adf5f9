package clock

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestSystemSleepsAndCanBeWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := System{}.Now()
		if err := (System{}).Sleep(t.Context(), time.Hour); err != nil {
			t.Fatal(err)
		}
		if got := (System{}).Now().Sub(start); got != time.Hour {
			t.Errorf("slept %v, want 1h", got)
		}
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { time.Sleep(time.Minute); cancel(why) }()
		if err := (System{}).Sleep(ctx, time.Hour); !errors.Is(err, why) {
			t.Errorf("got %v, want the cause", err)
		}
		if err := (System{}).Sleep(ctx, 0); !errors.Is(err, why) {
			t.Errorf("zero sleep under an ended context: got %v, want the cause", err)
		}
	})
}

func TestManualMovesOnlyWhenTold(t *testing.T) {
	m := NewManual(time.Unix(100, 0))
	m.Advance(time.Second)
	if err := m.Sleep(t.Context(), 2*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := m.Now(); !got.Equal(time.Unix(103, 0)) {
		t.Errorf("now is %v, want 103 s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Sleep(ctx, time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}
