package volume

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"gobtrfs/disk"
)

// Parts of full stripes (rows) of RAID5 and RAID6 that were written wait in
// memory for the rest, so that data which arrives in pieces is written with its
// parity once. They reach the devices when the row is complete, when too many
// wait, and at Sync at the latest: what Write returned for is durable after
// Sync, as with every other profile, and can be read at once.
//
// Life of a buffer: waiting (in rows.waiting, further writes join it), then
// writing (in rows.writing, nobody changes it any more), then gone. A reader
// finds the bytes in one of the two lists or, after that, on the device.

// maxRowBytes bounds the memory of rows that wait. One row is taken whatever
// its size, which is 16 MiB at most.
const maxRowBytes = 16 << 20

type rowKey struct {
	chunk disk.Logical
	row   uint64
}

// rowBuffer is the new bytes of one row.
type rowBuffer struct {
	key     rowKey
	c       *chunk
	data    []byte   // of the whole row
	written []uint64 // a bit per sector of data
	missing int      // sectors that are not written
	sector  int
	done    chan struct{} // closed when it is neither waiting nor being written
}

func newRowBuffer(k rowKey, c *chunk, sector int) *rowBuffer {
	width := c.data * disk.StripeLen
	n := width / sector
	return &rowBuffer{key: k, c: c, data: make([]byte, width), written: make([]uint64, (n+63)/64), missing: n, sector: sector, done: make(chan struct{})}
}

func (b *rowBuffer) has(sector int) bool { return b.written[sector/64]>>(sector%64)&1 != 0 }

// put enters whole sectors at an offset in the row.
func (b *rowBuffer) put(off int, buf []byte) {
	copy(b.data[off:], buf)
	for s := off / b.sector; s < (off+len(buf))/b.sector; s++ {
		if !b.has(s) {
			b.written[s/64] |= 1 << (s % 64)
			b.missing--
		}
	}
}

// rows are the buffers of a volume; init makes them ready.
type rows struct {
	count atomic.Int32 // of buffers: readers look no further when it is 0

	mu      sync.Mutex
	waiting map[rowKey]*rowBuffer   // protected by mu, as everything below
	order   []rowKey                // of waiting, the oldest first
	writing map[rowKey][]*rowBuffer // being written, the oldest first
	bytes   int                     // of waiting
	failed  error                   // the first that lost a buffer

	// locks keep the members of a row in step: whoever changes them, and
	// whoever computes one from the others, holds the row's. They are channels
	// because I/O happens under them.
	locks [64]chan struct{}
}

func (r *rows) init() {
	r.waiting, r.writing = make(map[rowKey]*rowBuffer), make(map[rowKey][]*rowBuffer)
	for i := range r.locks {
		r.locks[i] = make(chan struct{}, 1)
	}
}

// add enters bytes at an offset of a row and returns the buffers that are now
// to be written.
func (r *rows) add(k rowKey, c *chunk, sector, off int, buf []byte) (due []*rowBuffer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.waiting[k]
	if b == nil {
		b = newRowBuffer(k, c, sector)
		r.waiting[k] = b
		r.order = append(r.order, k)
		r.bytes += len(b.data)
		r.count.Add(1)
	}
	b.put(off, buf)
	if b.missing == 0 {
		due = append(due, r.takeLocked(k))
	}
	for r.bytes > maxRowBytes && len(r.order) > 1 {
		due = append(due, r.takeLocked(r.order[0]))
	}
	return due
}

// takeLocked moves a buffer from waiting to writing. mu must be held.
func (r *rows) takeLocked(k rowKey) *rowBuffer {
	r.order = slices.DeleteFunc(r.order, func(o rowKey) bool { return o == k })
	b := r.waiting[k]
	delete(r.waiting, k)
	r.bytes -= len(b.data)
	r.writing[k] = append(r.writing[k], b)
	return b
}

// takeAll moves everything that waits to writing, the oldest first.
func (r *rows) takeAll() (due []*rowBuffer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) > 0 {
		due = append(due, r.takeLocked(r.order[0]))
	}
	return due
}

// done forgets a buffer that was written, or whose writing failed. What was lost
// then was acknowledged, maybe to somebody else, so every later Sync fails.
func (r *rows) done(b *rowBuffer, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.failed == nil {
		r.failed = err
	}
	if list := slices.DeleteFunc(slices.Clone(r.writing[b.key]), func(o *rowBuffer) bool { return o == b }); len(list) > 0 {
		r.writing[b.key] = list
	} else {
		delete(r.writing, b.key)
	}
	r.count.Add(-1)
	close(b.done)
}

// wait returns when nothing is being written any more, and whether anything
// was ever lost.
func (r *rows) wait() error {
	r.mu.Lock()
	var busy []*rowBuffer
	for _, list := range r.writing {
		busy = append(busy, list...)
	}
	r.mu.Unlock()
	for _, b := range busy {
		<-b.done
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// newerBytes is bytes that are newer than the device's.
type newerBytes struct {
	at   int // offset in what is read
	data []byte
}

// newer copies what the buffers have of n bytes at an offset of a row, the
// oldest first.
func (r *rows) newer(k rowKey, off, n int) (out []newerBytes) {
	if r.count.Load() == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.writing[k]
	if b := r.waiting[k]; b != nil {
		list = append(slices.Clone(list), b)
	}
	for _, b := range list {
		for at := off; at < off+n; {
			end := at
			for end < off+n && b.has(end/b.sector) {
				end = min(off+n, (end/b.sector+1)*b.sector)
			}
			if end > at {
				out = append(out, newerBytes{at - off, bytes.Clone(b.data[at:end])})
			} else {
				end = (at/b.sector + 1) * b.sector
			}
			at = end
		}
	}
	return out
}

type rowLockKey struct{}

// HoldsRow says whether ctx is that of a call to Committed, whose caller has the
// lock of a row: who gets it must not wait for another read, which may need that
// row to rebuild what it reads.
func HoldsRow(ctx context.Context) bool { return ctx.Value(rowLockKey{}) != nil }

// lock takes the lock of a row, unless ctx says that it is held already by
// somebody on whose behalf this is done.
func (r *rows) lock(ctx context.Context, k rowKey) (unlock func(), err error) {
	if HoldsRow(ctx) {
		return func() {}, nil
	}
	h := (uint64(k.chunk)>>16 ^ k.row) * 0x9e3779b97f4a7c15
	l := r.locks[h>>58]
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	default:
	}
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
