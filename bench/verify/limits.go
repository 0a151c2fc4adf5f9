//go:build linux

package main

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

const (
	pieceBytes   = 256 << 10 // what one goroutine reads or sums at a time
	segmentBytes = 256 << 20 // of data in memory
	sectorBytes  = 4096      // what one checksum is about
)

// limits measures what verifying data cannot be faster than.
type limits struct {
	f       *os.File
	csum    disk.CsumType
	size    int64
	workers int
	memory  []byte
}

func newLimits(image string, t disk.CsumType, size int64) (*limits, error) {
	f, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	return &limits{f: f, csum: t, size: size, workers: runtime.GOMAXPROCS(0), memory: make([]byte, min(size, segmentBytes))}, nil
}

func (l *limits) close() error { return l.f.Close() }

// read reads all data into buffers that are used again.
func (l *limits) read() (sample, error) {
	return measure(func() error {
		return l.parallel(l.size, func() func(at, n int64) error {
			buf := make([]byte, pieceBytes)
			return func(at, n int64) error {
				_, err := l.f.ReadAt(buf[:n], dataStart+at)
				return err
			}
		})
	})
}

// sums computes the checksums of all data; only that is timed, not how it gets
// into memory.
func (l *limits) sums() (sample, error) {
	var total sample
	for at := int64(0); at < l.size; at += int64(len(l.memory)) {
		b := l.memory[:min(int64(len(l.memory)), l.size-at)]
		if _, err := l.f.ReadAt(b, dataStart+at); err != nil {
			return total, err
		}
		s, err := measure(func() error {
			return l.parallel(int64(len(b)), func() func(at, n int64) error {
				var out []byte
				return func(at, n int64) error {
					out = csum.AppendBlocks(out[:0], l.csum, b[at:at+n], sectorBytes)
					return nil
				}
			})
		})
		if err != nil {
			return total, err
		}
		total.wall, total.cpu = total.wall+s.wall, total.cpu+s.cpu
	}
	return total, nil
}

// parallel calls a function, one for each goroutine, for all pieces of size bytes.
func (l *limits) parallel(size int64, start func() func(at, n int64) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, l.workers)
	for i := range errs {
		wg.Go(func() {
			piece := start()
			for errs[i] == nil {
				at := next.Add(pieceBytes) - pieceBytes
				if at >= size {
					return
				}
				errs[i] = piece(at, min(pieceBytes, size-at))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// measure takes the time of a function and what this process uses meanwhile.
func measure(f func() error) (sample, error) {
	var before, after syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	start := time.Now()
	err = errors.Join(err, f())
	s := sample{wall: time.Since(start)}
	err = errors.Join(err, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	s.cpu = time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	return s, err
}
