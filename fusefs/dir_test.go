//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"strings"
	"testing"
)

func TestAdviceFollowsWhatIsLookedUp(t *testing.T) {
	t.Parallel()
	var a advice
	if a.listing(true) {
		t.Error("attributes are given though nobody wanted them")
	}
	for range 3 {
		a.wanted()
		a.wanted()
		for i := range fullListings {
			// The rest of a large directory does not count.
			if !a.listing(true) || i+1 < fullListings && !a.listing(false) {
				t.Fatalf("directory %d is listed without attributes", i)
			}
		}
		if a.listing(true) || a.listing(false) {
			t.Fatal("no listing tries whether they are still wanted")
		}
	}
}

func TestNamesThatAreNone(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"a": true, "...": true, "\xff\n": true, strings.Repeat("n", 255): true,
		"": false, ".": false, "..": false, "a/b": false, "a\x00": false, strings.Repeat("n", 256): false,
	} {
		if got := validName(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}
