package oracle

import (
	"testing"

	"gobtrfs/internal/manifest"
)

// HostOptions choose what HostManifest does. The zero value gives every key.
type HostOptions struct {
	NoContents bool // do not read files: no sha256. Default: false
}

// Range is a byte range [Start, End).
type Range struct{ Start, End int64 }

// Differences compares two lists of entries and returns one line for each
// difference, in the words of `gobtrfs manifest --compare`. Only keys in sel
// are looked at.
func Differences(t testing.TB, want, got []manifest.Entry, sel manifest.Fields) []string {
	t.Helper()
	c, err := manifest.NewComparison(func(yield func(manifest.Entry, error) bool) {
		for _, e := range want {
			if !yield(e, nil) {
				return
			}
		}
	}, sel)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for i := range got {
		for _, d := range c.Add(&got[i]) {
			lines = append(lines, d.String())
		}
	}
	for _, d := range c.Missing() {
		lines = append(lines, d.String())
	}
	return lines
}

// RequireSame fails the test on any difference between two lists of entries, in
// the keys in sel or in their order, and shows the first few.
func RequireSame(t testing.TB, want, got []manifest.Entry, sel manifest.Fields) {
	t.Helper()
	const shown = 20
	lines := Differences(t, want, got, sel)
	if len(lines) == 0 {
		for i := range want {
			if want[i].Path != got[i].Path {
				t.Fatalf("entry %d is %q, want %q", i, got[i].Path, want[i].Path)
			}
		}
		return
	}
	for _, l := range lines[:min(shown, len(lines))] {
		t.Error(l)
	}
	if len(lines) > shown {
		t.Errorf("… %d differences in all", len(lines))
	}
	t.FailNow()
}
