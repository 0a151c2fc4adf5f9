package scrub

import "testing"

// TestWindowsCutNoTreeBlock: what is read at once never ends within a tree block,
// and always goes on.
func TestWindowsCutNoTreeBlock(t *testing.T) {
	const kib = 1 << 10
	for _, c := range []struct {
		name       string
		pieces     []piece
		at, length uint64
		want       uint64
	}{
		{"data is cut anywhere", []piece{{off: 0, length: 1024 * kib}}, 256 * kib, 1024 * kib, 512 * kib},
		{"the end of the unit", []piece{{off: 0, length: 300 * kib}}, 256 * kib, 300 * kib, 300 * kib},
		{"a tree block across", []piece{{off: 0, length: 224 * kib}, {off: 224 * kib, length: 64 * kib, tree: true}}, 0, 288 * kib, 224 * kib},
		{"which the next window begins with", []piece{{off: 224 * kib, length: 64 * kib, tree: true}}, 224 * kib, 288 * kib, 288 * kib},
		{"a tree block up to the end", []piece{{off: 192 * kib, length: 64 * kib, tree: true}}, 0, 512 * kib, 256 * kib},
	} {
		if got := windowEnd(c.pieces, c.at, c.length); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
