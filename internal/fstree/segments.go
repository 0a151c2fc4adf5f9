package fstree

import (
	"cmp"
	"slices"
)

// segmentBytes is the most that one segment holds. Segments end at multiples
// of it, so that long files are written from memory without copying.
const segmentBytes = 1 << 20

// segment is a stretch of a file in memory.
type segment struct {
	off uint64
	b   []byte
}

func (s *segment) end() uint64 { return s.off + uint64(len(s.b)) }

// segments are stretches of one file that do not overlap, in rising order.
type segments []segment

// end is the first offset behind the last segment.
func (s segments) end() uint64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].end()
}

// bytes is how much memory's worth of contents they hold.
func (s segments) bytes() uint64 {
	n := 0
	for i := range s {
		n += len(s[i].b)
	}
	return uint64(n)
}

// from is the index of the first segment that ends behind off.
func (s segments) from(off uint64) int {
	i, _ := slices.BinarySearchFunc(s, off, func(g segment, off uint64) int {
		return cmp.Compare(g.end(), off+1)
	})
	return i
}

// write copies p in at off.
func (s *segments) write(p []byte, off uint64) {
	for len(p) > 0 {
		n := min(len(p), int(segmentBytes-off%segmentBytes))
		s.put(p[:n], off)
		p, off = p[n:], off+uint64(n)
	}
}

// put is write within one multiple of segmentBytes.
func (s *segments) put(p []byte, off uint64) {
	end := off + uint64(len(p))
	if i := s.from(off); i < len(*s) && (*s)[i].off <= off && end <= (*s)[i].end() {
		copy((*s)[i].b[off-(*s)[i].off:], p)
		return
	}
	s.cut(off, end)
	i := s.from(off)
	if i > 0 && off%segmentBytes != 0 && (*s)[i-1].end() == off {
		(*s)[i-1].grow(p)
		return
	}
	*s = slices.Insert(*s, i, segment{off, append(make([]byte, 0, len(p)), p...)})
}

// grow adds p at the end. Room doubles up to the segment's limit, so that
// small appends cost little and single small writes no more than they are.
func (g *segment) grow(p []byte) {
	if need := len(g.b) + len(p); need > cap(g.b) {
		limit := int(segmentBytes - g.off%segmentBytes)
		g.b = append(make([]byte, 0, max(need, min(limit, 4*need))), g.b...)
	}
	g.b = append(g.b, p...)
}

// cut takes away what lies between two offsets.
func (s *segments) cut(from, to uint64) {
	i := s.from(from)
	if i == len(*s) || (*s)[i].off >= to || from >= to {
		return
	}
	var keep []segment
	j := i
	for ; j < len(*s) && (*s)[j].off < to; j++ {
		g := (*s)[j]
		if g.off < from {
			// NB: without its room, which the part behind may still use.
			n := from - g.off
			keep = append(keep, segment{g.off, g.b[:n:n]})
		}
		if g.end() > to {
			keep = append(keep, segment{to, g.b[to-g.off:]})
		}
	}
	*s = slices.Replace(*s, i, j, keep...)
}

// whole says whether one segment has all n bytes at off.
func (s segments) whole(off, n uint64) bool {
	i := s.from(off)
	return i < len(s) && s[i].off <= off && off+n <= s[i].end()
}

// split parts the segments at an offset.
func (s segments) split(off uint64) (head, tail segments) {
	i := s.from(off)
	if i == len(s) || s[i].off >= off {
		return s[:i:i], s[i:]
	}
	g := s[i]
	n := off - g.off
	head = append(s[:i:i], segment{g.off, g.b[:n:n]})
	return head, append(segments{{off, g.b[n:]}}, s[i+1:]...)
}

// within is how many bytes the segments have between two offsets.
func (s segments) within(from, to uint64) uint64 {
	n := uint64(0)
	for i := s.from(from); i < len(s) && s[i].off < to; i++ {
		n += min(to, s[i].end()) - max(from, s[i].off)
	}
	return n
}

// untouched is how many bytes of the sectors between two multiples of the
// sector size no segment has a part of.
func (s segments) untouched(from, to, sector uint64) uint64 {
	n := to - from
	for i := s.from(from); i < len(s) && s[i].off < to; i++ {
		a, b := max(from, s[i].off/sector*sector), min(to, roundUp(s[i].end(), sector))
		if a >= b {
			continue
		}
		n -= b - a
		from = b // the next segment may begin in the sector in which this one ends
	}
	return n
}

// copyTo copies what the segments have of the range of p, which begins at off.
func (s segments) copyTo(p []byte, off uint64) {
	end := off + uint64(len(p))
	for i := s.from(off); i < len(s) && s[i].off < end; i++ {
		at := max(off, s[i].off)
		copy(p[at-off:], s[i].b[at-s[i].off:])
	}
}

// span is a range of a file.
type span struct{ from, to uint64 }

// spans are the whole sectors that the segments touch, joined where they meet.
func (s segments) spans(sector uint64) []span {
	var out []span
	for i := range s {
		from, to := s[i].off/sector*sector, roundUp(s[i].end(), sector)
		if n := len(out); n > 0 && from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, to)
			continue
		}
		out = append(out, span{from, to})
	}
	return out
}
