// Package lzo encodes and decodes LZO1X blocks, the raw form without any
// container, as btrfs stores them (internal/compress has the btrfs framing).
//
// The format is a sequence of instructions. Each copies some bytes from the
// output made so far (a match: length and distance) and then 0 to 3 literals,
// or copies a longer run of literals. What the small opcodes mean depends on how
// many literals came just before; that count, capped at 4, is the "state".
// Lengths that do not fit the opcode go on in extra bytes: a zero byte stands
// for 255 more and the first other byte ends the length. A match at distance
// 16384 and length 3 ends the block. Documentation/staging/lzo.rst of Linux
// tells the details.
//
// Functions are safe for concurrent use; a Compressor is not.
package lzo

import (
	"encoding/binary"
	"errors"
)

// ErrCorrupt is returned for input that is no whole LZO1X block: it ends early or
// late, refers to bytes before its beginning, or makes more than there is room for.
var ErrCorrupt = errors.New("lzo: corrupt block")

// Largest distances that the two long match instructions reach.
const (
	maxDistance3 = 1 << 14          // 0 0 1 L L L L L
	maxDistance4 = 3<<14 - 1        // 0 0 0 1 H L L L
	wide         = 16               // bytes moved at once where there is room
	endOpcode    = byte(16 | 3 - 2) // match of length 3
)

// Decompress decodes the block src into dst and returns how many bytes it made.
// The block must end exactly where src does. Bytes of dst behind the returned
// count may have been overwritten. Time and memory are bounded by the lengths of
// src and dst, whatever src holds.
func Decompress(dst, src []byte) (int, error) {
	if len(src) >= 5 && src[0] == 17 {
		// A version byte follows: LZO-RLE, which btrfs never writes.
		return 0, ErrCorrupt
	}
	ip, op, state := 0, 0, 0
	if len(src) > 0 && src[0] > 17 {
		n := int(src[0]) - 17
		if ip = 1; n > len(src)-ip || n > len(dst) {
			return 0, ErrCorrupt
		}
		copy(dst, src[ip:ip+n])
		ip, op, state = ip+n, n, min(n, 4)
	}
	for ip < len(src) {
		t := int(src[ip])
		ip++
		var length, distance, next int
		switch {
		case t >= 64:
			if ip >= len(src) {
				return op, ErrCorrupt
			}
			length = t>>5 + 1
			distance = int(src[ip])<<3 + t>>2&7 + 1
			next = t & 3
			ip++
		case t >= 16:
			if t >= 32 {
				length, ip = runLength(src, ip, t&31, 31)
			} else {
				length, ip = runLength(src, ip, t&7, 7)
			}
			if length += 2; ip+2 > len(src) {
				return op, ErrCorrupt
			}
			operand := int(binary.LittleEndian.Uint16(src[ip:]))
			ip += 2
			next = operand & 3
			if t >= 32 {
				distance = operand>>2 + 1
			} else if distance = maxDistance3 + t&8<<11 + operand>>2; distance == maxDistance3 {
				if length != 3 || ip != len(src) {
					return op, ErrCorrupt
				}
				return op, nil
			}
		case state == 0:
			length, ip = runLength(src, ip, t, 15)
			if length += 3; length > len(src)-ip || length > len(dst)-op {
				return op, ErrCorrupt
			}
			copyLiterals(dst, src, op, ip, length)
			ip, op, state = ip+length, op+length, 4
			continue
		default:
			if ip >= len(src) {
				return op, ErrCorrupt
			}
			length, distance = 2, int(src[ip])<<2+t>>2+1
			if state == 4 {
				length, distance = 3, distance+2048
			}
			next = t & 3
			ip++
		}
		if distance > op || length > len(dst)-op {
			return op, ErrCorrupt
		}
		copyMatch(dst, op, distance, length)
		op += length
		if next > len(src)-ip || next > len(dst)-op {
			return op, ErrCorrupt
		}
		for range next {
			dst[op] = src[ip]
			op++
			ip++
		}
		state = next
	}
	return op, ErrCorrupt // no end marker
}

// runLength reads a length whose opcode bits are v, of which limit is the
// largest value. Where src ends first it returns a position behind the end,
// which the caller's next length check refuses.
func runLength(src []byte, ip, v, limit int) (length, next int) {
	if v != 0 {
		return v, ip
	}
	length = limit
	for ; ip < len(src) && length < maxInput; ip++ {
		if src[ip] != 0 {
			return length + int(src[ip]), ip + 1
		}
		length += 255
	}
	return length, len(src) + 1
}

// copyLiterals copies n bytes from src[ip:] to dst[op:]; both have n bytes there.
func copyLiterals(dst, src []byte, op, ip, n int) {
	if n <= wide && wide <= len(src)-ip && wide <= len(dst)-op {
		*(*[wide]byte)(dst[op:]) = *(*[wide]byte)(src[ip:])
		return
	}
	copy(dst[op:op+n], src[ip:])
}

// copyMatch copies n bytes within dst to op from distance bytes before it. The
// two may overlap: then the bytes between them repeat.
func copyMatch(dst []byte, op, distance, n int) {
	from := op - distance
	if n <= wide && distance >= wide && wide <= len(dst)-op {
		*(*[wide]byte)(dst[op:]) = *(*[wide]byte)(dst[from:])
		return
	}
	// Each round doubles what there is to copy from.
	for end := op + n; op < end; {
		op += copy(dst[op:end], dst[from:op])
	}
}
