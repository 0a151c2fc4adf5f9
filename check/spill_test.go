package check

import (
	"errors"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"testing"

	"gobtrfs/disk"
)

// tinyPool has so few pages that nearly every access goes to the file.
func tinyPool(t *testing.T) *pool {
	t.Helper()
	p := newPool(1, t.TempDir())
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// TestPagedAgainstModel compares paged arrays that share a tiny pool with slices.
func TestPagedAgainstModel(t *testing.T) {
	t.Parallel()
	p := tinyPool(t)
	rng := rand.New(rand.NewPCG(1, 1))
	var arrays [3]*paged[nodeInfo]
	var model [3][]nodeInfo
	for i := range arrays {
		arrays[i] = newPaged[nodeInfo](p)
	}
	for range 60000 {
		i := rng.IntN(3)
		a, m := arrays[i], model[i]
		v := nodeInfo{addr: disk.Logical(rng.Uint64()), items: int32(rng.Uint32()), headNoSum: rng.IntN(2) == 0}
		switch n := a.len(); {
		case n < 4000 && (n == 0 || rng.IntN(3) > 0):
			if a.add(v) != n {
				t.Fatal("wrong index")
			}
			model[i] = append(m, v)
		case rng.IntN(4) == 0:
			k := rng.IntN(n)
			*a.edit(k), m[k] = v, v
		case rng.IntN(20000) == 0:
			a.drop()
			model[i] = nil
		default:
			k := rng.IntN(n)
			if *a.at(k) != m[k] {
				t.Fatalf("element %d of %d differs", k, n)
			}
			out := make([]nodeInfo, rng.IntN(300))
			if c := a.copyTo(out, k); c != min(len(out), n-k) || !slices.Equal(out[:c], m[k:k+c]) {
				t.Fatalf("copy of %d from %d of %d", c, k, n)
			}
		}
		if len(p.ring) > p.max {
			t.Fatalf("%d pages", len(p.ring))
		}
	}
	if p.out == 0 || p.failure() != nil {
		t.Errorf("%d pages written, %v", p.out, p.failure())
	}
}

// TestPoolReportsTheErrorOfItsFile: a full or missing disk is an error of the
// check, not damage.
func TestPoolReportsTheErrorOfItsFile(t *testing.T) {
	t.Parallel()
	p := newPool(1, t.TempDir()+"/missing")
	a := newPaged[kid](p)
	for i := range 200000 {
		a.add(kid{addr: disk.Logical(i)})
	}
	for i := range a.len() {
		a.at(i)
	}
	if err := p.failure(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestSorterAgainstSort: what comes out of many spilled runs is what sorting in
// memory gives.
func TestSorterAgainstSort(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(2, 2))
	for _, n := range []int{0, 1, 63, 64, 65, 5000, 60000} {
		s := &sorter[link]{pool: tinyPool(t), compare: compareLinks, absorb: sameBlock}
		b := batch[link]{max: 100}
		var all []link
		for range n {
			l := link{addr: disk.Logical(rng.IntN(n*3/4 + 1)), gen: disk.TransID(rng.IntN(3)), parent: disk.Logical(rng.IntN(5))}
			all = append(all, l)
			b.put(s, l)
		}
		b.flush(s)
		slices.SortFunc(all, compareLinks)
		all = slices.CompactFunc(all, func(a, b link) bool { return a.addr == b.addr })
		var got []link
		m := s.read()
		for l, ok := m.next(); ok; l, ok = m.next() {
			got = append(got, l)
		}
		if !slices.Equal(got, all) {
			t.Errorf("%d links: %d come out, want %d", n, len(got), len(all))
		}
		if one := s.settle(); one.len() != len(all) {
			t.Errorf("%d links: settled to %d, want %d", n, one.len(), len(all))
		}
	}
}

// TestSpansAgainstModel compares the sets of spans with plain sets.
func TestSpansAgainstModel(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 3))
	const size = 400
	for range 200 {
		c := &checker{spans: newSpans(tinyPool(t))}
		w := &worker{c: c}
		c.workers = []*worker{w}
		var model [2][size]bool
		for k := range model {
			w.spans[k].max = 5
			for range rng.IntN(40) {
				start := rng.IntN(size)
				n := rng.IntN(min(30, size-start))
				w.span(spanKind(k), uint64(start), uint64(n), 0)
				for i := range n {
					model[k][start+i] = true
				}
			}
		}
		c.flushSpans()
		for _, keep := range []bool{false, true} {
			read := without(c.readSpans(0), c.readSpans(1))
			if keep {
				read = both(c.readSpans(0), c.readSpans(1))
			}
			var got [size]bool
			last := uint64(0)
			for s, ok := read(); ok; s, ok = read() {
				if s.start < last || s.end <= s.start {
					t.Fatalf("span %v after %d", s, last)
				}
				for last = s.start; last < s.end; last++ {
					got[last] = true
				}
			}
			for i := range got {
				if want := model[0][i] && model[1][i] == keep; got[i] != want {
					t.Fatalf("%d: %v, want %v", i, got[i], want)
				}
			}
		}
	}
}

// TestSpanThatWraps is cut off at the end of the address space.
func TestSpanThatWraps(t *testing.T) {
	t.Parallel()
	c := &checker{spans: newSpans(tinyPool(t))}
	w := &worker{c: c}
	c.workers = []*worker{w}
	w.spans[spanCsum].max = 5
	w.span(spanCsum, ^uint64(0)-8191, 1<<20, 0)
	c.flushSpans()
	if s, ok := c.readSpans(spanCsum)(); !ok || s.start != ^uint64(0)-8191 || s.end != ^uint64(0) {
		t.Error(s, ok)
	}
}

// TestFullReader finds what a search in the whole list finds.
func TestFullReader(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(4, 4))
	c := &checker{full: newPaged[disk.Logical](tinyPool(t))}
	have := make(map[int]bool)
	for i := range 20000 {
		if rng.IntN(3) == 0 {
			c.full.add(disk.Logical(i))
			have[i] = true
		}
	}
	for _, step := range []int{1, 2, 7, 1000} {
		r := c.fullReader()
		for i := 0; i < 21000; i += 1 + rng.IntN(step) {
			if r.has(disk.Logical(i)) != have[i] {
				t.Fatalf("step %d: %d", step, i)
			}
		}
	}
}

// TestPagedElementsHaveNoPointers: the garbage collector does not look into
// pages, nor into the file.
func TestPagedElementsHaveNoPointers(t *testing.T) {
	t.Parallel()
	var find func(reflect.Type) bool
	find = func(x reflect.Type) bool {
		switch x.Kind() {
		case reflect.Struct:
			for i := range x.NumField() {
				if find(x.Field(i).Type) {
					return true
				}
			}
			return false
		case reflect.Array:
			return find(x.Elem())
		case reflect.Pointer, reflect.Slice, reflect.Map, reflect.String, reflect.Interface, reflect.Func, reflect.Chan, reflect.UnsafePointer:
			return true
		}
		return false
	}
	for _, x := range []any{nodeInfo{}, kid{}, segment{}, memo{}, link{}, span{}, refRecord{}, disk.Logical(0)} {
		if find(reflect.TypeOf(x)) {
			t.Errorf("%T has pointers", x)
		}
	}
}
