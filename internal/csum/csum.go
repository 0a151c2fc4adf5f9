// Package csum has the checksums and hashes that stand on a btrfs disk: the four
// block checksums, the hashes in the keys of directory items, extended inode
// references and extent data references, and the checksum of send streams.
//
// Everything here is a pure function and safe for concurrent use. The hashes
// themselves live in package disk, whose validators need them.
package csum

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/crypto/blake2b"

	"gobtrfs/disk"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum is the checksum of b as it stands in the 32-byte field of tree blocks and
// superblocks: the algorithm's own bytes first, zeros behind them. An unknown
// algorithm gives zeros; who opens a filesystem refuses those beforehand.
func Sum(t disk.CsumType, b []byte) [disk.CsumSize]byte {
	switch t {
	case disk.CsumSHA256:
		return sha256.Sum256(b)
	case disk.CsumBLAKE2b:
		return blake2b.Sum256(b)
	case disk.CsumXXHash:
		var s [disk.CsumSize]byte
		binary.LittleEndian.PutUint64(s[:], xxhash.Sum64(b))
		return s
	case disk.CsumCRC32C:
		var s [disk.CsumSize]byte
		binary.LittleEndian.PutUint32(s[:], crc32.Checksum(b, castagnoli))
		return s
	}
	return [disk.CsumSize]byte{}
}

// Append appends the t.Size() bytes of b's checksum to dst. It allocates only
// to grow dst.
func Append(dst []byte, t disk.CsumType, b []byte) []byte {
	switch t {
	case disk.CsumCRC32C:
		return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(b, castagnoli))
	case disk.CsumXXHash:
		return binary.LittleEndian.AppendUint64(dst, xxhash.Sum64(b))
	}
	s := Sum(t, b)
	return append(dst, s[:t.Size()]...)
}

// Verify says whether want begins with the checksum of data. What stands behind
// the algorithm's own bytes does not count, as in the kernel. An unknown
// algorithm or a want that is too short never verifies.
func Verify(t disk.CsumType, want, data []byte) bool {
	n := t.Size()
	if n == 0 || len(want) < n {
		return false
	}
	switch t {
	case disk.CsumCRC32C:
		return binary.LittleEndian.Uint32(want) == crc32.Checksum(data, castagnoli)
	case disk.CsumXXHash:
		return binary.LittleEndian.Uint64(want) == xxhash.Sum64(data)
	}
	s := Sum(t, data)
	return bytes.Equal(want[:n], s[:n])
}

// AppendBlocks appends the checksums of every blockSize bytes of data, in order
// and without gaps, as an extent csum item holds them. The last block may be
// short.
func AppendBlocks(dst []byte, t disk.CsumType, data []byte, blockSize int) []byte {
	for len(data) > 0 {
		n := min(blockSize, len(data))
		dst = Append(dst, t, data[:n])
		data = data[n:]
	}
	return dst
}

// VerifyBlocks compares the checksums in want (as AppendBlocks makes them) with
// those of data, and returns the index of the first block that differs or has
// no checksum, or -1 when all agree.
func VerifyBlocks(t disk.CsumType, want, data []byte, blockSize int) int {
	size := t.Size()
	for i := 0; len(data) > 0; i++ {
		n := min(blockSize, len(data))
		if !Verify(t, want, data[:n]) {
			return i
		}
		want, data = want[size:], data[n:]
	}
	return -1
}

// NameHash is disk.NameHash, the hash in the keys of directory items and xattrs.
func NameHash(name []byte) uint32 { return disk.NameHash(name) }

// ExtrefHash is disk.ExtrefHash, the hash in the keys of extended inode references.
func ExtrefHash(parent disk.ObjectID, name []byte) uint64 { return disk.ExtrefHash(parent, name) }

// DataRefHash is disk.DataRefHash, the hash in the keys of data references.
func DataRefHash(root, ino disk.ObjectID, offset uint64) uint64 {
	return disk.DataRefHash(root, ino, offset)
}

// SendCRC is the checksum of a command of a send stream, over the whole command
// with its own checksum field set to zero. It is a raw CRC: seeded with zero, and
// read without the inversions that hash/crc32 does.
func SendCRC(b []byte) uint32 { return ^crc32.Update(^uint32(0), castagnoli, b) }
