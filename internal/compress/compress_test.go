package compress

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"gobtrfs/disk"
)

const sectorSize = 4096

// extent is one line of the index of testdata, with its file.
type extent struct {
	name     string
	algo     disk.Compression
	inline   bool
	ram      int // ram_bytes
	frame    int // bytes before the end of the file
	sha256   string
	contents []byte
}

func kernelExtents(t testing.TB) []extent {
	t.Helper()
	f, err := os.Open("testdata/kernel-6.18.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "./")] = b
	}
	algos := map[string]disk.Compression{"zlib": disk.CompressZlib, "lzo": disk.CompressLZO, "zstd": disk.CompressZstd}
	var list []extent
	for s := bufio.NewScanner(bytes.NewReader(files["index"])); s.Scan(); {
		w := strings.Fields(s.Text())
		ram, err1 := strconv.Atoi(w[3])
		frame, err2 := strconv.Atoi(w[4])
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		list = append(list, extent{w[0], algos[w[1]], w[2] == "inline", ram, frame, w[5], files[w[0]]})
	}
	if len(list) < 30 {
		t.Fatalf("testdata has %d extents only", len(list))
	}
	return list
}

func TestKernelExtents(t *testing.T) {
	for _, e := range kernelExtents(t) {
		t.Run(e.name, func(t *testing.T) {
			dst := bytes.Repeat([]byte{0xee}, e.ram)
			n, err := Decompress(e.algo, dst, e.contents, sectorSize)
			if err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(dst); hex.EncodeToString(sum[:]) != e.sha256 {
				t.Errorf("wrong contents")
			}
			// Linux feeds zlib and lzo whole sectors, zeros behind the end of
			// the file included, but zstd exactly the file.
			if n != e.frame && n != e.ram {
				t.Errorf("the frame made %d bytes, want %d or %d", n, e.frame, e.ram)
			}
			half := bytes.TrimRight(e.contents, "\x00")
			half = half[:len(half)/2]
			if _, err := Decompress(e.algo, dst, half, sectorSize); !errors.Is(err, ErrCorrupt) {
				t.Errorf("half of the frame: error %v", err)
			}
		})
	}
}

// The goldens must hold the trap of the lzo framing: a length that would cross a
// sector boundary, at the end of an extent too.
func TestKernelExtentsHaveLZOGaps(t *testing.T) {
	inside, atEnd := 0, 0
	for _, e := range kernelExtents(t) {
		if e.algo != disk.CompressLZO {
			continue
		}
		total := int(binary.LittleEndian.Uint32(e.contents))
		for at := 4; at < total; {
			if left := sectorSize - at%sectorSize; left < 4 {
				if at += left; at >= total {
					atEnd++
					break
				}
				inside++
			}
			at += 4 + int(binary.LittleEndian.Uint32(e.contents[at:]))
		}
	}
	if inside < 3 || atEnd < 1 {
		t.Errorf("%d gaps between segments, %d at the end", inside, atEnd)
	}
}

var specs = []string{"zlib:1", "zlib:3", "zlib:6", "zlib:9", "lzo", "zstd:-5", "zstd:1", "zstd:3", "zstd:8", "zstd:15"}

func newEncoder(t testing.TB, spec string) *Encoder {
	t.Helper()
	s, err := ParseSpec(spec)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEncoder(s, sectorSize)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// sample draws at most n bytes, often much fewer, of mixed text, noise and runs.
func sample(r *rand.Rand, n int) []byte {
	n = 1 + r.IntN(1+r.IntN(1+r.IntN(n)))
	b := make([]byte, 0, n+2048)
	noise := r.IntN(4)
	for len(b) < n {
		switch k := r.IntN(6); {
		case k < noise:
			for range r.IntN(3000) {
				b = append(b, byte(r.Uint32()))
			}
		case k == 4:
			b = append(b, bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(2000))...)
		default:
			b = fmt.Appendf(b, "line %d of some text with %x in it, then more;\n", r.IntN(1000), r.Uint32())
		}
	}
	return b[:n]
}

