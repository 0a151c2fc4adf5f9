//go:build linux

// Command bench measures gobtrfs against what Linux has for the same job, and
// prints a table in Markdown. It needs root, btrfs-progs, a kernel with btrfs,
// and room for the images twice.
//
// All is kept in memory (a tmpfs) and read once before, so that programs are
// compared and not disks. The contestants of one job take turns, and medians
// count. Peak memory is that of the process, without the page cache.
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
	"syscall"
	"time"
)

func main() {
	var b bench
	flag.StringVar(&b.gobtrfs, "gobtrfs", "bin/gobtrfs", "the command to measure")
	flag.StringVar(&b.dir, "dir", "/dev/shm", "where images and copies go")
	flag.IntVar(&b.runs, "runs", 5, "runs of each contestant")
	flag.StringVar(&b.only, "only", "", "jobs whose names contain this")
	flag.Parse()
	if err := b.all(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	gobtrfs, dir, only string
	runs               int
}

// tree is what a filesystem is filled with.
type tree struct {
	name string
	fill func(ctx context.Context, dir string) error
}

var trees = []tree{
	{"small files: the Go distribution and /usr/share", fillSmall},
	{"large files: 2 GiB in 8 files", fillLarge},
}

func (b *bench) all(ctx context.Context, w io.Writer) (err error) {
	if b.gobtrfs, err = filepath.Abs(b.gobtrfs); err != nil {
		return err
	}
	work, err := os.MkdirTemp(b.dir, "gobtrfs-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	fmt.Fprintf(w, "%s, %d CPUs, %s, medians of %d runs\n", time.Now().Format(time.DateOnly), runtime.NumCPU(), kernel(), b.runs)
	for _, t := range trees {
		for _, compress := range []string{"no", "zstd"} {
			name := t.name + ", compress=" + compress
			if !strings.Contains(name, b.only) {
				continue
			}
			if err := b.tree(ctx, w, work, name, t, compress); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func kernel() string {
	out, err := exec.Command("uname", "-sr").Output()
	if err != nil {
		return "unknown system"
	}
	return strings.TrimSpace(string(out))
}

func (b *bench) tree(ctx context.Context, w io.Writer, work, name string, t tree, compress string) error {
	image, mnt, out := filepath.Join(work, "image"), filepath.Join(work, "mnt"), filepath.Join(work, "out")
	if err := os.MkdirAll(mnt, 0o700); err != nil {
		return err
	}
	if err := makeImage(ctx, image, mnt, compress, t.fill); err != nil {
		return err
	}
	jobs := []job{
		{"copy all out", []contestant{
			{"gobtrfs extract", [][]string{{b.gobtrfs, "extract", "--quiet", image, out}}, 0},
			{"btrfs restore -mSxi", [][]string{{"mkdir", out}, {"btrfs", "restore", "-mSxi", image, out}}, 1},
			{"mount, cp -a, umount", [][]string{{"mount", "-o", "loop,ro", image, mnt}, {"cp", "-a", mnt, out}, {"umount", mnt}}, 1},
		}, out},
		{"list all, long", []contestant{
			{"gobtrfs ls -lR", [][]string{{b.gobtrfs, "ls", "-lR", image}}, 0},
			{"mount, find -ls, umount", [][]string{{"mount", "-o", "loop,ro", image, mnt}, {"find", mnt, "-ls"}, {"umount", mnt}}, 1},
		}, ""},
	}
	fmt.Fprintf(w, "\n### %s\n\n| job | command | median s | CPU s | times gobtrfs | peak MiB |\n|---|---|---|---|---|---|\n", name)
	for _, j := range jobs {
		if err := j.run(ctx, w, b.runs); err != nil {
			return err
		}
	}
	return os.Remove(image)
}

// job is something that several programs can do.
type job struct {
	name        string
	contestants []contestant
	clean       string // removed before each run
}

type contestant struct {
	name  string
	steps [][]string
	main  int // the step whose memory counts
}

type sample struct {
	wall, cpu time.Duration
	peak      int64 // KiB
}

func (j *job) run(ctx context.Context, w io.Writer, runs int) error {
	samples := make([][]sample, len(j.contestants))
	for i := range runs + 1 {
		for c := range j.contestants {
			if j.clean != "" {
				if err := os.RemoveAll(j.clean); err != nil {
					return err
				}
			}
			s, err := j.contestants[c].once(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", j.contestants[c].name, err)
			}
			if i > 0 { // the first round warms the caches
				samples[c] = append(samples[c], s)
			}
		}
	}
	base := median(samples[0], func(s sample) float64 { return s.wall.Seconds() })
	for c, s := range samples {
		wall := median(s, func(s sample) float64 { return s.wall.Seconds() })
		fmt.Fprintf(w, "| %s | %s | %.2f | %.2f | %.2f | %.0f |\n", j.name, j.contestants[c].name, wall,
			median(s, func(s sample) float64 { return s.cpu.Seconds() }), wall/base, median(s, func(s sample) float64 { return float64(s.peak) / 1024 }))
	}
	if j.clean != "" {
		return os.RemoveAll(j.clean)
	}
	return nil
}

func median(s []sample, f func(sample) float64) float64 {
	v := make([]float64, len(s))
	for i := range s {
		v[i] = f(s[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// once runs a contestant's steps. When one fails the rest still runs: it
// unmounts.
func (c *contestant) once(ctx context.Context) (sample, error) {
	var s sample
	var errs []error
	start := time.Now()
	for i, step := range c.steps {
		cmd := exec.CommandContext(ctx, step[0], step[1:]...)
		if out, err := cmd.CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w: %s", strings.Join(step, " "), err, out))
			continue
		}
		s.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && i == c.main {
			s.peak = int64(usage.Maxrss)
		}
	}
	s.wall = time.Since(start)
	return s, errors.Join(errs...)
}
