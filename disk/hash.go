package disk

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// rawCRC continues the CRC register seed over b. The kernel seeds the register
// and reads it without the two inversions that hash/crc32 does.
func rawCRC(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

// NameHash is the offset of the key of the directory item and of the xattr item
// for name.
func NameHash(name []byte) uint32 { return rawCRC(^uint32(1), name) }

// ExtrefHash is the offset of the key of the extended inode reference for name
// in directory parent.
func ExtrefHash(parent ObjectID, name []byte) uint64 {
	return uint64(rawCRC(uint32(parent), name))
}

// DataRefHash is the offset of the key of an EXTENT_DATA_REF item, and what
// inline references of that type are sorted by.
func DataRefHash(root, ino ObjectID, offset uint64) uint64 {
	var b [24]byte
	le.PutUint64(b[:], uint64(root))
	le.PutUint64(b[8:], uint64(ino))
	le.PutUint64(b[16:], offset)
	return dataRefHash(b[:])
}

// dataRefHash hashes the first 24 bytes of a data reference, as they stand on
// disk: tree, inode, offset.
//
// The two halves of the result overlap by one bit, because the high one is
// shifted by 31 and not by 32. That is part of the format.
func dataRefHash(b []byte) uint64 {
	high, low := rawCRC(^uint32(0), b[:8]), rawCRC(^uint32(0), b[8:24])
	return uint64(high)<<31 ^ uint64(low)
}
