package invariants

import "testing"

func TestViolatedPanicsOnlyWhenEnabled(t *testing.T) {
	defer func() {
		if got := recover() != nil; got != Enabled {
			t.Errorf("panicked = %v, want %v", got, Enabled)
		}
	}()
	if err := Violated("%d is not %d", 1, 2); err == nil || err.Error() != "invariant violated: 1 is not 2" {
		t.Errorf("got %v", err)
	}
}
