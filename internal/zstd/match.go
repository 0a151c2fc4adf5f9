package zstd

import (
	"encoding/binary"
	"math/bits"
)

const (
	longBits  = 15
	shortBits = 14
	minMatch  = 3
	skipShift = 5 // after 1<<skipShift bytes without a match every second byte is tried, and so on
	// Matches are not searched for in the last bytes of the input.
	margin = 8
)

// load8 reads eight bytes; the mask tells the compiler that they are there.
func load8(b *[MaxInput + slack]byte, i uint32) uint64 {
	i &= MaxInput - 1
	return binary.LittleEndian.Uint64(b[i : i+8])
}

func load4(b *[MaxInput + slack]byte, i uint32) uint32 {
	i &= MaxInput - 1
	return binary.LittleEndian.Uint32(b[i : i+4])
}

func load1(b *[MaxInput + slack]byte, i uint32) byte { return b[i&(MaxInput-1)] }

func hash8(v uint64) uint64 { return v * 0xcf1bbcdcb7a56463 >> (64 - longBits) }
func hash5(v uint64) uint64 { return v << 24 * 0x9e3779b185ebca87 >> (64 - shortBits) }
func hash4(v uint64) uint64 { return v << 32 * 0x9e3779b185ebca87 >> (64 - shortBits) }

// matchLen counts equal bytes at a < b, up to the end of the input.
func (e *Encoder) matchLen(a, b uint32) uint32 {
	src, begin := e.src, b
	for b+8 <= e.n {
		if x := load8(src, a) ^ load8(src, b); x != 0 {
			return b - begin + uint32(bits.TrailingZeros64(x))>>3
		}
		a, b = a+8, b+8
	}
	for b < e.n && load1(src, a) == load1(src, b) {
		a, b = a+1, b+1
	}
	return b - begin
}

// emit adds a sequence: literals from one position to the next, then a match.
// Offset is the format's value: 1 for the last offset, 3 more than a new one.
func (e *Encoder) emit(from, to, match, offset uint32) {
	e.seqs[e.nseqs&(maxSeqs-1)] = sequence{literals: to - from, match: match - minMatch, offset: offset}
	e.nseqs++
	at, n := e.nlits&(MaxInput-1), to-from
	if n > 16 {
		copy(e.lits[at:], e.src[from:to])
	} else {
		// Copies too much rather than count.
		wide := e.lits[at : at+16]
		binary.LittleEndian.PutUint64(wide, load8(e.src, from))
		binary.LittleEndian.PutUint64(wide[8:], load8(e.src, from+8))
	}
	e.nlits += n
}

// tail keeps what follows the last match as literals.
func (e *Encoder) tail(from uint32) {
	e.nlits += uint32(copy(e.lits[e.nlits:], e.src[from:e.n]))
}

// dfast finds matches with two tables, of eight bytes and of five, one candidate
// each. Long matches are preferred; a short one is kept only if there is no long one
// a byte later. It returns the end of the last match.
func (e *Encoder) dfast() uint32 {
	src, base := e.src, e.base
	long, short := (*[1 << longBits]uint32)(e.long), (*[1 << shortBits]uint32)(e.short)
	if e.n < margin+2 {
		return 0
	}
	limit := e.n - margin - 1
	s, anchor := uint32(1), uint32(0)
	rep1, rep2 := uint32(1), uint32(0)
	for s < limit {
		var at, from, n uint32 // the match
		for step := uint32(1); ; {
			v := load8(src, s)
			hl, hs := hash8(v), hash5(v)
			l, h := long[hl]-base, short[hs]-base
			long[hl], short[hs] = s+base, s+base
			if r := s + 1 - rep1; load4(src, r) == uint32(v>>8) {
				n := 4 + e.matchLen(r+4, s+5)
				e.emit(anchor, s+1, n, 1)
				s += 1 + n
				anchor, step = s, 1
				if s >= limit {
					return anchor
				}
				continue
			}
			if l < s && load8(src, l) == v {
				at, from = s, l
				n = 8 + e.matchLen(from+8, at+8)
				break
			}
			if h < s && load4(src, h) == uint32(v) {
				at, from = s, h
				w := load8(src, s+1)
				hl := hash8(w)
				l := long[hl] - base
				long[hl] = s + 1 + base
				if l < s && load8(src, l) == w {
					at, from = s+1, l
					n = 8 + e.matchLen(from+8, at+8)
				} else {
					n = 4 + e.matchLen(from+4, at+4)
				}
				break
			}
			s += step
			step = 1 + (s-anchor)>>skipShift
			if s >= limit {
				return anchor
			}
		}
		for from > 0 && at > anchor && load1(src, from-1) == load1(src, at-1) {
			from, at, n = from-1, at-1, n+1
		}
		rep1, rep2 = at-from, rep1
		e.emit(anchor, at, n, rep1+3)
		next := at + n
		anchor = next
		if next >= limit {
			return anchor
		}
		v, w := load8(src, s+2), load8(src, next-2)
		long[hash8(v)], short[hash5(v)] = s+2+base, s+2+base
		long[hash8(w)], short[hash5(w>>8)] = next-2+base, next-1+base
		s = next
		for s < limit && rep2 != 0 {
			v := load8(src, s)
			if load4(src, s-rep2) != uint32(v) {
				break
			}
			n := 4 + e.matchLen(s-rep2+4, s+4)
			rep1, rep2 = rep2, rep1
			long[hash8(v)], short[hash5(v)] = s+base, s+base
			e.emit(s, s, n, 1)
			s += n
			anchor = s
		}
	}
	return anchor
}
