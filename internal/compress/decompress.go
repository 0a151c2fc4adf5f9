// Package compress reads and writes the compressed extents of btrfs: zlib, zstd
// and lzo, in the framing that each has on disk.
//
// An extent is compressed as a whole, at most MaxUncompressed bytes at a time. On
// disk a regular extent takes whole sectors: the frame, then zeros up to
// disk_num_bytes. The file item tells ram_bytes, the size the extent had in
// memory, which is a multiple of the sector size too; the frame holds only what
// lies before the end of the file, so it may be shorter, and the rest reads as
// zeros. An inline extent has neither padding nor tail.
//
// All functions and the Encoder are safe for concurrent use.
package compress

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"gobtrfs/disk"
	"gobtrfs/internal/lzo"
)

// Sizes that the format fixes.
const (
	MaxUncompressed = 128 << 10 // most bytes that one compressed extent stands for
	maxWindow       = 128 << 10 // Linux refuses zstd frames that need a larger one
)

// ErrCorrupt is wrapped by the errors about frames that do not decode.
var ErrCorrupt = errors.New("corrupt compressed extent")

func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// Decompress decodes one extent: src is all that the extent has on disk, padding
// included, and dst is filled to its length, which should be the item's
// ram_bytes. n says how many bytes the frame made; what is behind them is set to
// zero. sectorSize is that of the filesystem; lzo needs it.
//
// As in Linux, a zlib stream or an lzo extent that would make more than len(dst)
// is cut there. After an error dst holds whatever was decoded before.
//
// Memory is bounded: besides dst about 200 KiB per concurrent call, from pools.
func Decompress(algo disk.Compression, dst, src []byte, sectorSize int) (n int, err error) {
	switch algo {
	case disk.CompressZlib:
		n, err = inflate(dst, src)
	case disk.CompressLZO:
		n, err = decompressLZO(dst, src, sectorSize)
	case disk.CompressZstd:
		n, err = decompressZstd(dst, src)
	default:
		return 0, corruptf("unknown algorithm %v", algo)
	}
	if err != nil {
		return n, fmt.Errorf("%v: %w", algo, err)
	}
	clear(dst[n:])
	return n, nil
}

// inflater is a pooled deflate reader with the input it reads from.
type inflater struct {
	in bytes.Reader
	r  io.ReadCloser
}

var inflaters = sync.Pool{New: func() any {
	f := new(inflater)
	f.r = flate.NewReader(&f.in)
	return f
}}

// inflate reads a zlib stream. Like Linux it looks at the header only to skip
// it, and leaves the Adler checksum alone: the extent's own checksums cover it.
func inflate(dst, src []byte) (int, error) {
	const methodDeflate, presetDict = 8, 0x20
	if len(src) < 2 || src[0]&15 != methodDeflate || src[0]>>4 > 7 || src[1]&presetDict != 0 ||
		binary.BigEndian.Uint16(src)%31 != 0 {
		return 0, corruptf("no zlib header")
	}
	f := inflaters.Get().(*inflater)
	defer func() {
		f.in.Reset(nil) // do not keep src alive
		inflaters.Put(f)
	}()
	f.in.Reset(src[2:])
	if err := f.r.(flate.Resetter).Reset(&f.in, nil); err != nil {
		return 0, err
	}
	n := 0
	for n < len(dst) {
		m, err := f.r.Read(dst[n:])
		n += m
		if err == io.EOF {
			break
		}
		if err != nil {
			return n, corruptf("%v after %d bytes", err, n)
		}
	}
	return n, nil
}

// decompressLZO reads the framing that btrfs gives to lzo: the total length (four
// bytes, itself included), then per sector of plain data its compressed length
// (four bytes) and data. Such a length never crosses a sector boundary: where
// fewer than four bytes are left in a sector of the compressed extent, they are
// skipped, even behind the last segment.
func decompressLZO(dst, src []byte, sectorSize int) (int, error) {
	const header = 4
	if sectorSize < header || len(src) < header {
		return 0, corruptf("%d bytes are too few", len(src))
	}
	total := int64(binary.LittleEndian.Uint32(src))
	if total > int64(len(src)) || total+int64(sectorSize) <= int64(len(src)) {
		return 0, corruptf("length %d in an extent of %d bytes", total, len(src))
	}
	src = src[:total]
	n := 0
	for at := header; at < len(src) && n < len(dst); {
		if left := sectorSize - at%sectorSize; left < header {
			if at += left; at >= len(src) {
				break
			}
		}
		if len(src)-at < header {
			return n, corruptf("segment at %d is cut off", at)
		}
		size := int64(binary.LittleEndian.Uint32(src[at:]))
		if at += header; size > int64(len(src)-at) {
			return n, corruptf("segment at %d has %d bytes, %d are there", at, size, len(src)-at)
		}
		made, err := lzo.Decompress(dst[n:min(n+sectorSize, len(dst))], src[at:at+int(size)])
		if err != nil {
			return n, corruptf("segment at %d: %v", at, err)
		}
		n += made
		at += int(size)
	}
	return n, nil
}

var zstdDecoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // constant options; cannot fail
	}
	return d
}}

// NewZstdReader reads a zstd stream of any length, such as a compressed archive. It
// refuses windows beyond 128 MiB, as the zstd command does.
func NewZstdReader(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

func decompressZstd(dst, src []byte) (int, error) {
	// The padding would be taken for another frame, so the frame is cut out.
	size, err := zstdFrameLen(src)
	if err != nil {
		return 0, err
	}
	d := zstdDecoders.Get().(*zstd.Decoder)
	defer zstdDecoders.Put(d)
	out, err := d.DecodeAll(src[:size], dst[:0:len(dst)])
	if err != nil {
		return 0, corruptf("%v", err)
	}
	// The capacity of dst bounds the output, so this is a copy only if the
	// decoder took a buffer of its own.
	if len(out) > 0 && &out[0] != &dst[0] {
		copy(dst, out)
	}
	return len(out), nil
}

// zstdFrameLen is the length of the zstd frame that src begins with: the header,
// then blocks, each with its size in three bytes, up to one marked last.
func zstdFrameLen(src []byte) (int, error) {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return 0, corruptf("%v", err)
	}
	if h.Skippable {
		return 0, corruptf("a skippable frame")
	}
	const blockHeader, typeRLE = 3, 1
	for at := h.HeaderSize; at+blockHeader <= len(src); {
		block := uint32(src[at]) | uint32(src[at+1])<<8 | uint32(src[at+2])<<16
		last, size := block&1 == 1, int(block>>3)
		if block>>1&3 == typeRLE {
			size = 1 // the size is that of the run
		}
		at += blockHeader + size
		if last {
			if h.HasCheckSum {
				at += 4
			}
			if at > len(src) {
				break
			}
			return at, nil
		}
	}
	return 0, corruptf("the frame does not end within %d bytes", len(src))
}
