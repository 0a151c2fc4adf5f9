package raid6

// GF(2^8): a byte is a polynomial over GF(2), modulo x^8 + x^4 + x^3 + x^2 + 1.
// Doubling shifts left and, where a bit falls out, adds the low byte of that
// polynomial. The generator is 2.

const (
	reduction = 0x1d
	lowBits   = 0x0101010101010101 // the lowest bit of each byte of a word
)

// double2 doubles each of the eight bytes of v.
func double2(v uint64) uint64 {
	return v&^(lowBits<<7)<<1 ^ v>>7&lowBits*reduction
}

// mul is the product of two elements.
func mul(a, b byte) byte {
	f := newFactor(a)
	return byte(f.mul(uint64(b)))
}

// power is 2 to the n.
func power(n int) byte {
	v := uint64(1)
	for range n {
		v = double2(v)
	}
	return byte(v)
}

// inverse is 1/a for a ≠ 0: the group has 255 elements, so a^254 · a = 1.
func inverse(a byte) byte {
	v, square := byte(1), a
	for range 7 { // 254 = 0b1111_1110
		square = mul(square, square)
		v = mul(v, square)
	}
	return v
}

// factor multiplies eight bytes at a time by a constant: the sum of those powers
// of two whose bits are set in it. Each mask is all ones or zero.
type factor [8]uint64

func newFactor(c byte) factor {
	var f factor
	for bit := range f {
		f[bit] = -uint64(c >> bit & 1)
	}
	return f
}

func (f *factor) mul(v uint64) uint64 {
	sum := v & f[0]
	for _, mask := range f[1:] {
		v = double2(v)
		sum ^= v & mask
	}
	return sum
}

// addTo adds src to dst, which has the same length.
func addTo(dst, src []byte) {
	src = src[:len(dst)]
	for len(dst) >= 32 {
		le.PutUint64(dst, le.Uint64(dst)^le.Uint64(src))
		le.PutUint64(dst[8:], le.Uint64(dst[8:])^le.Uint64(src[8:]))
		le.PutUint64(dst[16:], le.Uint64(dst[16:])^le.Uint64(src[16:]))
		le.PutUint64(dst[24:], le.Uint64(dst[24:])^le.Uint64(src[24:]))
		dst, src = dst[32:], src[32:]
	}
	for i := range dst {
		dst[i] ^= src[i]
	}
}

// double doubles dst.
func double(dst []byte) {
	for len(dst) >= 8 {
		le.PutUint64(dst, double2(le.Uint64(dst)))
		dst = dst[8:]
	}
	for i := range dst {
		dst[i] = byte(double2(uint64(dst[i])))
	}
}

// doubleAndAdd doubles dst and adds src, which has the same length.
func doubleAndAdd(dst, src []byte) {
	src = src[:len(dst)]
	for len(dst) >= 16 {
		le.PutUint64(dst, double2(le.Uint64(dst))^le.Uint64(src))
		le.PutUint64(dst[8:], double2(le.Uint64(dst[8:]))^le.Uint64(src[8:]))
		dst, src = dst[16:], src[16:]
	}
	for i := range dst {
		dst[i] = byte(double2(uint64(dst[i]))) ^ src[i]
	}
}
