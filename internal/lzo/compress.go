package lzo

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

const (
	hashBits   = 13
	minMatch   = 4 // what the hash covers; shorter matches save too little
	skipShift  = 5 // after 1<<skipShift misses in a row, every second position is tried, and so on
	maxInput   = 1 << 30
	maxShort   = 8 // longest and farthest match of the two-byte instruction
	shortReach = 2048
)

// Bound is the most bytes that Compress appends for n bytes of input.
func Bound(n int) int { return n + n/255 + 16 }

// A Compressor has the table in which Compress looks for matches (32 KiB). The
// zero value is ready. What Compress makes depends on its input alone, never on
// what the Compressor saw before. It must not be used by two goroutines at once.
type Compressor struct {
	// table has base plus the position of the last string with this hash. What
	// is below base belongs to earlier inputs, so no clearing is needed between.
	table [1 << hashBits]uint32
	base  uint32
}

// Compress appends src as one LZO1X block to dst. The search is greedy with one
// candidate per position, which is what the kernel's lzo1x_1 does too. It panics
// if src is longer than 1 GiB.
func (c *Compressor) Compress(dst, src []byte) []byte {
	if len(src) > maxInput {
		panic("lzo: input longer than 1 GiB")
	}
	if c.base == 0 || uint64(c.base)+uint64(len(src)) > 1<<32-1 {
		clear(c.table[:])
		c.base = 1 // so that a zero is older than any input
	}
	w := writer{out: slices.Grow(dst, Bound(len(src))), begin: len(dst)}
	anchor, pos := 0, 1 // the first byte has nothing before it to match
	c.remember(src, 0)
	for limit := len(src) - minMatch; pos <= limit; {
		from, ok := c.lookup(src, pos)
		if !ok {
			pos += 1 + (pos-anchor)>>skipShift
			continue
		}
		n := minMatch + matchLen(src, from+minMatch, pos+minMatch)
		for from > 0 && pos > anchor && src[from-1] == src[pos-1] {
			from, pos, n = from-1, pos-1, n+1
		}
		w.literals(src[anchor:pos])
		w.match(pos-from, n)
		c.remember(src, pos+1)
		pos += n
		anchor = pos
		c.remember(src, pos-2)
	}
	w.literals(src[anchor:])
	c.base += uint32(len(src))
	return append(w.out, endOpcode, 0, 0)
}

func hash(b []byte) uint32 {
	return binary.LittleEndian.Uint32(b) * 2654435761 >> (32 - hashBits)
}

// remember enters the string at pos, if it is long enough to be found.
func (c *Compressor) remember(src []byte, pos int) {
	if pos+minMatch <= len(src) {
		c.table[hash(src[pos:])] = c.base + uint32(pos)
	}
}

// lookup finds an earlier string that begins as the one at pos, and enters pos.
func (c *Compressor) lookup(src []byte, pos int) (from int, ok bool) {
	slot := &c.table[hash(src[pos:])]
	seen := *slot
	*slot = c.base + uint32(pos)
	if seen < c.base {
		return 0, false
	}
	from = int(seen - c.base)
	return from, pos-from <= maxDistance4 &&
		binary.LittleEndian.Uint32(src[from:]) == binary.LittleEndian.Uint32(src[pos:])
}

// matchLen is how many bytes at a and b (a < b) agree.
func matchLen(src []byte, a, b int) int {
	n := 0
	for b+n+8 <= len(src) {
		if x := binary.LittleEndian.Uint64(src[a+n:]) ^ binary.LittleEndian.Uint64(src[b+n:]); x != 0 {
			return n + bits.TrailingZeros64(x)>>3
		}
		n += 8
	}
	for b+n < len(src) && src[a+n] == src[b+n] {
		n++
	}
	return n
}

// writer appends instructions.
type writer struct {
	out   []byte
	begin int // where the block begins in out
}

// literals appends an instruction for b, or puts the count into the match before.
func (w *writer) literals(b []byte) {
	n := len(b)
	switch {
	case n == 0:
		return
	case len(w.out) == w.begin && n <= 255-17:
		w.out = append(w.out, byte(17+n))
	case n <= 3:
		// All match instructions have the count in their last byte but one. At
		// the beginning, where there is none, the case above has taken it.
		w.out[len(w.out)-2] |= byte(n)
	default:
		w.length(0, n-3, 15)
	}
	w.out = append(w.out, b...)
}

// match appends a match of n bytes, at least minMatch.
func (w *writer) match(distance, n int) {
	switch {
	case n <= maxShort && distance <= shortReach:
		distance--
		w.out = append(w.out, byte((n-1)<<5|distance&7<<2), byte(distance>>3))
	case distance <= maxDistance3:
		w.length(32, n-2, 31)
		w.out = binary.LittleEndian.AppendUint16(w.out, uint16(distance-1)<<2)
	default:
		distance -= maxDistance3
		w.length(byte(16|distance>>14<<3), n-2, 7)
		w.out = binary.LittleEndian.AppendUint16(w.out, uint16(distance&0x3fff)<<2)
	}
}

// length appends opcode with the length n, of which limit fits into the opcode.
func (w *writer) length(opcode byte, n, limit int) {
	if n <= limit {
		w.out = append(w.out, opcode|byte(n))
		return
	}
	w.out = append(w.out, opcode)
	for n -= limit; n > 255; n -= 255 {
		w.out = append(w.out, 0)
	}
	w.out = append(w.out, byte(n))
}
