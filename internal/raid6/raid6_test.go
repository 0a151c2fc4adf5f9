package raid6

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/reedsolomon"
	"pgregory.net/rapid"
)

// Which matrix the oracle needs is known from a raid6 filesystem that Linux wrote:
// 219 of 219 full stripes agreed with it.
func oracle(t testing.TB, n int) reedsolomon.Encoder {
	t.Helper()
	rows := [][]byte{make([]byte, n), make([]byte, n)}
	v := 1
	for i := range n {
		rows[0][i], rows[1][i] = 1, byte(v)
		if v <<= 1; v > 255 {
			v ^= 0x11d
		}
	}
	e, err := reedsolomon.New(n, 2, reedsolomon.WithCustomMatrix(rows))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// stripes makes n data stripes and their P and Q by the oracle.
func stripes(t testing.TB, seed uint64, n, size int) [][]byte {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 6))
	all := make([][]byte, n+2)
	for i := range all {
		all[i] = make([]byte, size)
		for j := range all[i] {
			all[i][j] = byte(r.Uint32())
		}
	}
	if err := oracle(t, n).Encode(all); err != nil {
		t.Fatal(err)
	}
	return all
}

// Parity that Linux 6.18 wrote: a raid6 data profile on five devices, one file of
// SHA-256(fmt.Sprintf("stripe %d", i)) for i = 0, 1, …; the two stripes of full
// stripe s that are not data were read from the devices and hashed.
func TestGenerateAgreesWithKernel(t *testing.T) {
	const size = 64 << 10
	for s, want := range map[int][2]string{
		0: {"a9343b8efe60fa8ea1cbdcf553f9a8976d55b10e9a46f62fc82a0632d7f24321", "63fbb5253acfcca8c4cff51926eb229085927d8ff5907df3a7931f55e3b4c08f"},
		1: {"1db26e56d2b739b412e6fe9b2f8741efd152d87f7b3f0cd5e820cde1c66e9ff5", "75f6652f85157f93489bde3dc799c0c9835259fc9e973048ce8cad22dc09992e"},
		7: {"36095b7755afa6cbeea0afed0b8c99836d284231f9bec1ed232300342c1f87f2", "0256ec586e85ecd624dcfdab1d8849e4c3676bd87598752b3b23a13c485783cf"},
	} {
		var data [][]byte
		for i := range 3 {
			var d []byte
			for j := range size / sha256.Size {
				sum := sha256.Sum256(fmt.Appendf(nil, "stripe %d", (3*s+i)*size/sha256.Size+j))
				d = append(d, sum[:]...)
			}
			data = append(data, d)
		}
		p, q := make([]byte, size), make([]byte, size)
		if err := Generate(data, p, q); err != nil {
			t.Fatal(err)
		}
		if got := [2]string{fmt.Sprintf("%x", sha256.Sum256(p)), fmt.Sprintf("%x", sha256.Sum256(q))}; got != want {
			t.Errorf("full stripe %d: P and Q hash to %v, want %v", s, got, want)
		}
	}
}

func cloneAll(all [][]byte) [][]byte {
	c := make([][]byte, len(all))
	for i := range all {
		c[i] = bytes.Clone(all[i])
	}
	return c
}

func TestGenerateAgreesWithOracle(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 7, 16, 100, 253} {
		for _, size := range []int{1, 7, 8, 31, 32, 4096, 65536, 4103} {
			if n > 16 && size > 5000 {
				continue
			}
			want := stripes(t, uint64(n), n, size)
			p, q := bytes.Repeat([]byte{9}, size), bytes.Repeat([]byte{9}, size)
			if err := Generate(want[:n], p, q); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p, want[n]) || !bytes.Equal(q, want[n+1]) {
				t.Fatalf("%d stripes of %d bytes: P right %v, Q right %v", n, size, bytes.Equal(p, want[n]), bytes.Equal(q, want[n+1]))
			}
			clear(p)
			if err := Generate(want[:n], p, nil); err != nil || !bytes.Equal(p, want[n]) {
				t.Fatalf("%d stripes of %d bytes: P alone is wrong, error %v", n, size, err)
			}
		}
	}
}

func TestRebuildEveryPair(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 6, 30} {
		for _, size := range []int{5, 64, 4109} {
			want := stripes(t, uint64(n*size), n, size)
			for a := range n + 2 {
				for b := range n + 2 {
					got := cloneAll(want)
					copy(got[a], bytes.Repeat([]byte{0xaa}, size))
					copy(got[b], bytes.Repeat([]byte{0xbb}, size))
					if err := Rebuild(got[:n], got[n], got[n+1], a, b); err != nil {
						t.Fatal(err)
					}
					for i := range got {
						if !bytes.Equal(got[i], want[i]) {
							t.Fatalf("%d data stripes of %d bytes, %d and %d lost: stripe %d is wrong", n, size, a, b, i)
						}
					}
				}
			}
		}
	}
}

