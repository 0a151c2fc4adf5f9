package lzo

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// golden blocks: the data segments of LZO extents that Linux 6.18 wrote.
func TestKernelBlocks(t *testing.T) {
	for _, tc := range []struct{ name, hex, want string }{
		{"the empty block", "110000", ""},
		{"a hundred bytes", kernelAB, strings.Repeat("ab", 50)},
		{"a page of zeros", kernelZeros, string(make([]byte, 4096))},
	} {
		src, err := hex.DecodeString(tc.hex)
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, len(tc.want))
		n, err := Decompress(dst, src)
		if err != nil || string(dst[:n]) != tc.want {
			t.Errorf("%s: got %d bytes %.40q, error %v", tc.name, n, dst[:n], err)
		}
		if tc.want == "" {
			continue
		}
		if _, err := Decompress(dst[:len(dst)-1], src); err == nil {
			t.Errorf("%s: fits into too small a buffer", tc.name)
		}
		for cut := range src {
			if _, err := Decompress(dst, src[:cut]); err == nil {
				t.Errorf("%s: cut to %d bytes it decodes", tc.name, cut)
			}
		}
		if _, err := Decompress(dst, append(src, 0)); err == nil {
			t.Errorf("%s: a byte behind the end goes unnoticed", tc.name)
		}
	}
}

// Each instruction of the format, written by hand, with what it must make.
func TestInstructions(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 3<<10) // 48 KiB
	first := func(s string) []byte {
		b := append([]byte{0}, lengthBytes(len(s)-18)...)
		return append(b, s...)
	}
	end := []byte{17, 0, 0}
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, tc := range []struct {
		name string
		src  []byte
		want string // "" stands for an error
	}{
		{"first byte with three literals", cat([]byte{20}, []byte("abc"), end), "abc"},
		{"first byte with four literals", cat([]byte{21}, []byte("abcd"), end), "abcd"},
		{"two-byte match after three literals", cat([]byte{20}, []byte("abc"), []byte{2 << 2, 0}, end), "abcab"},
		{"three-byte match after a run", cat(first(long), []byte{1<<2 | 1, 0}, []byte("Z"), end), long + long[len(long)-2050:][:3] + "Z"},
		{"match of three within 2 KiB", cat([]byte{21}, []byte("abcd"), []byte{64 | 3<<2, 0}, end), "abcdabc"},
		{"match of four, two literals", cat([]byte{21}, []byte("abcd"), []byte{96 | 3<<2 | 2, 0, 'x', 'y'}, end), "abcdabcdxy"},
		{"match of eight that overlaps", cat([]byte{18}, []byte("a"), []byte{224, 0}, end), "aaaaaaaaa"},
		{"match of 33", cat([]byte{18}, []byte("a"), []byte{63, 0, 0}, end), strings.Repeat("a", 34)},
		{"match of 34", cat([]byte{18}, []byte("a"), []byte{32, 1, 0, 0}, end), strings.Repeat("a", 35)},
		{"match of 600", cat([]byte{19}, []byte("ab"), []byte{32, 0, 0, 57, 4, 0}, end), strings.Repeat("ab", 301)},
		{"match from 16 KiB", cat(first(long), []byte{16 | 7, 4, 0}, end), long + long[len(long)-16385:][:9]},
		{"match from 48 KiB", cat(first(long), []byte{24 | 7, 0xfc, 0xff}, end), long + long[len(long)-49151:][:9]},
		{"long match from 32 KiB", cat(first(long), []byte{24, 5, 1, 0, 'q'}, end), long + long[:14] + "q"},
		{"match before the beginning", cat([]byte{21}, []byte("abcd"), []byte{64, 1}, end), ""},
		{"match as first instruction", cat([]byte{64, 0}, end), ""},
		{"a versioned stream", []byte{17, 1, 20, 'a', 'b', 'c', 17, 0, 0}, ""},
		{"end marker of another length", cat([]byte{20}, []byte("abc"), []byte{18, 0, 0}), ""},
		{"length that never ends", make([]byte, 5000), ""},
		{"no input", nil, ""},
	} {
		dst := make([]byte, 64<<10)
		n, err := Decompress(dst, tc.src)
		if (err != nil) != (tc.want == "") || err == nil && string(dst[:n]) != tc.want {
			t.Errorf("%s: got %d bytes, error %v", tc.name, n, err)
		}
	}
}

func lengthBytes(n int) []byte {
	var b []byte
	for ; n > 255; n -= 255 {
		b = append(b, 0)
	}
	return append(b, byte(n))
}