func TestRoundTrip(t *testing.T) {
	for _, spec := range specs {
		t.Run(spec, func(t *testing.T) {
			e := newEncoder(t, spec)
			kept := 0
			rapid.Check(t, func(rt *rapid.T) {
				seed := rapid.Uint64().Draw(rt, "seed")
				plain := sample(rand.New(rand.NewPCG(seed, 0)), MaxUncompressed)
				out, ok := e.Compress([]byte("head"), plain)
				if string(out[:4]) != "head" || !ok && len(out) != 4 {
					rt.Fatalf("what was in dst is gone: %q", out[:min(len(out), 10)])
				}
				if !ok {
					return
				}
				kept++
				frame := out[4:]
				sectors := func(n int) int { return (n + sectorSize - 1) / sectorSize }
				if sectors(len(frame)) >= sectors(len(plain)) {
					rt.Fatalf("%d bytes kept for %d", len(frame), len(plain))
				}
				// Padding follows, and the buffer goes on behind the file's end.
				frame = append(frame, make([]byte, sectors(len(frame))*sectorSize-len(frame))...)
				dst := bytes.Repeat([]byte{0xee}, sectors(len(plain))*sectorSize)
				n, err := Decompress(e.spec.Algorithm, dst, frame, sectorSize)
				if err != nil || n != len(plain) || !bytes.Equal(dst[:n], plain) {
					rt.Fatalf("%d of %d bytes came back, error %v", n, len(plain), err)
				}
				if len(bytes.Trim(dst[n:], "\x00")) != 0 {
					rt.Fatal("the tail is not zero")
				}
			})
			if kept < 5 {
				t.Errorf("only %d of the samples compressed", kept)
			}
		})
	}
}

func TestOutputDependsOnInputOnly(t *testing.T) {
	for _, spec := range specs {
		t.Run(spec, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(3, 4))
			used := newEncoder(t, spec)
			for range 20 {
				plain := sample(r, MaxUncompressed)
				got, ok1 := used.Compress(nil, plain)
				want, ok2 := newEncoder(t, spec).Compress(nil, plain)
				if ok1 != ok2 || !bytes.Equal(got, want) {
					t.Fatalf("an encoder that was used before makes %d bytes, a new one %d", len(got), len(want))
				}
			}
		})
	}
}

func TestKeepOnlyIfSmaller(t *testing.T) {
	noise := make([]byte, MaxUncompressed)
	r := rand.New(rand.NewPCG(5, 6))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	half := append(bytes.Clone(noise[:4096]), make([]byte, 4096)...)
	for _, spec := range specs {
		e := newEncoder(t, spec)
		for _, tc := range []struct {
			name  string
			plain []byte
			want  bool
		}{
			{"nothing", nil, false},
			{"one sector of zeros", make([]byte, sectorSize), false},
			{"one byte more", make([]byte, sectorSize+1), true},
			{"noise", noise, false},
			{"a sector and a bit of noise, a sector of zeros", half, false},
			{"two sectors of noise and two of zeros", append(bytes.Clone(noise[:8192]), make([]byte, 8192)...), true},
			{"the longest extent", make([]byte, MaxUncompressed), true},
			{"more than an extent", make([]byte, MaxUncompressed+1), false},
		} {
			if _, ok := e.Compress(nil, tc.plain); ok != tc.want {
				t.Errorf("%s: %s: kept is %v, want %v", spec, tc.name, ok, tc.want)
			}
		}
	}
}

func TestZlibLevelsImproveOnRuns(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	var runs []byte
	for len(runs) < 90<<10 {
		runs = append(runs, bytes.Repeat([]byte{byte(r.Uint32())}, 1+r.IntN(700))...)
	}
	for level := 1; level <= 9; level++ {
		out, _ := newEncoder(t, fmt.Sprint("zlib:", level)).Compress(nil, runs)
		if len(out) == 0 || len(out) > 1500 {
			t.Errorf("level %d: %d bytes", level, len(out))
		}
	}
}

func TestInline(t *testing.T) {
	text := bytes.Repeat([]byte("inline "), 200)
	for _, spec := range specs {
		e := newEncoder(t, spec)
		out, ok := e.CompressInline(nil, text)
		if !ok || len(out) >= len(text) {
			t.Fatalf("%s: %d bytes for %d", spec, len(out), len(text))
		}
		dst := make([]byte, len(text))
		if n, err := Decompress(e.spec.Algorithm, dst, out, sectorSize); err != nil || n != len(text) || !bytes.Equal(dst, text) {
			t.Errorf("%s: %d bytes came back, error %v", spec, n, err)
		}
		if _, ok := e.CompressInline(nil, []byte("abc")); ok {
			t.Errorf("%s: three bytes became fewer", spec)
		}
		if _, ok := e.CompressInline(nil, make([]byte, sectorSize+1)); ok {
			t.Errorf("%s: more than a sector was made inline", spec)
		}
	}
}

