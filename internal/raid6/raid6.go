// Package raid6 computes the two parity stripes of RAID5 and RAID6 and rebuilds
// lost stripes from them, as Linux lays them out.
//
// With data stripes D0…Dn-1, P is their sum and Q is the sum of 2^i·Di, over
// GF(2^8) with the polynomial 0x11d, where a sum is an exclusive or. Either
// parity makes up for one lost stripe, both for two. RAID5 has P alone.
//
// The arithmetic works on eight bytes in a uint64 at a time. Functions are safe
// for concurrent use and do not allocate.
package raid6

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxData is the most data stripes that Q can tell apart.
const MaxData = 255

// ErrTooManyMissing is wrapped when more stripes are missing than the parity there
// is makes up for.
var ErrTooManyMissing = errors.New("more stripes missing than parity can rebuild")

// none stands for "no stripe" where the number of a data stripe is wanted.
const none = -1

// Generate fills p, and q unless it is nil, from the data stripes. All must have
// the same length.
func Generate(data [][]byte, p, q []byte) error {
	if err := check(data, p, q); err != nil {
		return err
	}
	sums(data, p, q, none, none)
	return nil
}

// Verify says whether the parity stripes agree with the data; q may be nil. It
// needs no memory beyond a few KiB of stack.
func Verify(data [][]byte, p, q []byte) (pGood, qGood bool, err error) {
	if err := check(data, p, q); err != nil {
		return false, false, err
	}
	pGood, qGood = true, true
	var pb, qb [chunk]byte
	var window [MaxData][]byte
	for at := 0; at < len(p); at += chunk {
		end := min(at+chunk, len(p))
		for i, d := range data {
			window[i] = d[at:end]
		}
		pw, qw := pb[:end-at], qb[:end-at]
		if q == nil {
			qw = nil
		}
		sums(window[:len(data)], pw, qw, none, none)
		pGood = pGood && string(pw) == string(p[at:end])
		qGood = qGood && (q == nil || string(qw) == string(q[at:end]))
	}
	return pGood, qGood, nil
}

// Rebuild fills the missing stripes in place: data[i] for i below len(data), p for
// len(data), q for len(data)+1. q is nil with RAID5. All slices, the missing ones
// too, must have the same length; what the missing ones held does not matter. The
// others must be right, which nothing here can tell: verify the checksums of
// what comes out.
func Rebuild(data [][]byte, p, q []byte, missing ...int) error {
	if err := check(data, p, q); err != nil {
		return err
	}
	n := len(data)
	lost := [2]int{none, none} // data stripes
	lostData, lostP, lostQ := 0, false, false
	for i, m := range missing {
		switch {
		case m < 0 || m > n+1 || m == n+1 && q == nil:
			return fmt.Errorf("raid6: no stripe %d among %d", m, n)
		case contains(missing[:i], m):
		case m == n:
			lostP = true
		case m == n+1:
			lostQ = true
		case lostData == len(lost):
			return fmt.Errorf("raid6: %w: three data stripes", ErrTooManyMissing)
		default:
			lost[lostData] = m
			lostData++
		}
	}
	haveP, haveQ := !lostP, q != nil && !lostQ
	switch {
	case lostData == 1 && haveP:
		sums(data, data[lost[0]], nil, lost[0], none)
		addTo(data[lost[0]], p)
	case lostData == 1 && haveQ:
		rebuildFromQ(data, q, lost[0])
	case lostData == 2 && haveP && haveQ:
		rebuildTwo(data, p, q, lost[0], lost[1])
	case lostData > 0:
		return fmt.Errorf("raid6: %w: %d data stripes, P %v, Q %v", ErrTooManyMissing, lostData, haveP, haveQ)
	}
	switch {
	case lostP && lostQ:
		sums(data, p, q, none, none)
	case lostP:
		sums(data, p, nil, none, none)
	case lostQ:
		sums(data, nil, q, none, none)
	}
	return nil
}

func contains(list []int, m int) bool {
	for _, v := range list {
		if v == m {
			return true
		}
	}
	return false
}

func check(data [][]byte, p, q []byte) error {
	if len(data) == 0 || len(data) > MaxData {
		return fmt.Errorf("raid6: %d data stripes", len(data))
	}
	for i, d := range data {
		if len(d) != len(p) {
			return fmt.Errorf("raid6: data stripe %d has %d bytes, P has %d", i, len(d), len(p))
		}
	}
	if q != nil && len(q) != len(p) {
		return fmt.Errorf("raid6: Q has %d bytes, P has %d", len(q), len(p))
	}
	return nil
}

// chunk is how much of each stripe is worked on at a time, so that the sums stay
// in the first-level cache while the data passes by.
const chunk = 4 << 10

// sums computes P into p and Q into q (either may be nil) of the data without
// stripes x and y. p and q may be the very buffers of stripes x and y.
func sums(data [][]byte, p, q []byte, x, y int) {
	for at, size := 0, max(len(p), len(q)); at < size; at += chunk {
		end := min(at+chunk, size)
		var pc, qc []byte
		if p != nil {
			pc = p[at:end]
			clear(pc)
		}
		if q != nil {
			qc = q[at:end]
			clear(qc)
		}
		// Horner's rule: the last stripe has the highest power of two.
		for i := len(data) - 1; i >= 0; i-- {
			if i == x || i == y {
				double(qc)
				continue
			}
			d := data[i][at:end]
			if pc != nil {
				addTo(pc, d)
			}
			if qc != nil {
				doubleAndAdd(qc, d)
			}
		}
	}
}

// rebuildFromQ makes data stripe x from Q and the other data.
func rebuildFromQ(data [][]byte, q []byte, x int) {
	d := data[x]
	sums(data, nil, d, x, none)
	// Q less the sum without Dx is 2^x·Dx.
	scale := newFactor(inverse(power(x)))
	for len(d) >= 8 {
		le.PutUint64(d, scale.mul(le.Uint64(d)^le.Uint64(q)))
		d, q = d[8:], q[8:]
	}
	for i := range d {
		d[i] = byte(scale.mul(uint64(d[i] ^ q[i])))
	}
}

// rebuildTwo makes data stripes x and y from P, Q and the other data.
//
// With A = Dx + Dy, which is P less the other data, and B = 2^x·Dx + 2^y·Dy, which
// is Q less the other data: Dx = (B + 2^y·A) / (2^x + 2^y) and Dy = A + Dx.
func rebuildTwo(data [][]byte, p, q []byte, x, y int) {
	dx, dy := data[x], data[y]
	sums(data, dx, dy, x, y)
	inv := inverse(power(x) ^ power(y))
	fromA, fromB := newFactor(mul(power(y), inv)), newFactor(inv)
	for len(dx) >= 8 {
		a := le.Uint64(dx) ^ le.Uint64(p)
		b := le.Uint64(dy) ^ le.Uint64(q)
		v := fromA.mul(a) ^ fromB.mul(b)
		le.PutUint64(dx, v)
		le.PutUint64(dy, a^v)
		dx, dy, p, q = dx[8:], dy[8:], p[8:], q[8:]
	}
	for i := range dx {
		a, b := uint64(dx[i]^p[i]), uint64(dy[i]^q[i])
		v := fromA.mul(a) ^ fromB.mul(b)
		dx[i], dy[i] = byte(v), byte(a^v)
	}
}

var le = binary.LittleEndian