func TestRebuildRAID5(t *testing.T) {
	want := stripes(t, 5, 4, 1000)
	for lost := range 5 {
		got := cloneAll(want)
		clear(got[lost])
		if err := Rebuild(got[:4], got[4], nil, lost); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[lost], want[lost]) {
			t.Errorf("stripe %d is wrong", lost)
		}
	}
}

func TestRebuildRandom(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 253).Draw(rt, "data stripes")
		want := stripes(t, rapid.Uint64().Draw(rt, "seed"), n, rapid.IntRange(1, 300).Draw(rt, "size"))
		missing := rapid.SliceOfN(rapid.IntRange(0, n+1), 0, 2).Draw(rt, "missing")
		got := cloneAll(want)
		for _, m := range missing {
			clear(got[m])
		}
		if err := Rebuild(got[:n], got[n], got[n+1], missing...); err != nil {
			rt.Fatal(err)
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				rt.Fatalf("stripe %d is wrong", i)
			}
		}
	})
}

func TestRefuses(t *testing.T) {
	all := stripes(t, 1, 4, 100)
	d, p, q := all[:4], all[4], all[5]
	for _, tc := range []struct {
		name    string
		err     error
		tooMany bool
	}{
		{"three data stripes", Rebuild(d, p, q, 0, 1, 2), true},
		{"two data stripes and P", Rebuild(d, p, q, 0, 1, 4), true},
		{"one data stripe, P and Q", Rebuild(d, p, q, 0, 4, 5), true},
		{"two data stripes of RAID5", Rebuild(d, p, nil, 0, 1), true},
		{"a data stripe and P of RAID5", Rebuild(d, p, nil, 0, 4), true},
		{"Q of RAID5", Rebuild(d, p, nil, 5), false},
		{"a stripe that is not there", Rebuild(d, p, q, 6), false},
		{"a negative stripe", Rebuild(d, p, q, -1), false},
		{"no data", Generate(nil, p, q), false},
		{"256 stripes", Generate(make([][]byte, 256), nil, nil), false},
		{"a short stripe", Generate([][]byte{d[0], d[1][1:]}, p, q), false},
		{"a short Q", Generate(d, p, q[1:]), false},
	} {
		if tc.err == nil || errors.Is(tc.err, ErrTooManyMissing) != tc.tooMany {
			t.Errorf("%s: error %v", tc.name, tc.err)
		}
	}
	if _, _, err := Verify(d, p[1:], q); err == nil {
		t.Error("Verify takes a short P")
	}
}

func TestVerify(t *testing.T) {
	all := stripes(t, 2, 5, 10000)
	d, p, q := all[:5], all[5], all[6]
	for _, tc := range []struct {
		name string
		flip []byte
		p, q bool
	}{{"nothing", nil, true, true}, {"P", p, false, true}, {"Q", q, true, false}, {"data", d[3], false, false}} {
		for _, at := range []int{0, 5000, 9999} {
			if tc.flip != nil {
				tc.flip[at] ^= 4
			}
			pGood, qGood, err := Verify(d, p, q)
			if err != nil || pGood != tc.p || qGood != tc.q {
				t.Errorf("%s flipped at %d: P %v, Q %v, error %v", tc.name, at, pGood, qGood, err)
			}
			if pGood, _, _ := Verify(d, p, nil); pGood != tc.p {
				t.Errorf("%s flipped at %d: P alone %v", tc.name, at, pGood)
			}
			if tc.flip != nil {
				tc.flip[at] ^= 4
			}
		}
	}
}

func TestInverse(t *testing.T) {
	for a := 1; a < 256; a++ {
		if got := mul(byte(a), inverse(byte(a))); got != 1 {
			t.Errorf("%d times its inverse is %d", a, got)
		}
	}
	seen := map[byte]bool{}
	for n := range 255 {
		seen[power(n)] = true
	}
	if len(seen) != 255 || seen[0] {
		t.Errorf("the powers of 2 are %d elements", len(seen))
	}
}

func TestNoAllocations(t *testing.T) {
	all := stripes(t, 3, 4, 4096)
	if n := testing.AllocsPerRun(10, func() {
		if err := errors.Join(Generate(all[:4], all[4], all[5]), Rebuild(all[:4], all[4], all[5], 1, 2)); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkGenerate(b *testing.B) {
	all := stripes(b, 1, 4, 64<<10)
	for _, q := range [][]byte{nil, all[5]} {
		b.Run(fmt.Sprint("Q=", q != nil), func(b *testing.B) {
			b.SetBytes(4 * 64 << 10)
			for b.Loop() {
				if err := Generate(all[:4], all[4], q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRebuild(b *testing.B) {
	all := stripes(b, 1, 4, 64<<10)
	for _, missing := range [][]int{{1}, {1, 2}, {1, 4}, {1, 5}, {4, 5}} {
		b.Run(fmt.Sprint(missing), func(b *testing.B) {
			b.SetBytes(4 * 64 << 10)
			for b.Loop() {
				if err := Rebuild(all[:4], all[4], all[5], missing...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
