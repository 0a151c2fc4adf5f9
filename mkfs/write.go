package mkfs

import (
	"context"
	"os"
	"sync"

	"gobtrfs/disk"
)

// segment is bytes with the place that they go to.
type segment struct {
	c  *chunk
	at disk.Logical
	b  []byte
}

// request is segments and what to do when they are written.
type request struct {
	segs []segment
	done func()
}

// writer writes in the background. The first error cancels the whole work.
type writer struct {
	devices []*device
	queue   chan request
	fail    context.CancelCauseFunc
	wg      sync.WaitGroup
	pending sync.WaitGroup
}

func newWriter(devices []*device, workers int, fail context.CancelCauseFunc) *writer {
	w := &writer{devices: devices, queue: make(chan request, 2*workers), fail: fail}
	for range workers {
		w.wg.Go(w.work)
	}
	return w
}

func (w *writer) work() {
	failed := false
	for r := range w.queue {
		for _, s := range r.segs {
			if failed {
				break
			}
			if err := s.c.write(w.devices, s.at, s.b); err != nil {
				failed = true
				w.fail(err)
			}
		}
		if r.done != nil {
			r.done()
		}
		w.pending.Done()
	}
}

// send queues a request.
func (w *writer) send(r request) {
	w.pending.Add(1)
	w.queue <- r
}

// drain waits until everything that was sent is written.
func (w *writer) drain() { w.pending.Wait() }

// close waits for everything that was queued.
func (w *writer) close() {
	close(w.queue)
	w.wg.Wait()
}

const (
	spillBlock  = 1 << 20
	spillMemory = 64 // blocks
)

// spill keeps nodes aside until it is known where they go: the first 64 MiB in
// memory, the rest in a temporary file. It is written from the beginning on.
type spill struct {
	blocks [][]byte
	file   *os.File
	size   uint64
}

func (s *spill) append(b []byte) error {
	for len(b) > 0 {
		block, off := s.size/spillBlock, s.size%spillBlock
		n := min(uint64(len(b)), spillBlock-off)
		if block < spillMemory {
			if off == 0 {
				s.blocks = append(s.blocks, make([]byte, spillBlock))
			}
			copy(s.blocks[block][off:], b[:n])
		} else {
			if s.file == nil {
				f, err := tempFile()
				if err != nil {
					return err
				}
				s.file = f
			}
			if _, err := s.file.WriteAt(b[:n], int64(s.size-spillMemory*spillBlock)); err != nil {
				return err
			}
		}
		s.size += n
		b = b[n:]
	}
	return nil
}

// read fills b from off on.
func (s *spill) read(b []byte, off uint64) error {
	for len(b) > 0 {
		block, in := off/spillBlock, off%spillBlock
		n := min(uint64(len(b)), spillBlock-in)
		if block < spillMemory {
			copy(b[:n], s.blocks[block][in:])
		} else if _, err := s.file.ReadAt(b[:n], int64(off-spillMemory*spillBlock)); err != nil {
			return err
		}
		off += n
		b = b[n:]
	}
	return nil
}

func (s *spill) close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	_ = os.Remove(s.file.Name()) //nolint:errcheck // is gone already where the system lets it
	return err
}
