package check

import (
	"slices"
)

// maxRuns is how many sorted runs are merged at once.
const maxRuns = 64

// sorter sorts what need not fit in memory: sorted runs are kept in the pool,
// which spills them, and merged when they are read.
type sorter[T any] struct {
	pool    *pool
	compare func(a, b T) int
	// absorb lets last take b in, which follows it, if it can.
	absorb func(last *T, b T) bool
	runs   []*paged[T]
}

// batch is one goroutine's part of what goes into a sorter.
type batch[T any] struct {
	list []T
	max  int // when it is handed over
}

// put adds v. The list is sorted and made shorter before it is handed over: a
// thousand snapshots have a thousand pointers to each block that they share.
func (b *batch[T]) put(s *sorter[T], v T) {
	b.list = append(b.list, v)
	if len(b.list) < b.max {
		return
	}
	b.list = s.tidy(b.list)
	if len(b.list) > b.max/2 {
		s.hand(b.list)
		b.list = b.list[:0]
	}
}

// flush hands over what is left.
func (b *batch[T]) flush(s *sorter[T]) {
	if len(b.list) > 0 {
		s.hand(s.tidy(b.list))
		b.list = b.list[:0]
	}
}

// tidy sorts the list and joins what can be joined.
func (s *sorter[T]) tidy(list []T) []T {
	slices.SortFunc(list, s.compare)
	out := list[:0]
	for _, v := range list {
		if n := len(out); n == 0 || !s.absorb(&out[n-1], v) {
			out = append(out, v)
		}
	}
	return out
}

// hand takes a sorted list. Safe for concurrent use.
func (s *sorter[T]) hand(list []T) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	run := newPaged[T](s.pool)
	for i := range list {
		run.add(list[i])
	}
	s.runs = append(s.runs, run)
	if len(s.runs) >= maxRuns {
		s.settle()
	}
}

// settle merges all runs into one and returns it.
func (s *sorter[T]) settle() *paged[T] {
	if len(s.runs) == 1 {
		return s.runs[0]
	}
	out := newPaged[T](s.pool)
	m := s.read()
	for v, ok := m.next(); ok; v, ok = m.next() {
		out.add(v)
	}
	s.drop()
	s.runs = []*paged[T]{out}
	return out
}

func (s *sorter[T]) drop() {
	for _, r := range s.runs {
		r.drop()
	}
	s.runs = nil
}

// read begins a merge of all runs. Nothing may be added until it has ended.
func (s *sorter[T]) read() *merge[T] {
	m := &merge[T]{s: s}
	for _, r := range s.runs {
		c := &cursor[T]{run: r, buf: make([]T, min(mergeAhead, r.len()))}
		if c.fill() {
			m.heads = append(m.heads, c)
		}
	}
	for i := len(m.heads)/2 - 1; i >= 0; i-- {
		m.down(i)
	}
	return m
}

// mergeAhead is how much of each run is copied at once, so that a merge does not
// hold a page of every run.
const mergeAhead = 64

// cursor is where the merge stands in one run.
type cursor[T any] struct {
	run  *paged[T]
	at   int // of what follows buf
	buf  []T
	have []T // what is left of buf
}

func (c *cursor[T]) fill() bool {
	n := c.run.copyTo(c.buf, c.at)
	c.at, c.have = c.at+n, c.buf[:n]
	return n > 0
}

// merge yields the elements of all runs in order, joined where they can be.
type merge[T any] struct {
	s     *sorter[T]
	heads []*cursor[T] // a heap
	out   T            // being put together
}

func (m *merge[T]) next() (out T, ok bool) {
	for len(m.heads) > 0 {
		c := m.heads[0]
		v := c.have[0]
		if !ok {
			m.out, ok = v, true
		} else if !m.s.absorb(&m.out, v) {
			return m.out, true
		}
		c.have = c.have[1:]
		if len(c.have) == 0 && !c.fill() {
			last := len(m.heads) - 1
			m.heads[0], m.heads = m.heads[last], m.heads[:last]
		}
		m.down(0)
	}
	if !ok {
		return out, false
	}
	return m.out, true
}

func (m *merge[T]) down(i int) {
	less := func(a, b int) bool { return m.s.compare(m.heads[a].have[0], m.heads[b].have[0]) < 0 }
	for {
		k := 2*i + 1
		if k >= len(m.heads) {
			return
		}
		if k+1 < len(m.heads) && less(k+1, k) {
			k++
		}
		if !less(k, i) {
			return
		}
		m.heads[i], m.heads[k] = m.heads[k], m.heads[i]
		i = k
	}
}
