package space

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// naiveMap is the obvious implementation of freeMap.
type naiveMap []bool

func (n naiveMap) all(lo, hi uint32, free bool) bool {
	for _, f := range n[lo:hi] {
		if f != free {
			return false
		}
	}
	return true
}

func (n naiveMap) find(k, align, phase, from uint32) (uint32, bool) {
	for at := from; at+k <= uint32(len(n)); at++ {
		if (at+align-phase%align)%align == 0 && n.all(at, at+k, true) {
			return at, true
		}
	}
	return 0, false
}

func (n naiveMap) largest() (best uint32) {
	run := uint32(0)
	for _, f := range n {
		if run++; !f {
			run = 0
		}
		best = max(best, run)
	}
	return best
}

// The index answers every question exactly as a plain array of booleans does,
// and never outgrows its bound. Mutations that turned this red: child sums
// joined without the tail; edges without the head; phase ignored.
func TestFreeMapAgreesWithArray(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]uint32{1, 63, 64, 511, 512, 513, 8192, 8193, 20000}).Draw(t, "size")
		m, n := newFreeMap(size), make(naiveMap, size)
		span := rapid.SampledFrom([]uint32{1, 8, 300, 4000}).Draw(t, "longest step")
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				lo := rapid.Uint32Range(0, size-1).Draw(t, "lo")
				hi := min(size, lo+rapid.Uint32Range(1, span).Draw(t, "length"))
				free := rapid.Bool().Draw(t, "free")
				want := n.all(lo, hi, !free)
				if got := m.set(lo, hi, free); got != want {
					t.Fatalf("set(%d, %d, %v) = %v, want %v", lo, hi, free, got, want)
				}
				if want {
					for i := lo; i < hi; i++ {
						n[i] = free
					}
				}
			},
			"find": func(t *rapid.T) {
				k := rapid.Uint32Range(1, span+2).Draw(t, "n")
				align := rapid.SampledFrom([]uint32{1, 4, 16}).Draw(t, "align")
				phase := rapid.Uint32Range(0, align-1).Draw(t, "phase")
				from := rapid.Uint32Range(0, size-1).Draw(t, "from")
				want, wantOK := n.find(k, align, phase, from)
				if got, ok := m.find(k, align, phase, from); got != want || ok != wantOK {
					t.Fatalf("find(%d, %d, %d, %d) = %d, %v, want %d, %v", k, align, phase, from, got, ok, want, wantOK)
				}
			},
			"": func(t *rapid.T) { checkFreeMap(t, m, n) },
		})
	})
}

func checkFreeMap(t *rapid.T, m *freeMap, n naiveMap) {
	free, next := uint32(0), uint32(0)
	m.runs(func(lo, hi uint32) bool {
		if lo >= hi || (lo < next || lo == next && next != 0) {
			t.Fatalf("run [%d, %d) after one that ends at %d", lo, hi, next)
		}
		if !n.all(next, lo, false) || !n.all(lo, hi, true) {
			t.Fatalf("run [%d, %d) is not a free run", lo, hi)
		}
		free, next = free+hi-lo, hi
		return true
	})
	if !n.all(next, m.size, false) {
		t.Fatalf("free sectors after the last run, which ends at %d", next)
	}
	if m.free != free || m.largest() != n.largest() {
		t.Fatalf("free %d, largest %d; want %d, %d", m.free, m.largest(), free, n.largest())
	}
	if m.memory() > maxMemory(m.size) {
		t.Fatalf("%v of memory, bound is %v", m.memory(), maxMemory(m.size))
	}
	if (m.largest() == 0 || m.largest() == m.size && m.size == 1<<m.span) && m.memory() != 64 {
		t.Fatalf("uniform map occupies %v", m.memory())
	}
}

// fragmentedMap has a one-sector hole in every other sector until there are
// holes of them, and one run of two sectors at the very end.
func fragmentedMap(holes uint32) *freeMap {
	m := newFreeMap(2*holes + 4)
	for i := range holes {
		m.set(2*i, 2*i+1, true)
	}
	m.set(2*holes+1, 2*holes+3, true)
	return m
}

// One GiB of 4 KiB sectors, every other one free, is the worst case there is.
func TestFreeMapMemoryPerGiBIsBounded(t *testing.T) {
	t.Parallel()
	const perGiB = uint32(GiB / 4096)
	m := fragmentedMap(perGiB/2 - 2)
	if got, bound := m.memory(), maxMemory(perGiB); got > bound || bound > 44*KiB {
		t.Errorf("worst case %v, bound %v, promised 44 KiB", got, bound)
	}
	if got := newFreeMap(perGiB).memory(); got > 64 {
		t.Errorf("a full group occupies %v", got)
	}
	t.Logf("worst case per GiB: %d bytes", m.memory())
}

// What has become uniform again costs nothing, wherever it is.
func TestFreeMapForgetsUniformParts(t *testing.T) {
	t.Parallel()
	const size = 3 << 14
	m := newFreeMap(size)
	for i := range uint32(size / 2) {
		m.set(2*i, 2*i+1, true)
	}
	for i := range uint32(size / 2) {
		m.set(2*i+1, 2*i+2, true)
	}
	for i := uint32(0); i < size; i += 64 {
		m.set(i, i+64, false)
	}
	if got := m.memory(); got != 64 || m.free != 0 {
		t.Errorf("%v of memory and %d free sectors when all is used", got, m.free)
	}
}

// The search walks one path: with a hundred times the holes it looks at the
// children of two nodes more. Mutation that turned it red: walk that
// looks into children without a run of n.
func TestSearchWalksOnePath(t *testing.T) {
	t.Parallel()
	for _, holes := range []uint32{1e3, 1e4, 1e5} {
		m := fragmentedMap(holes)
		s := search{n: 2, align: 1}
		if !s.run(m) || s.found != uint64(2*holes+1) {
			t.Errorf("%d holes: found %d", holes, s.found)
		}
		levels := int(m.span-leafBits) / fanBits
		if most := 1 + fan*levels; s.visited > most {
			t.Errorf("%d holes: looked at %d children, want at most %d", holes, s.visited, most)
		}
		t.Logf("%d holes: looked at %d children", holes, s.visited)
	}
}

// The time must not grow with the number of holes.
func BenchmarkExtentSearch(b *testing.B) {
	for _, holes := range []uint32{1e3, 1e4, 1e5, 1e6} {
		m := fragmentedMap(holes)
		b.Run(fmt.Sprintf("holes=%d", holes), func(b *testing.B) {
			for b.Loop() {
				if _, ok := m.find(2, 1, 0, 0); !ok {
					b.Fatal("not found")
				}
			}
		})
		b.Run(fmt.Sprintf("allocate-free/holes=%d", holes), func(b *testing.B) {
			for b.Loop() {
				at, _ := m.find(2, 1, 0, 0)
				m.set(at, at+2, false)
				m.set(at, at+2, true)
			}
		})
	}
}