func TestDecompressRefuses(t *testing.T) {
	lzoText, _ := newEncoder(t, "lzo").Compress(nil, bytes.Repeat([]byte("text"), 4096))
	zstdText, _ := newEncoder(t, "zstd").Compress(nil, bytes.Repeat([]byte("text"), 4096))
	edit := func(b []byte, at int, v byte) []byte { b = bytes.Clone(b); b[at] = v; return b }
	for _, tc := range []struct {
		name string
		algo disk.Compression
		src  []byte
	}{
		{"no algorithm", disk.CompressNone, lzoText},
		{"an algorithm of the future", 4, lzoText},
		{"empty zlib", disk.CompressZlib, nil},
		{"zlib with a preset dictionary", disk.CompressZlib, []byte{0x78, 0x20, 0, 0, 0}},
		{"gzip as zlib", disk.CompressZlib, []byte{0x1f, 0x8b, 8, 0, 0}},
		{"empty lzo", disk.CompressLZO, nil},
		{"lzo longer than the extent", disk.CompressLZO, edit(lzoText, 1, 0xff)},
		{"lzo with a whole sector unused", disk.CompressLZO, append(bytes.Clone(lzoText), make([]byte, sectorSize)...)},
		{"lzo segment longer than the extent", disk.CompressLZO, edit(lzoText, 5, 0xff)},
		{"lzo segment of 4 GiB", disk.CompressLZO, edit(lzoText, 7, 0xff)},
		{"lzo segment with garbage", disk.CompressLZO, edit(lzoText, 8, 0)},
		{"empty zstd", disk.CompressZstd, nil},
		{"zstd without its last byte", disk.CompressZstd, zstdText[:len(zstdText)-1]},
		{"zstd that would make more than there is room for", disk.CompressZstd, newBigZstd(t)},
		{"zstd skippable frame", disk.CompressZstd, []byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0}},
	} {
		dst := make([]byte, 4*sectorSize)
		if n, err := Decompress(tc.algo, dst, tc.src, sectorSize); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %d bytes, error %v", tc.name, n, err)
		}
	}
}

func newBigZstd(t *testing.T) []byte {
	b, ok := newEncoder(t, "zstd").Compress(nil, make([]byte, 5*sectorSize))
	if !ok {
		t.Fatal("zeros do not compress")
	}
	return b
}

// A stream that makes more than ram_bytes is cut, as Linux does.
func TestZlibOverlongIsCut(t *testing.T) {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := w.Write(bytes.Repeat([]byte("0123456789"), 1000)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, 15)
	if n, err := Decompress(disk.CompressZlib, dst, b.Bytes(), sectorSize); n != 15 || err != nil || string(dst) != "012345678901234" {
		t.Errorf("%d bytes %q, error %v", n, dst, err)
	}
}

func TestParseSpec(t *testing.T) {
	for in, want := range map[string]string{
		"none": "none", "no": "none", "zlib": "zlib:3", "zlib:0": "zlib:3", "zlib:9": "zlib:9", "lzo": "lzo",
		"zstd": "zstd:3", "zstd:15": "zstd:15", "zstd:-15": "zstd:-15",
		"zlib:10": "", "zlib:-1": "", "lzo:1": "", "zstd:16": "", "zstd:x": "", "gzip": "", "": "", "none:3": "",
	} {
		got, err := ParseSpec(in)
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("ParseSpec(%q) = %v, %v", in, got, err)
		}
	}
	for _, s := range []Spec{{}, {disk.CompressLZO, 3}, {disk.CompressZlib, 12}, {9, 0}} {
		if _, err := NewEncoder(s, sectorSize); err == nil {
			t.Errorf("an encoder for %#v", s)
		}
	}
	if _, err := NewEncoder(Spec{disk.CompressLZO, 0}, 5000); err == nil {
		t.Error("an encoder for sectors of 5000 bytes")
	}
}

