package lockrank

import (
	"testing"

	"gobtrfs/internal/invariants"
)

func TestWrongOrderPanicsInCheckingBuilds(t *testing.T) {
	var outer, inner, twin Mutex
	outer.Init(1, 0)
	inner.Init(2, 1)
	twin.Init(2, 2)
	for _, c := range []struct {
		name          string
		first, second *Mutex
		want          bool // panic
	}{
		{"outer then inner", &outer, &inner, false},
		{"inner then outer", &inner, &outer, true},
		{"same rank ascending", &inner, &twin, false},
		{"same rank descending", &twin, &inner, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.first.Lock()
			defer c.first.Unlock()
			defer func() {
				if got := recover() != nil; got != (c.want && invariants.Enabled) {
					t.Errorf("panicked = %v, want %v", got, c.want && invariants.Enabled)
				}
			}()
			c.second.Lock()
			defer c.second.Unlock() // only the order of locking matters
		})
	}
}

func TestOnlyTheHolderIsHolder(t *testing.T) {
	var m Mutex
	m.Init(1, 0)
	m.Lock()
	m.AssertHeld()
	if m.TryLock() {
		t.Error("TryLock of a held mutex succeeded")
	}
	m.Unlock()
	defer func() {
		if got := recover() != nil; got != invariants.Enabled {
			t.Errorf("AssertHeld without the lock: panicked = %v, want %v", got, invariants.Enabled)
		}
	}()
	m.AssertHeld()
}
