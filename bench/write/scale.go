//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/mkfs"
)

// growth prints what a create costs in a directory of ten thousand, a hundred
// thousand and a million files, and how many metadata chunks are left when all
// are deleted.
func (b *bench) growth(w io.Writer, work string) error {
	fmt.Fprintln(w, "| files | creates | µs each | µs / log2 n | peak memory | metadata chunks full, emptied | Linux: creates | µs each | metadata chunks full, emptied |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		n = b.count(n)
		fmt.Fprintf(w, "| %d |", n)
		for i, m := range makers {
			var runs []grown
			for range b.runs {
				g, err := b.grow(m, work, n)
				if err != nil {
					return fmt.Errorf("%d files, %s: %w", n, m.name, err)
				}
				runs = append(runs, g)
			}
			slices.SortFunc(runs, func(a, b grown) int { return int(a.wall - b.wall) })
			g := runs[len(runs)/2]
			each := float64(g.wall.Microseconds()) / float64(n)
			fmt.Fprintf(w, " %.0f /s | %.2f |", float64(n)/g.wall.Seconds(), each)
			if i == 0 {
				fmt.Fprintf(w, " %.3f | %d MiB |", each/math.Log2(float64(n)), g.memory/mib)
			}
			fmt.Fprintf(w, " %d, %d |", g.full, g.emptied)
		}
		fmt.Fprintln(w)
	}
	return nil
}

// grown is how a directory became large.
type grown struct {
	wall          time.Duration
	memory        int64 // bytes, the most that was in use
	full, emptied int   // metadata chunks
}

func (b *bench) grow(m maker, work string, n int) (g grown, err error) {
	image := filepath.Join(work, "image")
	if err := makeImage(image, 8*gib); err != nil {
		return g, err
	}
	defer func() { err = errors.Join(err, os.Remove(image)) }()
	for step, do := range []func(contestant, string) error{
		func(c contestant, path string) error { return c.create(path, nil) },
		contestant.remove,
	} {
		c, err := m.make(b, image, "")
		if err != nil {
			return g, err
		}
		if err := resetPeak(); err != nil {
			return g, errors.Join(err, c.close())
		}
		start := time.Now()
		err = parallel(1, n, func(_, i int) error { return do(c, fmt.Sprintf("f%07d", i)) })
		if err = errors.Join(err, c.sync()); err == nil && step == 0 {
			g.wall = time.Since(start)
			g.memory, err = peak()
		}
		if err = errors.Join(err, c.close()); err != nil {
			return g, err
		}
		f, err := btrfs.Open(context.Background(), image, btrfs.Options{})
		if err != nil {
			return g, err
		}
		g.full, g.emptied = g.emptied, chunks(f, disk.BlockGroupMetadata)
		if err := f.Close(); err != nil {
			return g, err
		}
	}
	return g, nil
}

// fill prints how many data chunks are made when some writers together fill
// 18 GiB of 20. Contents are zeros, which the device does not keep: that needs
// little memory. Linux is not measured.
func (b *bench) fill(w io.Writer) error {
	fmt.Fprintln(w, "| writers | written | data chunks needed | made | metadata chunks | MiB/s | peak memory |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|")
	for _, writers := range []int{1, 8, 64} {
		ctx := context.Background()
		size := int64(b.count(18*1024)) * mib
		dev := &sparse{blockdev.NewMemory(20 * gib)}
		if _, err := mkfs.Make(ctx, []blockdev.Device{dev}, mkfs.Options{}); err != nil {
			return err
		}
		f, err := btrfs.OpenDevices(ctx, []blockdev.Device{dev}, btrfs.Options{Writable: true})
		if err != nil {
			return err
		}
		if err := b.fillWith(w, f, writers, size); err != nil {
			return errors.Join(err, f.Close())
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) fillWith(w io.Writer, f *btrfs.FS, writers int, size int64) error {
	top, err := f.TopLevel(context.Background())
	if err != nil {
		return err
	}
	e, err := top.Edit()
	if err != nil {
		return err
	}
	c := &ours{f, e}
	if err := resetPeak(); err != nil {
		return err
	}
	start := time.Now()
	if err := errors.Join(streamOf(c, writers, size, make([]byte, 16*mib)), c.sync()); err != nil {
		return err
	}
	wall := time.Since(start)
	memory, err := peak()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "| %d | %.1f GiB | %d | %d | %d | %.0f | %d MiB |\n", writers, float64(size)/gib, (size+gib-1)/gib,
		chunks(f, disk.BlockGroupData), chunks(f, disk.BlockGroupMetadata), float64(size)/mib/wall.Seconds(), memory/mib)
	return nil
}

// chunks counts a filesystem's chunks of a type.
func chunks(f *btrfs.FS, typ disk.BlockGroupFlags) (n int) {
	for _, c := range f.Store().Volume().Chunks() {
		if c.Type&typ != 0 {
			n++
		}
	}
	return n
}

// sparse is a device in memory that keeps no zeros.
type sparse struct{ blockdev.Device }

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	const page = 64 << 10
	for done := 0; done < len(p); {
		part := p[done:min(len(p), done+page-int((off+int64(done))%page))]
		var err error
		if bytes.Equal(part, zeros[:len(part)]) {
			err = s.Discard(off+int64(done), int64(len(part)))
		} else {
			_, err = s.Device.WriteAt(part, off+int64(done))
		}
		if err != nil {
			return done, err
		}
		done += len(part)
	}
	return len(p), nil
}

var zeros [64 << 10]byte

// resetPeak has peak count from what is in use now.
func resetPeak() error {
	runtime.GC()
	debug.FreeOSMemory()
	return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// peak is the most memory that this process had, in bytes.
func peak() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	return kib << 10, err
}
