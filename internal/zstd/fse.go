package zstd

import "math/bits"

// symbols is one of the three alphabets of sequences: how often each symbol comes,
// and the table of states that codes them ("tANS", RFC 8878 section 4.1).
type symbols struct {
	count  [maxSymbols]uint32
	used   int // symbols, the last one is in use
	norm   [maxSymbols]int16
	log    uint // of the table's size
	states [1 << maxLog]uint16
	step   [maxSymbols]transform
}

const (
	maxSymbols = 53 // match lengths have the most
	maxLog     = 9
	minLog     = 5
)

// transform says what coding a symbol does to the state.
type transform struct {
	bits  uint32 // (state + bits) >> 16 is how many bits go out
	state uint32 // what is left, plus this, is the index of the next state
}

// rle makes a table of one symbol that needs no bits.
func (s *symbols) rle(symbol uint8) {
	s.log = 0
	s.states[0] = 0
	s.step[symbol] = transform{}
}

// normalize scales the counts to a table of 1<<log states in which every symbol has
// at least one. -1 is the format's mark for a symbol that is rarer than one in that
// many.
func (s *symbols) normalize(total uint32, log uint) {
	size := int(1) << log
	s.log = log
	left, largest := size, 0
	for i, c := range s.count[:s.used] {
		n := int16(0)
		switch {
		case c == 0:
		case uint64(c)<<log <= uint64(total):
			n = -1
			left--
		default:
			n = int16((uint64(c)<<log + uint64(total)/2) / uint64(total))
			left -= int(n)
		}
		s.norm[i] = n
		if c > s.count[largest] {
			largest = i
		}
	}
	for left < 0 && int(s.norm[largest]) <= -left*4 {
		// Rounding up took too much for one to pay: everybody gives a little.
		// There is somebody, because there are twice as many states as symbols.
		for i := range s.norm[:s.used] {
			if s.norm[i] > 1 && left < 0 {
				s.norm[i]--
				left++
			}
		}
	}
	s.norm[largest] += int16(left)
}

// build makes the table for the normalized counts.
func (s *symbols) build() {
	size := 1 << s.log
	var cells [1 << maxLog]uint8
	var next [maxSymbols]uint16
	high := size - 1
	sum := uint16(0)
	for i, n := range s.norm[:s.used] {
		next[i] = sum
		if n < 0 {
			cells[high] = uint8(i)
			high--
			sum++
			continue
		}
		sum += uint16(n)
	}
	at, stride := 0, size>>1+size>>3+3
	for i, n := range s.norm[:s.used] {
		for range n {
			cells[at] = uint8(i)
			for at = (at + stride) & (size - 1); at > high; {
				at = (at + stride) & (size - 1)
			}
		}
	}
	for i, c := range cells[:size] {
		s.states[next[c]] = uint16(size + i)
		next[c]++
	}
	total := uint32(0)
	for i, n := range s.norm[:s.used] {
		switch n {
		case 0:
		case -1, 1:
			s.step[i] = transform{uint32(s.log)<<16 - uint32(size), total - 1}
			total++
		default:
			out := uint32(s.log) - uint32(bits.Len16(uint16(n-1))-1)
			s.step[i] = transform{out<<16 - uint32(n)<<out, total - uint32(n)}
			total += uint32(n)
		}
	}
}

// cost is about how many 256ths of a bit all symbols take with a table that has a
// code for each of them.
func (s *symbols) cost(norm []int16, log uint) (sum uint32) {
	for i, c := range s.count[:s.used] {
		if c > 0 {
			sum += c * (uint32(log)<<8 - log2(uint32(max(norm[i], 1))))
		}
	}
	return sum
}

// log2 is about 256 times the binary logarithm. Whole numbers, because floating
// point differs between processors.
func log2(n uint32) uint32 {
	k := uint32(bits.Len32(n) - 1)
	return k<<8 + (n<<8>>k - 256)
}

// appendCounts appends the description of the table.
func (s *symbols) appendCounts(dst []byte) []byte {
	var out bitWriter
	out.add(uint64(s.log-minLog), 4)
	left := 1<<s.log + 1
	for i := 0; left > 1; {
		n := int(s.norm[i])
		// Of the values up to left, the small ones take one bit less.
		width := uint(bits.Len(uint(left)))
		spare := 1<<width - 1 - left
		switch v := n + 1; {
		case v < spare:
			out.add(uint64(v), width-1)
		case v < 1<<(width-1):
			out.add(uint64(v), width)
		default:
			out.add(uint64(v+spare), width)
		}
		left -= max(n, -n)
		dst = out.drain(dst)
		i++
		if n != 0 || left <= 1 {
			continue
		}
		zeros := 0
		for s.norm[i+zeros] == 0 {
			zeros++
		}
		i += zeros
		for ; zeros >= 3; zeros -= 3 {
			out.add(3, 2)
		}
		out.add(uint64(zeros), 2)
		dst = out.drain(dst)
	}
	return out.finish(dst)
}

// bitWriter collects bits, lowest first.
type bitWriter struct {
	word uint64
	n    uint
}

func (w *bitWriter) add(v uint64, n uint) {
	w.word |= v << (w.n & 63)
	w.n += n
}

// drain appends whole bytes.
func (w *bitWriter) drain(dst []byte) []byte {
	for ; w.n >= 8; w.n -= 8 {
		dst = append(dst, byte(w.word))
		w.word >>= 8
	}
	return dst
}

// finish appends what is left, filled up with zeros.
func (w *bitWriter) finish(dst []byte) []byte {
	dst = w.drain(dst)
	if w.n > 0 {
		dst = append(dst, byte(w.word))
	}
	return dst
}
