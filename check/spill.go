package check

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"
)

// pageBytes is the unit in which memory is given to what grows with the
// filesystem, and in which it goes to the temporary file.
const pageBytes = 16 << 10

type pageBuffer [pageBytes / 8]uint64

// pool bounds the memory of all paged arrays of a check together: when all its
// pages are taken, the one that has not been used for longest goes to a
// temporary file. The file is made when it is needed first, is deleted by close,
// and is in the form of this process's memory: nobody else reads it.
//
// An error of the file sticks; what is read from then on is zero, and whoever
// ends a phase asks for err.
type pool struct {
	// mu is held while a scan runs and its goroutines hand over sorted runs.
	// Everything else happens while no scan runs, from one goroutine.
	mu    sync.Mutex
	max   int // pages
	dir   string
	ring  []residentPage
	hand  int
	spare []*pageBuffer
	file  *os.File
	slots []int64 // free places in the file
	end   int64
	err   error
	out   uint64 // pages written
}

// residentPage is one page that has memory.
type residentPage struct {
	of   pager
	page int
}

// pager is a paged array, whatever its elements are.
type pager interface {
	// second takes the mark of use away and says whether it was there; resident
	// is false when the page has no memory any more.
	second(page int) (used, resident bool)
	evict(page int)
}

// minPages is what a pool has at least: every array that is in use at the same
// time needs one.
const minPages = 16

func newPool(bytes int64, dir string) *pool {
	return &pool{max: max(minPages, int(bytes/pageBytes)), dir: dir}
}

// buffer is memory for one page; another page may lose its own.
func (p *pool) buffer(of pager, page int) *pageBuffer {
	for len(p.ring) >= p.max {
		p.hand %= len(p.ring)
		r := p.ring[p.hand]
		used, resident := r.of.second(r.page)
		if resident && used {
			p.hand++
			continue
		}
		if resident {
			r.of.evict(r.page)
		}
		last := len(p.ring) - 1
		p.ring[p.hand] = p.ring[last]
		p.ring = p.ring[:last]
	}
	p.ring = append(p.ring, residentPage{of, page})
	if n := len(p.spare); n > 0 {
		b := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return b
	}
	return new(pageBuffer)
}

func (p *pool) bytes(b *pageBuffer) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(b)), pageBytes)
}

// write puts a page into the file, at slot or, if that is negative, at a new
// place.
func (p *pool) write(b *pageBuffer, slot int64) int64 {
	if p.err == nil && p.file == nil {
		p.file, p.err = os.CreateTemp(p.dir, "gobtrfs-check-*")
	}
	if slot < 0 {
		if n := len(p.slots); n > 0 {
			slot, p.slots = p.slots[n-1], p.slots[:n-1]
		} else {
			slot, p.end = p.end, p.end+1
		}
	}
	if p.err == nil {
		_, p.err = p.file.WriteAt(p.bytes(b), slot*pageBytes)
		p.out++
	}
	return slot
}

func (p *pool) read(b *pageBuffer, slot int64) {
	if p.err == nil {
		_, p.err = p.file.ReadAt(p.bytes(b), slot*pageBytes)
	}
	if p.err != nil {
		clear(b[:])
	}
}

// failure is the error of the temporary file, if there was one.
func (p *pool) failure() error {
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("temporary file: %w", p.err)
}

// close deletes the temporary file.
func (p *pool) close() error {
	if p.file == nil {
		return nil
	}
	return errors.Join(p.file.Close(), os.Remove(p.file.Name()))
}

// paged is an array that only grows, in pages of a pool. T must not hold
// pointers.
type paged[T any] struct {
	pool  *pool
	n     int
	per   int // elements of a page
	pages []pageState
}

type pageState struct {
	buf         *pageBuffer // nil: in the file, if anywhere
	slot        int64       // in the file; -1: none
	dirty, used bool
}

func newPaged[T any](p *pool) *paged[T] {
	var t T
	return &paged[T]{pool: p, per: pageBytes / int(unsafe.Sizeof(t))}
}

func (a *paged[T]) len() int { return a.n }

// add appends and returns the index.
func (a *paged[T]) add(v T) int {
	i := a.n
	if i/a.per == len(a.pages) {
		a.pages = append(a.pages, pageState{slot: -1})
		a.pages[i/a.per].buf = a.pool.buffer(a, i/a.per)
	}
	a.n++
	*a.edit(i) = v
	return i
}

// at is element i, to be looked at. It is valid until the next call for any
// array of the pool.
func (a *paged[T]) at(i int) *T {
	s := &a.pages[i/a.per]
	if s.buf == nil {
		s.buf = a.pool.buffer(a, i/a.per)
		a.pool.read(s.buf, s.slot)
	}
	s.used = true
	return &a.elements(s)[i%a.per]
}

// edit is at for an element that will be changed.
func (a *paged[T]) edit(i int) *T {
	v := a.at(i)
	a.pages[i/a.per].dirty = true
	return v
}

func (a *paged[T]) elements(s *pageState) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(s.buf)), a.per)
}

// copyTo copies elements from i on, as many as there are and fit.
func (a *paged[T]) copyTo(out []T, i int) int {
	n := 0
	for n < len(out) && i < a.n {
		a.at(i)
		k := copy(out[n:], a.elements(&a.pages[i/a.per])[i%a.per:min(a.per, a.n-i/a.per*a.per)])
		n, i = n+k, i+k
	}
	return n
}

// drop gives all memory back; the array is empty then.
func (a *paged[T]) drop() {
	for i := range a.pages {
		s := &a.pages[i]
		if s.buf != nil && len(a.pool.spare) < minPages {
			a.pool.spare = append(a.pool.spare, s.buf)
		}
		if s.slot >= 0 {
			a.pool.slots = append(a.pool.slots, s.slot)
		}
		s.buf = nil
	}
	a.pages, a.n = nil, 0
}

func (a *paged[T]) second(page int) (used, resident bool) {
	if page >= len(a.pages) || a.pages[page].buf == nil {
		return false, false
	}
	s := &a.pages[page]
	used, s.used = s.used, false
	return used, true
}

func (a *paged[T]) evict(page int) {
	s := &a.pages[page]
	if s.dirty {
		s.slot, s.dirty = a.pool.write(s.buf, s.slot), false
	}
	a.pool.spare = append(a.pool.spare, s.buf)
	s.buf = nil
}
