// Package zstd compresses single blocks of at most 128 KiB, such as the extents of
// btrfs, as zstd frames (RFC 8878).
//
// It is not a general compressor: a frame is one segment and one block, without
// checksum or dictionary. That is why it is fast: match tables of half the size
// that a general compressor needs stay in the processor's caches, nothing is
// carried over from one block to the next, and bounds are known at compile time.
//
// Glossary, after the RFC: a "sequence" is a run of literals and the match behind
// it; an "offset" is how far back the match is; one of the last three offsets can
// be named by a "repeat code".
package zstd

import (
	"encoding/binary"
	"errors"

	"github.com/klauspost/compress/huff0"
)

// maxSeqs is more than there can be: a match has at least four bytes.
const maxSeqs = MaxInput / 4

// MaxInput is the most bytes that one frame can hold.
const MaxInput = 1 << 17

// slack is how many bytes behind the input load8 and emit may touch.
const slack = 16

// An Encoder compresses at one level. It holds all memory that it needs, 1.0 to
// 1.3 MiB. What it makes depends on its input and level alone, never on what it
// saw before. It must not be used by two goroutines at once.
type Encoder struct {
	params params
	src    *[MaxInput + slack]byte // the input; what is behind its end is of no meaning
	n      uint32                  // its length

	// Tables hold base plus a position. What is below base belongs to
	// earlier inputs, so no clearing is needed between.
	base  uint32
	long  []uint32 // by hash of eight bytes (dfast)
	short []uint32 // by hash of four or five bytes
	chain []uint32 // previous position with the same hash, by position (lazy)
	next  uint32   // first position that is in no chain (lazy)

	seqs  *[maxSeqs]sequence
	nseqs uint32
	lits  *[MaxInput + slack]byte
	nlits uint32
	huff  huff0.Scratch
	ll    symbols
	of    symbols
	ml    symbols
}

// sequence is some literals, then a match, in the numbers of the format.
type sequence struct {
	literals               uint32
	match                  uint32 // its length less minMatch
	offset                 uint32 // 1 to 3: a repeat code; else 3 more than the distance
	llCode, ofCode, mlCode uint8  // by makeCodes
}

// params say how matches are searched for.
type params struct {
	depth int    // candidates for each position (lazy); 0: dfast
	good  uint32 // a match of this length ends the search (lazy)
}

// paramsOf is what a level of the zstd command stands for. Measured on source code,
// programs and documents in blocks of 128 KiB against libzstd 1.5.4 at the same level:
// level 3 takes 1.25 times the time for 1 to 4 % more bytes; level 9 1.3 to 1.5
// times for the same bytes; level 15 a third of the time for 3 to 6 % more.
func paramsOf(level int) params {
	switch {
	case level <= 4:
		return params{}
	case level == 5:
		return params{depth: 4, good: 32}
	case level <= 7:
		return params{depth: 8, good: 48}
	case level <= 9:
		return params{depth: 16, good: 64}
	case level <= 12:
		return params{depth: 32, good: 128}
	}
	return params{depth: 64, good: 256}
}

// NewEncoder makes an encoder for a level as the zstd command counts them.
func NewEncoder(level int) *Encoder {
	e := &Encoder{
		params: paramsOf(level),
		src:    new([MaxInput + slack]byte),
		lits:   new([MaxInput + slack]byte),
		seqs:   new([maxSeqs]sequence),
	}
	e.short = make([]uint32, 1<<shortBits)
	if e.params.depth > 0 {
		e.chain = make([]uint32, MaxInput)
	} else {
		e.long = make([]uint32, 1<<longBits)
	}
	e.huff.Reuse = huff0.ReusePolicyNone
	return e
}

// Encode appends a frame for src to dst, or returns false and dst as it was if src
// is empty, longer than MaxInput, or does not get smaller.
func (e *Encoder) Encode(dst, src []byte) ([]byte, bool) {
	if len(src) == 0 || len(src) > MaxInput {
		return dst, false
	}
	e.reset(src)
	if e.params.depth > 0 {
		e.tail(e.lazy())
	} else {
		e.tail(e.dfast())
	}
	begin := len(dst)
	dst = appendHeader(dst, len(src))
	at := len(dst)
	dst = append(dst, 0, 0, 0)
	dst = e.appendLiterals(dst)
	dst = e.appendSequences(dst)
	if len(dst)-begin >= len(src) {
		return dst[:begin], false
	}
	const last, compressed = 1, 2 << 1
	h := uint32(len(dst)-at-3)<<3 | compressed | last
	dst[at], dst[at+1], dst[at+2] = byte(h), byte(h>>8), byte(h>>16)
	return dst, true
}

// reset takes a new input.
func (e *Encoder) reset(src []byte) {
	e.n = uint32(copy(e.src[:MaxInput], src))
	e.nseqs, e.nlits = 0, 0
	if e.base == 0 || e.base > 1<<32-2*MaxInput {
		clear(e.long)
		clear(e.short)
		e.base = 0
	}
	e.base += MaxInput
}

// appendHeader appends the frame's header: magic, one segment, its size.
func appendHeader(dst []byte, n int) []byte {
	const magic, single = 0xfd2fb528, 0x20
	dst = binary.LittleEndian.AppendUint32(dst, magic)
	switch {
	case n < 256:
		return append(dst, single, byte(n))
	case n < 256+1<<16:
		return binary.LittleEndian.AppendUint16(append(dst, single|1<<6), uint16(n-256))
	}
	return binary.LittleEndian.AppendUint32(append(dst, single|2<<6), uint32(n))
}

// Types of a literals section.
const (
	literalsRaw = iota
	literalsRLE
	literalsHuffman
)

// appendLiterals appends the literals section.
func (e *Encoder) appendLiterals(dst []byte) []byte {
	b := e.lits[:e.nlits]
	var packed []byte
	err := huff0.ErrIncompressible
	const fewForFour, fewForOne = 1024, 32
	switch {
	case len(b) >= fewForFour:
		packed, _, err = huff0.Compress4X(b, &e.huff)
	case len(b) >= fewForOne:
		packed, _, err = huff0.Compress1X(b, &e.huff)
	}
	switch {
	case err == nil && len(packed)+5 < len(b):
		return append(appendSizes(dst, len(b), len(packed)), packed...)
	case errors.Is(err, huff0.ErrUseRLE):
		return append(appendSize(dst, literalsRLE, len(b)), b[0])
	}
	return append(appendSize(dst, literalsRaw, len(b)), b...)
}

// appendSize appends the header of literals that are not Huffman-coded.
func appendSize(dst []byte, typ, n int) []byte {
	switch {
	case n < 1<<5:
		return append(dst, byte(typ|n<<3))
	case n < 1<<12:
		return append(dst, byte(typ|1<<2|n<<4), byte(n>>4))
	}
	return append(dst, byte(typ|3<<2|n<<4), byte(n>>4), byte(n>>12))
}

// appendSizes appends the header of Huffman-coded literals. Fewer than 1024 are one
// stream, more are four.
func appendSizes(dst []byte, n, packed int) []byte {
	h, bytes := uint64(0), 3
	switch {
	case n < 1<<10:
		h = uint64(n)<<4 | uint64(packed)<<14
	case n < 1<<14:
		h, bytes = 2<<2|uint64(n)<<4|uint64(packed)<<18, 4
	default:
		h, bytes = 3<<2|uint64(n)<<4|uint64(packed)<<22, 5
	}
	h |= literalsHuffman
	for range bytes {
		dst = append(dst, byte(h))
		h >>= 8
	}
	return dst
}
