package zstd

import "math/bits"

// found is a match that was found and what it is worth.
type found struct {
	from, n uint32
	gain    int // bits saved, about
}

// lazy finds matches by following chains of positions with the same hash. A match is
// taken only if there is no better one at the next two positions. It returns the end
// of the last match.
func (e *Encoder) lazy() uint32 {
	if e.n < margin+2 {
		return 0
	}
	limit := e.n - margin
	s, anchor := uint32(1), uint32(0)
	r := repeats{1, 4, 8}
	e.next = 0
	for s < limit {
		best := e.best(s, &r)
		if best.n == 0 {
			s += 1 + (s-anchor)>>lazySkipShift
			continue
		}
		for ahead := s + 1; ahead < limit && ahead <= s+2; ahead++ {
			// A match that begins later costs literals.
			if m := e.best(ahead, &r); m.n > 0 && m.gain > best.gain+int(4*(ahead-s)) {
				best, s = m, ahead // and look further from here
			}
		}
		from, n := best.from, best.n
		for from > 0 && s > anchor && load1(e.src, from-1) == load1(e.src, s-1) {
			from, s, n = from-1, s-1, n+1
		}
		e.emit(anchor, s, n, r.value(s-from, s > anchor))
		s += n
		anchor = s
	}
	return anchor
}

// lazySkipShift is skipShift for lazy, which is patient.
const lazySkipShift = 8

// best is the best match at s, or one of length 0.
func (e *Encoder) best(s uint32, r *repeats) (m found) {
	src := e.src
	v := load4(src, s)
	for _, o := range r {
		if o == 0 || o > s || load4(src, s-o) != v {
			continue
		}
		n := 4 + e.matchLen(s-o+4, s+4)
		if g := int(4*n) + 1; g > m.gain {
			m = found{s - o, n, g}
		}
	}
	at := e.insert(s) - e.base
	for range e.params.depth {
		if at >= s {
			break // older than this input
		}
		// A longer match must agree where the best one ended.
		if m.n < 4 || s+m.n+4 > e.n || load4(src, at+m.n-3) == load4(src, s+m.n-3) {
			if load4(src, at) == v {
				n := 4 + e.matchLen(at+4, s+4)
				if g := int(4*n) - bits.Len32(s-at+3); n > m.n && g > m.gain {
					m = found{at, n, g}
					if n >= e.params.good {
						break
					}
				}
			}
		}
		at = e.chain[at&(MaxInput-1)] - e.base
	}
	return m
}

// insert enters all positions up to s and returns what had the hash of s before.
func (e *Encoder) insert(s uint32) (old uint32) {
	short := (*[1 << shortBits]uint32)(e.short)
	chain := (*[MaxInput]uint32)(e.chain)
	for i := e.next; i <= s; i++ {
		h := hash4(load8(e.src, i))
		old = short[h]
		short[h] = i + e.base
		chain[i&(MaxInput-1)] = old
	}
	if e.next > s {
		old = chain[s&(MaxInput-1)]
	}
	e.next = max(e.next, s+1)
	return old
}

// repeats are the last three offsets.
type repeats [3]uint32

// value is what the format has for an offset, which is remembered. With no literals
// before a match the last offset would have made the one before longer, so the codes
// mean the others.
func (r *repeats) value(o uint32, literals bool) uint32 {
	if literals && o == r[0] {
		return 1
	}
	v := o + 3
	switch {
	case o == r[1]:
		v = 2
	case o == r[2]:
		v = 3
	case !literals && o == r[0]-1:
		*r = repeats{o, r[0], r[1]}
		return 3
	}
	if !literals && v <= 3 {
		v--
	}
	if o == r[1] {
		*r = repeats{o, r[0], r[2]}
	} else {
		*r = repeats{o, r[0], r[1]}
	}
	return v
}
