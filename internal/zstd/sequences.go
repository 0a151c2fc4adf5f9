package zstd

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// Bits that follow each code, by code (RFC 8878, section 3.1.1.3.2.1.1).
var (
	llBits = [maxSymbols]uint8{
		16: 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
	}
	mlBits = [maxSymbols]uint8{
		32: 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
	}
)

// Codes of small lengths; larger ones follow from their highest bit.
var (
	llCodes = codes(llBits[:], 64)
	mlCodes = codes(mlBits[:], 128)
)

func codes(extra []uint8, n int) []uint8 {
	out := make([]uint8, 0, 2*n)
	for c := uint8(0); len(out) < n; c++ {
		for range 1 << extra[c] {
			out = append(out, c)
		}
	}
	return out[:n:n]
}

// Tables that need not be described. They have a code for every number that a block
// of MaxInput bytes can have.
var (
	llDefault = newPredefined(6, 4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1)
	mlDefault = newPredefined(6, 1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1)
	ofDefault = newPredefined(5, 1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1)
)

func newPredefined(log uint, norm ...int16) *symbols {
	s := &symbols{log: log, used: len(norm)}
	copy(s.norm[:], norm)
	s.build()
	return s
}

// Modes of a table.
const (
	modePredefined = iota
	modeRLE
	modeDescribed
)

// makeCodes finds each sequence's codes and counts them.
func (e *Encoder) makeCodes() {
	e.ll.count, e.of.count, e.ml.count = [maxSymbols]uint32{}, [maxSymbols]uint32{}, [maxSymbols]uint32{}
	for i := range e.seqs[:e.nseqs] {
		q := &e.seqs[i]
		q.ofCode = uint8(bits.Len32(q.offset) - 1)
		if q.literals < 64 {
			q.llCode = llCodes[q.literals]
		} else {
			q.llCode = uint8(bits.Len32(q.literals) + 18)
		}
		if q.match < 128 {
			q.mlCode = mlCodes[q.match]
		} else {
			q.mlCode = uint8(bits.Len32(q.match) + 35)
		}
		e.ll.count[q.llCode]++
		e.of.count[q.ofCode]++
		e.ml.count[q.mlCode]++
	}
}

// choose decides for one alphabet between the predefined table, a table of its own,
// and no table where only one symbol is used.
func (s *symbols) choose(dst []byte, n uint32, maxLog uint, def *symbols) ([]byte, uint8, *symbols) {
	s.used = 0
	kinds := 0
	for i, c := range s.count {
		if c != 0 {
			s.used = i + 1
			kinds++
		}
	}
	if kinds == 1 && n > 2 {
		s.rle(uint8(s.used - 1))
		return append(dst, byte(s.used-1)), modeRLE, s
	}
	const few = 16 // sequences, which never pay for a description
	if n < few {
		return dst, modePredefined, def
	}
	s.normalize(n, min(maxLog, uint(max(bits.Len32(n-1)-3, bits.Len(uint(kinds))+1, minLog))))
	begin := len(dst)
	dst = s.appendCounts(dst)
	if s.cost(def.norm[:], def.log) <= s.cost(s.norm[:], s.log)+uint32(len(dst)-begin)<<11 {
		return dst[:begin], modePredefined, def
	}
	s.build()
	return dst, modeDescribed, s
}

// appendSequences appends the sequences section.
func (e *Encoder) appendSequences(dst []byte) []byte {
	n := int(e.nseqs)
	switch {
	case n < 128:
		dst = append(dst, byte(n))
	case n < 0x7f00:
		dst = append(dst, byte(n>>8)+128, byte(n))
	default:
		dst = append(dst, 255, byte(n-0x7f00), byte((n-0x7f00)>>8))
	}
	if n == 0 {
		return dst
	}
	e.makeCodes()
	at := len(dst)
	dst = append(dst, 0)
	dst, llMode, ll := e.ll.choose(dst, uint32(n), 9, llDefault)
	dst, ofMode, of := e.of.choose(dst, uint32(n), 8, ofDefault)
	dst, mlMode, ml := e.ml.choose(dst, uint32(n), 9, mlDefault)
	dst[at] = llMode<<6 | ofMode<<4 | mlMode<<2
	return e.appendStream(dst, ll, of, ml)
}

// stateOf is the state from which a symbol is coded first.
func (s *symbols) stateOf(symbol uint8) uint32 {
	t := s.step[symbol]
	out := (t.bits + 1<<15) >> 16
	return uint32(s.states[(out<<16-t.bits)>>out+t.state])
}

// appendStream appends the bits of all sequences, the last one first, because the
// decoder reads them backwards.
func (e *Encoder) appendStream(dst []byte, ll, of, ml *symbols) []byte {
	// Per sequence at most 17+16+16 bits of values and 9+8+9 of states.
	const perSequence = 10
	at := len(dst)
	dst = slices.Grow(dst, int(e.nseqs)*perSequence+32)
	buf := dst[:cap(dst)]
	var ls, os, ms uint32
	word, n := uint64(0), uint(0) // at most 7 bits at the beginning of each turn
	for i := int(e.nseqs) - 1; i >= 0; i-- {
		q := &e.seqs[i&(maxSeqs-1)]
		if i == int(e.nseqs)-1 {
			ls, os, ms = ll.stateOf(q.llCode), of.stateOf(q.ofCode), ml.stateOf(q.mlCode)
		} else {
			ot, mt, lt := of.step[q.ofCode], ml.step[q.mlCode], ll.step[q.llCode]
			ob, mb, lb := (os+ot.bits)>>16, (ms+mt.bits)>>16, (ls+lt.bits)>>16
			word |= uint64(os&mask(ob))<<(n&63) | uint64(ms&mask(mb))<<((n+uint(ob))&63) | uint64(ls&mask(lb))<<((n+uint(ob+mb))&63)
			n += uint(ob + mb + lb)
			os = uint32(of.states[(os>>(ob&31)+ot.state)&(1<<maxLog-1)])
			ms = uint32(ml.states[(ms>>(mb&31)+mt.state)&(1<<maxLog-1)])
			ls = uint32(ll.states[(ls>>(lb&31)+lt.state)&(1<<maxLog-1)])
		}
		lb, mb, ob := uint32(llBits[q.llCode]), uint32(mlBits[q.mlCode]), uint32(q.ofCode)
		if n+uint(lb+mb+ob) > 63 {
			binary.LittleEndian.PutUint64(buf[at:], word)
			at += int(n >> 3)
			word >>= n &^ 7 & 63
			n &= 7
		}
		word |= (uint64(q.literals&mask(lb)) | uint64(q.match&mask(mb))<<(lb&63) | uint64(q.offset&mask(ob))<<((lb+mb)&63)) << (n & 63)
		n += uint(lb + mb + ob)
		binary.LittleEndian.PutUint64(buf[at:], word)
		at += int(n >> 3)
		word >>= n &^ 7 & 63
		n &= 7
	}
	word |= uint64(ms&mask(uint32(ml.log)))<<n | uint64(os&mask(uint32(of.log)))<<(n+ml.log) | uint64(ls&mask(uint32(ll.log)))<<(n+ml.log+of.log)
	n += ml.log + of.log + ll.log
	word |= 1 << n // marks the end
	binary.LittleEndian.PutUint64(buf[at:], word)
	return dst[:at+int(n>>3)+1]
}

func mask(n uint32) uint32 { return 1<<(n&31) - 1 }