func TestCompressible(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	code, err := os.ReadFile("compress_test.go")
	if err != nil {
		t.Fatal(err)
	}
	packed, _ := newEncoder(t, "zstd:15").Compress(nil, code)
	for _, tc := range []struct {
		name string
		data []byte
		want bool
	}{
		{"noise", noise, false},
		{"noise twice", append(bytes.Clone(noise), noise...), true},
		{"a zstd frame", packed, false},
		{"source code", code, true},
		{"base64 letters", bytes.Map(func(c rune) rune { return c & 63 }, code), true},
		{"zeros", make([]byte, 4096), true},
		{"little noise", noise[:500], true},
	} {
		if got := Compressible(tc.data); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func FuzzDecompress(f *testing.F) {
	for _, e := range kernelExtents(f) {
		if len(e.contents) <= 8192 {
			f.Add(uint8(e.algo), e.contents, e.ram)
		}
	}
	f.Fuzz(func(t *testing.T, algo uint8, src []byte, ram int) {
		ram = max(0, min(ram, MaxUncompressed))
		const guard = 64
		buf := bytes.Repeat([]byte{0xa5}, ram+guard)
		n, err := Decompress(disk.Compression(algo), buf[:ram:ram], src, sectorSize)
		if n < 0 || n > ram {
			t.Fatalf("%d of %d bytes", n, ram)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("untyped error %v", err)
		}
		if err == nil && len(bytes.Trim(buf[n:ram], "\x00")) != 0 {
			t.Fatal("the tail is not zero")
		}
		if bytes.Count(buf[ram:], []byte{0xa5}) != guard {
			t.Fatal("wrote behind the buffer")
		}
	})
}

func FuzzCompress(f *testing.F) {
	f.Add([]byte(strings.Repeat("compress me ", 1000)), uint8(0))
	f.Add(make([]byte, 9000), uint8(4))
	encoders := make([]*Encoder, len(specs))
	for i, s := range specs {
		encoders[i] = newEncoder(f, s)
	}
	f.Fuzz(func(t *testing.T, plain []byte, which uint8) {
		e := encoders[int(which)%len(encoders)]
		compress := e.Compress
		if len(plain) < sectorSize {
			compress = e.CompressInline
		}
		out, ok := compress(nil, plain)
		if !ok {
			return
		}
		dst := make([]byte, len(plain))
		if n, err := Decompress(e.spec.Algorithm, dst, out, sectorSize); err != nil || n != len(plain) || !bytes.Equal(dst, plain) {
			t.Fatalf("%v: %d of %d bytes came back, error %v", e.spec, n, len(plain), err)
		}
	})
}

func benchText(b *testing.B) []byte {
	text, err := os.ReadFile("compress_test.go")
	if err != nil {
		b.Fatal(err)
	}
	out := make([]byte, 0, MaxUncompressed)
	for i := 0; len(out) < MaxUncompressed; i++ {
		out = fmt.Appendf(out, "// copy %d\n", i)
		out = append(out, bytes.ReplaceAll(text, []byte("err"), fmt.Appendf(nil, "e%d", i))...)
	}
	return out[:MaxUncompressed]
}

func BenchmarkCompress(b *testing.B) {
	for _, spec := range specs {
		b.Run(spec, func(b *testing.B) {
			e, plain, buf := newEncoder(b, spec), benchText(b), make([]byte, 0, MaxUncompressed)
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				var ok bool
				if buf, ok = e.Compress(buf[:0], plain); !ok {
					b.Fatal("not smaller")
				}
			}
			b.ReportMetric(float64(len(plain))/float64(len(buf)), "ratio")
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	for _, spec := range []string{"zlib:3", "lzo", "zstd:3"} {
		b.Run(spec, func(b *testing.B) {
			e, plain := newEncoder(b, spec), benchText(b)
			src, _ := e.Compress(nil, plain)
			dst := make([]byte, len(plain))
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decompress(e.spec.Algorithm, dst, src, sectorSize); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompressible(b *testing.B) {
	plain := make([]byte, MaxUncompressed)
	r := rand.New(rand.NewPCG(9, 9))
	for i := range plain {
		plain[i] = byte(r.Uint32())
	}
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		if Compressible(plain) {
			b.Fatal("noise")
		}
	}
}
