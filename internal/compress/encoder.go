package compress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"sync"

	"github.com/klauspost/compress/flate"

	"gobtrfs/disk"
	"gobtrfs/internal/lzo"
	"gobtrfs/internal/zstd"
)

// An Encoder compresses extents with one algorithm at one level. It is safe for
// concurrent use; make one per Spec and share it. What it makes depends on its
// input alone, not on what it saw before, on other goroutines or on GOMAXPROCS,
// and Linux reads it.
//
// Memory, per goroutine inside Compress and kept for the next: lzo 32 KiB, zlib
// 1.5 MiB (twice that at level 9), zstd 1.3 MiB.
type Encoder struct {
	spec       Spec
	sectorSize int
	pool       sync.Pool // *deflater, *lzo.Compressor or *zstd.Encoder
}

// NewEncoder makes an encoder for a filesystem with this sector size. The spec
// must name an algorithm.
func NewEncoder(spec Spec, sectorSize int) (*Encoder, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if sectorSize < 512 || sectorSize&(sectorSize-1) != 0 {
		return nil, fmt.Errorf("sector size %d is not possible", sectorSize)
	}
	e := &Encoder{spec: spec, sectorSize: sectorSize}
	level := spec.level()
	switch spec.Algorithm {
	case disk.CompressZlib:
		first, err := newDeflater(level)
		if err != nil {
			return nil, err
		}
		e.pool.New = func() any {
			d, _ := newDeflater(level) // fails only for a level that does not exist
			return d
		}
		e.pool.Put(first)
	case disk.CompressLZO:
		e.pool.New = func() any { return new(lzo.Compressor) }
	case disk.CompressZstd:
		e.pool.New = func() any { return zstd.NewEncoder(level) }
	default:
		return nil, errors.New("no compression to encode with")
	}
	return e, nil
}

// Spec is what the encoder was made with.
func (e *Encoder) Spec() Spec { return e.spec }

// Compress appends the frame of a regular extent for src to dst; the caller
// pads it with zeros to whole sectors. It reports false, and dst as it was, where
// that would not save at least one sector: Linux keeps such extents plain, and so
// it does with more than MaxUncompressed bytes.
func (e *Encoder) Compress(dst, src []byte) ([]byte, bool) {
	plain := e.roundUp(len(src))
	if plain < 2*e.sectorSize {
		return dst, false
	}
	return e.compress(dst, src, plain-e.sectorSize)
}

// CompressInline appends the content of an inline extent for src to dst. It
// reports false, and dst as it was, where that is not smaller than src.
func (e *Encoder) CompressInline(dst, src []byte) ([]byte, bool) {
	if len(src) > e.sectorSize {
		return dst, false // lzo would need a second segment, which Linux does not look for
	}
	return e.compress(dst, src, len(src)-1)
}

func (e *Encoder) roundUp(n int) int { return (n + e.sectorSize - 1) &^ (e.sectorSize - 1) }

// compress appends src's frame to dst if it has no more than limit bytes.
func (e *Encoder) compress(dst, src []byte, limit int) ([]byte, bool) {
	if len(src) == 0 || len(src) > MaxUncompressed || limit <= 0 {
		return dst, false
	}
	begin := len(dst)
	out := dst
	switch e.spec.Algorithm {
	case disk.CompressZlib:
		d := e.pool.Get().(*deflater)
		defer e.pool.Put(d)
		out = d.compress(dst, src, limit)
	case disk.CompressLZO:
		c := e.pool.Get().(*lzo.Compressor)
		defer e.pool.Put(c)
		out = e.compressLZO(c, dst, src, limit)
	case disk.CompressZstd:
		z := e.pool.Get().(*zstd.Encoder)
		defer e.pool.Put(z)
		out, _ = z.Encode(dst, src)
	}
	if n := len(out) - begin; n == 0 || n > limit {
		return out[:begin], false
	}
	return out, true
}

// compressLZO makes the framing that decompressLZO describes. It appends
// nothing once it is clear that limit is not enough.
func (e *Encoder) compressLZO(c *lzo.Compressor, dst, src []byte, limit int) []byte {
	begin := len(dst)
	out := append(dst, 0, 0, 0, 0)
	for len(src) > 0 {
		// A segment's length does not cross a sector boundary.
		if left := e.sectorSize - (len(out)-begin)%e.sectorSize; left < 4 {
			out = append(out, make([]byte, left)...)
		}
		n := min(len(src), e.sectorSize)
		at := len(out)
		out = c.Compress(append(out, 0, 0, 0, 0), src[:n])
		binary.LittleEndian.PutUint32(out[at:], uint32(len(out)-at-4))
		if len(out)-begin > limit {
			return out[:begin]
		}
		src = src[n:]
	}
	binary.LittleEndian.PutUint32(out[begin:], uint32(len(out)-begin))
	return out
}

// deflater is a pooled deflate writer with the buffer it writes to. At level 9
// there are two: the library's level 9 is the best on most data, but misses
// nearly all matches of data made of runs (19 times the size of level 8), so both
// are tried and the smaller result is kept.
type deflater struct {
	writers []*flate.Writer
	out     limitedBuffer
}

func newDeflater(level int) (*deflater, error) {
	d := new(deflater)
	for l := min(level, 8); l <= level; l++ {
		w, err := flate.NewWriter(&d.out, l)
		if err != nil {
			return nil, err
		}
		d.writers = append(d.writers, w)
	}
	return d, nil
}

// compress appends src as a zlib stream, or nothing if limit is not enough.
func (d *deflater) compress(dst, src []byte, limit int) []byte {
	defer func() { d.out = limitedBuffer{} }() // do not keep dst alive
	begin := len(dst)
	for _, w := range d.writers {
		// The stream is made in the room behind dst, then moved over an
		// earlier one, than which it is smaller.
		if stream := d.stream(w, dst[len(dst):], src, limit); len(stream) > 0 {
			dst = append(dst[:begin], stream...)
			limit = len(stream) - 1
		}
	}
	return dst
}

// stream appends a zlib stream of at most limit bytes to dst, or returns nil.
func (d *deflater) stream(w *flate.Writer, dst, src []byte, limit int) []byte {
	const header, trailer = 2, 4
	d.out = limitedBuffer{b: append(dst, 0x78, 0x01), left: limit - header - trailer}
	w.Reset(&d.out)
	if _, err := w.Write(src); err != nil {
		return nil
	}
	if err := w.Close(); err != nil {
		return nil
	}
	return binary.BigEndian.AppendUint32(d.out.b, adler32.Checksum(src))
}

// limitedBuffer refuses to grow by more than left bytes, which ends the
// compression of data that does not compress early.
type limitedBuffer struct {
	b    []byte
	left int
}

var errFull = errors.New("no room left")

func (l *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, errFull
	}
	l.left -= len(p)
	l.b = append(l.b, p...)
	return len(p), nil
}
