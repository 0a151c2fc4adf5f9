package disk

import "testing"

// The kernel leaves state 2 behind when it has finished a replacement: that is
// what the test of package check sees, and here stands for the other states.
func TestReplaceUnderWay(t *testing.T) {
	for state, want := range []bool{false, true, false, false, true, false} {
		if got := (&DevReplaceItem{State: uint64(state)}).UnderWay(); got != want {
			t.Errorf("state %d: under way = %v, want %v", state, got, want)
		}
	}
}
