package check

import (
	"hash/maphash"
	"math/bits"

	"gobtrfs/disk"
)

// hasher makes the terms of the sums that stand for multisets (see the package
// comment). Its keys are random in every process, so no image can be made whose
// differences cancel.
type hasher struct {
	seed   maphash.Seed
	k0, k1 uint64
}

func newHasher() *hasher {
	return &hasher{seed: maphash.MakeSeed(), k0: randomWord(), k1: randomWord()}
}

// randomWord takes a word from the runtime's own randomness: nothing here ends
// on a disk, so it need not be reproducible.
func randomWord() uint64 { return maphash.Bytes(maphash.MakeSeed(), nil) }

// mix is a keyed hash of two words; never even, so that n·mix is 0 modulo 2⁶⁴
// for no n below 2⁶⁴ but 0, and counts can be compared as multiples.
func (h *hasher) mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^h.k0, b^h.k1)
	hi, lo = bits.Mul64(hi^lo^h.k1, a+b^0x9e3779b97f4a7c15^h.k0)
	return (hi ^ lo) | 1
}

func (h *hasher) bytes(b []byte) uint64 { return maphash.Bytes(h.seed, b) }

// name is the term of one name of an inode: the directory, the index in it, the
// inode, the bytes.
func (h *hasher) name(dir, index, ino uint64, name []byte) uint64 {
	return h.mix(h.mix(dir, index), h.mix(ino, h.bytes(name)))
}

// entry is the term of a directory entry without its index.
func (h *hasher) entry(d *disk.DirItem) uint64 {
	loc := h.mix(uint64(d.Location.ObjectID)+uint64(d.Location.Type)<<56, d.Location.Offset)
	return h.mix(loc+uint64(d.Type)<<48, h.bytes(d.Name))
}

// fileType is the term of "inode ino has directory-entry type t".
func (h *hasher) fileType(ino uint64, t uint8) uint64 { return h.mix(ino, 0xf11e0000+uint64(t)) }

// position is the term of an address; ranges are the difference of the terms of
// their end and their start.
func (h *hasher) position(p uint64) uint64 { return h.mix(p, 0x5bace) }

// Salts that keep the terms of different facts about an extent apart.
const (
	saltShape  = 0x5ba9e << 32
	saltTotal  = 0x707a1 << 32
	saltRoot   = 0x9007 << 32
	saltParent = 0x9a9e97 << 32
)

// shape is the term of "the extent at addr has this length and level".
func (h *hasher) shape(addr, length uint64, level int, data bool) uint64 {
	salt := uint64(saltShape) + uint64(level)<<1
	if data {
		salt = saltShape + 1
	}
	return h.mix(h.mix(addr, salt), length)
}

// total is the term of one reference, of whatever kind, to the extent at addr.
func (h *hasher) total(addr uint64) uint64 { return h.mix(addr, saltTotal) }

// ref is the term of one reference to the extent at addr.
func (h *hasher) ref(addr uint64, r *disk.ExtentRef) uint64 {
	switch r.Type {
	case disk.KeyTreeBlockRef:
		return h.mix(h.mix(addr, saltRoot), uint64(r.Root))
	case disk.KeySharedBlockRef, disk.KeySharedDataRef:
		return h.mix(h.mix(addr, saltParent+uint64(r.Type)), uint64(r.Parent))
	}
	return h.mix(h.mix(addr, saltRoot+1+uint64(r.Root)), h.mix(uint64(r.ObjectID), r.Offset))
}
