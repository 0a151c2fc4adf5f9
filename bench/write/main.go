//go:build linux

// Command write measures how fast gobtrfs's API changes a filesystem, against
// Linux on a loop mount, and prints a table in Markdown. It needs root and
// mkfs.btrfs, and room in memory for one image at a time.
//
// Images are in a tmpfs. The contestants of one job take turns, and medians
// count. Time goes from the first change until everything is durable. CPU
// seconds are those of the command and of all threads of the kernel, in which
// Linux compresses and writes: other work in them shows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"gobtrfs"
	"gobtrfs/disk"
)

// contestant is a filesystem that is being changed. Its methods are safe for
// concurrent use.
type contestant interface {
	create(path string, data []byte) error
	mkdir(path string) error
	remove(path string) error
	open(path string) (file, error)
	sync() error
	close() error
}

// file is an open file.
type file interface {
	io.WriterAt
	Sync() error
	Close() error
}

// maker makes a contestant of an image.
type maker struct {
	name string
	make func(b *bench, image, compress string) (contestant, error)
}

var makers = []maker{{"gobtrfs", newOurs}, {"Linux", newKernel}}

type bench struct {
	dir, only string
	table     string
	runs      int
	scale     float64
	profile   string
}

func main() {
	var b bench
	flag.StringVar(&b.dir, "dir", "/dev/shm", "where images go")
	flag.IntVar(&b.runs, "runs", 5, "runs of each contestant")
	flag.StringVar(&b.table, "table", "jobs", `what to measure: "jobs", "growth" (of a directory) or "fill" (chunks that are made)`)
	flag.StringVar(&b.only, "only", "", "jobs whose names contain this")
	flag.Float64Var(&b.scale, "scale", 1, "share of the work to do")
	flag.StringVar(&b.profile, "cpuprofile", "", "file for a profile of gobtrfs's part")
	linux := flag.Bool("linux", true, "measure Linux, too")
	flag.Parse()
	if !*linux {
		makers = makers[:1]
	}
	if err := b.all(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// result is one run of a job.
type result struct {
	wall, cpu  time.Duration
	dataChunks int
	memory     int64 // bytes, the most that the command had
}

func (b *bench) all(ctx context.Context, w io.Writer) (err error) {
	work, err := os.MkdirTemp(b.dir, "gobtrfs-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	stop, err := startProfile(b.profile)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Fprintf(w, "%s, %d CPUs, medians of %d runs\n\n", time.Now().Format(time.DateOnly), runtime.NumCPU(), b.runs)
	switch b.table {
	case "growth":
		return b.growth(w, work)
	case "fill":
		return b.fill(w)
	case "jobs":
		return b.jobs(ctx, w, work)
	}
	return fmt.Errorf("table %q", b.table)
}

func (b *bench) jobs(ctx context.Context, w io.Writer, work string) error {
	fmt.Fprintln(w, "| job | gobtrfs | Linux | ratio | CPU s | CPU s, Linux | peak memory | data chunks | Linux |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	for _, j := range jobs() {
		if !strings.Contains(j.name, b.only) {
			continue
		}
		results := make([][]result, len(makers))
		for range b.runs {
			for i, m := range makers {
				r, err := b.run(ctx, work, m, j)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", j.name, m.name, err)
				}
				results[i] = append(results[i], r)
			}
		}
		n := j.amount * b.scale
		rate := func(r result) string { return fmt.Sprintf("%.0f %s", n/r.wall.Seconds(), j.unit) }
		ours := median(results[0])
		if len(makers) == 1 {
			fmt.Fprintf(w, "| %s | %s | | | %.2f | | %d MiB | %d | |\n", j.name, rate(ours), ours.cpu.Seconds(), ours.memory/mib, ours.dataChunks)
			continue
		}
		linux := median(results[1])
		fmt.Fprintf(w, "| %s | %s | %s | %.2f | %.2f | %.2f | %d MiB | %d | %d |\n", j.name, rate(ours), rate(linux),
			linux.wall.Seconds()/ours.wall.Seconds(), ours.cpu.Seconds(), linux.cpu.Seconds(), ours.memory/mib, ours.dataChunks, linux.dataChunks)
	}
	return nil
}

// median is the run with the median time.
func median(r []result) result {
	slices.SortFunc(r, func(a, b result) int { return int(a.wall - b.wall) })
	return r[len(r)/2]
}

func (b *bench) run(ctx context.Context, work string, m maker, j job) (r result, err error) {
	image := filepath.Join(work, "image")
	if err := makeImage(image, j.size); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.Remove(image)) }()
	c, err := m.make(b, image, j.compress)
	if err != nil {
		return r, err
	}
	err = b.measure(c, j, &r)
	if err = errors.Join(err, c.close()); err != nil {
		return r, err
	}
	f, err := btrfs.Open(ctx, image, btrfs.Options{})
	if err != nil {
		return r, err
	}
	defer f.Close()
	r.dataChunks = chunks(f, disk.BlockGroupData)
	return r, nil
}

func (b *bench) measure(c contestant, j job, r *result) error {
	if j.before != nil {
		if err := errors.Join(j.before(b, c), c.sync()); err != nil {
			return err
		}
	}
	if err := resetPeak(); err != nil {
		return err
	}
	cpu, err := usedCPU()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := errors.Join(j.work(b, c), c.sync()); err != nil {
		return err
	}
	r.wall = time.Since(start)
	after, err := usedCPU()
	if err != nil {
		return err
	}
	r.cpu = after.since(cpu)
	r.memory, err = peak()
	return err
}

func makeImage(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	out, err := exec.Command("mkfs.btrfs", "-q", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.btrfs: %w: %s", err, out)
	}
	return nil
}
