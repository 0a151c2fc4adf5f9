package fstree

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// TestSegmentsAgainstBytes compares segments with an array of bytes and marks.
func TestSegmentsAgainstBytes(t *testing.T) {
	const size, sector = 4096, 16
	rapid.Check(t, func(t *rapid.T) {
		var s segments
		content, has := make([]byte, size), make([]bool, size)
		next := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				off := rapid.IntRange(0, size-1).Draw(t, "off")
				p := make([]byte, rapid.IntRange(1, min(300, size-off)).Draw(t, "n"))
				next++
				for i := range p {
					p[i] = next
					content[off+i], has[off+i] = next, true
				}
				s.write(p, uint64(off))
			},
			"append": func(t *rapid.T) {
				off := int(s.end())
				if off == size {
					t.Skip("full")
				}
				p := make([]byte, rapid.IntRange(1, min(50, size-off)).Draw(t, "n"))
				next++
				for i := range p {
					p[i] = next
					content[off+i], has[off+i] = next, true
				}
				s.write(p, uint64(off))
			},
			"cut": func(t *rapid.T) {
				from := rapid.IntRange(0, size).Draw(t, "from")
				to := rapid.IntRange(from, size).Draw(t, "to")
				clear(content[from:to])
				clear(has[from:to])
				s.cut(uint64(from), uint64(to))
			},
			"": func(t *rapid.T) {
				got, n := make([]byte, size), uint64(0)
				s.copyTo(got, 0)
				if !bytes.Equal(got, content) {
					t.Fatal("the contents differ")
				}
				for i := range s {
					if len(s[i].b) == 0 || i > 0 && s[i].off < s[i-1].end() {
						t.Fatalf("segment %d of %d is empty or overlaps", i, len(s))
					}
				}
				untouched := func(from int) (n uint64) {
					for at := from; at < size; at += sector {
						free := true
						for _, h := range has[at : at+sector] {
							free = free && !h
						}
						if free {
							n += sector
						}
					}
					return n
				}
				from := rapid.IntRange(0, size/sector-1).Draw(t, "sector") * sector
				if got, want := s.untouched(uint64(from), size, sector), untouched(from); got != want {
					t.Fatalf("untouched from %d: %d, want %d", from, got, want)
				}
				for _, r := range s.spans(sector) {
					n += r.to - r.from
				}
				if want := size - untouched(0); n != want {
					t.Fatalf("spans of %d bytes, want %d", n, want)
				}
			},
		})
	})
}
