//go:build linux

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
)

// job is something to do to an empty filesystem.
type job struct {
	name, unit, compress string
	amount               float64 // in units
	size                 int64   // of the image, bytes
	before, work         func(b *bench, c contestant) error
}

const (
	files      = 100_000
	mib        = 1 << 20
	gib        = 1 << 30
	streamSize = 2 * gib
	overwrites = 4000
)

func jobs() []job {
	var out []job
	for _, n := range []int{1, 8} {
		for _, size := range []int{0, 4096} {
			out = append(out, job{
				name: fmt.Sprintf("create %d files of %d bytes, %d threads", files, size, n), unit: "/s", amount: files, size: 4 * gib,
				work: func(b *bench, c contestant) error { return create(b, c, n, size) },
			})
		}
		out = append(out, job{
			name: fmt.Sprintf("create %d files of 0 bytes, %d threads, a directory each", files, n), unit: "/s", amount: files, size: 4 * gib,
			before: func(_ *bench, c contestant) error {
				return parallel(1, n, func(_, i int) error { return c.mkdir(fmt.Sprintf("d%d", i)) })
			},
			work: func(b *bench, c contestant) error {
				return parallel(n, b.count(files), func(t, i int) error { return c.create(fmt.Sprintf("d%d/f%06d", t, i), nil) })
			},
		})
		out = append(out, job{
			name: fmt.Sprintf("delete %d files, %d threads", files, n), unit: "/s", amount: files, size: 4 * gib,
			before: func(b *bench, c contestant) error { return create(b, c, 1, 0) },
			work: func(b *bench, c contestant) error {
				return parallel(n, b.count(files), func(_, i int) error { return c.remove(fmt.Sprintf("f%06d", i)) })
			},
		})
	}
	for _, n := range []int{1, 8, 64} {
		out = append(out, job{
			name: fmt.Sprintf("4 KiB overwrites with fsync, %d threads", n), unit: "/s", amount: overwrites, size: 4 * gib,
			before: func(b *bench, c contestant) error { return stream(b, c, 1, 256*mib) },
			work:   func(b *bench, c contestant) error { return overwrite(b, c, n) },
		})
	}
	for _, compress := range []string{"", "zstd:3"} {
		for _, n := range []int{1, 8, 64} {
			out = append(out, job{
				name: fmt.Sprintf("write 2 GiB in turn %s, %d writers", compress, n), unit: "MiB/s", amount: streamSize / mib, size: 6 * gib, compress: compress,
				work: func(b *bench, c contestant) error { return stream(b, c, n, int64(b.count(streamSize/mib))*mib) },
			})
		}
	}
	return out
}

func (b *bench) count(n int) int { return max(1, int(float64(n)*b.scale)) }

// parallel does n things with some threads, each thread a stretch of them.
func parallel(threads, n int, do func(thread, i int) error) error {
	errs := make([]error, threads)
	var wg sync.WaitGroup
	for t := range threads {
		wg.Go(func() {
			for i := n * t / threads; i < n*(t+1)/threads && errs[t] == nil; i++ {
				errs[t] = do(t, i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func create(b *bench, c contestant, threads, size int) error {
	data := text(size)
	return parallel(threads, b.count(files), func(_, i int) error { return c.create(fmt.Sprintf("f%06d", i), data) })
}

// stream writes so many bytes in all, one file a writer, a mebibyte at a time.
func stream(b *bench, c contestant, writers int, bytes int64) error {
	return streamOf(c, writers, bytes, text(16*mib))
}

// streamOf is stream of data, 16 mebibytes, again and again.
func streamOf(c contestant, writers int, bytes int64, data []byte) error {
	const block = mib
	handles := make([]file, writers)
	for i := range handles {
		name := fmt.Sprintf("s%d", i)
		if err := c.create(name, nil); err != nil {
			return err
		}
		var err error
		if handles[i], err = c.open(name); err != nil {
			return err
		}
		defer handles[i].Close()
	}
	per := int(bytes/block) / writers
	return parallel(writers, per*writers, func(t, i int) error {
		k := i % 16
		_, err := handles[t].WriteAt(data[k*block:(k+1)*block], int64(i-t*per)*block)
		return err
	})
}

func overwrite(b *bench, c contestant, threads int) error {
	h, err := c.open("s0")
	if err != nil {
		return err
	}
	defer h.Close()
	data := text(4096)
	rnds := make([]*rand.Rand, threads)
	for i := range rnds {
		rnds[i] = rand.New(rand.NewPCG(1, uint64(i)))
	}
	return parallel(threads, b.count(overwrites), func(t, _ int) error {
		if _, err := h.WriteAt(data, int64(rnds[t].IntN(256*mib/4096))*4096); err != nil {
			return err
		}
		return h.Sync()
	})
}

// text compresses to about a third.
func text(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 3000)
	for i := range words {
		w := make([]byte, 3+rnd.IntN(8))
		for k := range w {
			w[k] = byte('a' + rnd.IntN(26))
		}
		words[i] = string(w) + " "
	}
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(b, words[min(rnd.IntN(3000), rnd.IntN(3000))]...)
	}
	return b[:n]
}