// sample draws data with matches of all lengths and distances.
func sample(rt *rapid.T) []byte {
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
	b := make([]byte, 0, 80<<10)
	for range rapid.IntRange(0, 60).Draw(rt, "parts") {
		if len(b) > 0 && r.IntN(3) > 0 {
			d := 1 + r.IntN(min(len(b), 1<<(1+r.IntN(16))))
			for range 1 + r.IntN(1<<(1+r.IntN(11))) {
				b = append(b, b[len(b)-d])
			}
			continue
		}
		for range r.IntN(1 << (1 + r.IntN(10))) {
			b = append(b, byte(r.Uint32()))
		}
	}
	return b[:min(len(b), 80<<10)]
}

func TestRoundTrip(t *testing.T) {
	var used Compressor
	rapid.Check(t, func(rt *rapid.T) {
		plain := sample(rt)
		packed := used.Compress([]byte("head"), plain)
		if len(packed)-4 > Bound(len(plain)) {
			rt.Fatalf("%d bytes became %d, above Bound", len(plain), len(packed)-4)
		}
		if fresh := new(Compressor).Compress(nil, plain); !bytes.Equal(packed[4:], fresh) {
			rt.Fatal("what the compressor saw before changes what it makes")
		}
		dst := make([]byte, len(plain))
		n, err := Decompress(dst, packed[4:])
		if err != nil || !bytes.Equal(dst[:n], plain) {
			rt.Fatalf("%d of %d bytes came back, error %v", n, len(plain), err)
		}
	})
}

func TestCompressorStartsOverBeforePositionsOverflow(t *testing.T) {
	plain := []byte(strings.Repeat("again and again ", 300))
	want := new(Compressor).Compress(nil, plain)
	c := &Compressor{base: 1<<32 - 5000}
	for i := range 3 {
		if got := c.Compress(nil, plain); !bytes.Equal(got, want) {
			t.Errorf("round %d differs", i)
		}
	}
	if c.base > 1<<20 {
		t.Errorf("base is %d", c.base)
	}
}

func FuzzDecompress(f *testing.F) {
	f.Add([]byte{17, 0, 0}, 10)
	for _, s := range []string{kernelAB, kernelZeros} {
		b, _ := hex.DecodeString(s)
		f.Add(b, 4096)
	}
	f.Add(new(Compressor).Compress(nil, []byte(strings.Repeat("fuzz this, fuzz that; ", 90))), 2000)
	f.Fuzz(func(t *testing.T, src []byte, room int) {
		room = max(0, min(room, 1<<16))
		buf := bytes.Repeat([]byte{0xa5}, room+64)
		n, err := Decompress(buf[:room:room], src)
		if n < 0 || n > room {
			t.Fatalf("made %d bytes of %d", n, room)
		}
		if bytes.Count(buf[room:], []byte{0xa5}) != 64 {
			t.Fatal("wrote behind the buffer")
		}
		if err != nil {
			return
		}
		again := make([]byte, n)
		if m, err := Decompress(again, new(Compressor).Compress(nil, buf[:n])); err != nil || !bytes.Equal(again[:m], buf[:n]) {
			t.Fatalf("round trip: %d of %d bytes, error %v", m, n, err)
		}
	})
}

func benchData(b *testing.B) map[string][]byte {
	text, err := os.ReadFile("lzo.go")
	if err != nil {
		b.Fatal(err)
	}
	for len(text) < 128<<10 {
		text = append(text, text...)
	}
	noise := make([]byte, 128<<10)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	return map[string][]byte{"text": text[:128<<10], "noise": noise, "zeros": make([]byte, 128<<10)}
}

func BenchmarkCompress(b *testing.B) {
	for name, data := range benchData(b) {
		b.Run(name, func(b *testing.B) {
			var c Compressor
			out := make([]byte, 0, 5000)
			total := 0
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				total = 0
				for at := 0; at < len(data); at += 4096 {
					out = c.Compress(out[:0], data[at:at+4096])
					total += len(out)
				}
			}
			b.ReportMetric(float64(len(data))/float64(total), "ratio")
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	for name, data := range benchData(b) {
		b.Run(name, func(b *testing.B) {
			var blocks [][]byte
			for at := 0; at < len(data); at += 4096 {
				blocks = append(blocks, new(Compressor).Compress(nil, data[at:at+4096]))
			}
			dst := make([]byte, 4096)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				for _, block := range blocks {
					if n, err := Decompress(dst, block); err != nil || n != 4096 {
						b.Fatal(fmt.Sprint(n, err))
					}
				}
			}
		})
	}
}
