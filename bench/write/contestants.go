//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gobtrfs"
)

// ours is a filesystem that gobtrfs changes.
type ours struct {
	f *btrfs.FS
	e *btrfs.Editor
}

func newOurs(_ *bench, image, compress string) (contestant, error) {
	ctx := context.Background()
	f, err := btrfs.Open(ctx, image, btrfs.Options{Writable: true, Compress: compress})
	if err != nil {
		return nil, err
	}
	top, err := f.TopLevel(ctx)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	e, err := top.Edit()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &ours{f, e}, nil
}

func (o *ours) create(path string, data []byte) error {
	ctx := context.Background()
	if err := o.e.Create(ctx, "/"+path, btrfs.Attr{Perm: 0o644}); err != nil || len(data) == 0 {
		return err
	}
	_, err := o.e.WriteAt(ctx, "/"+path, data, 0)
	return err
}

func (o *ours) mkdir(path string) error {
	return o.e.Mkdir(context.Background(), "/"+path, btrfs.Attr{Perm: 0o755})
}

func (o *ours) remove(path string) error { return o.e.Remove(context.Background(), "/"+path) }
func (o *ours) sync() error              { return o.f.Sync(context.Background()) }
func (o *ours) close() error             { return o.f.Close() }

func (o *ours) open(path string) (file, error) { return &ourFile{o, "/" + path}, nil }

type ourFile struct {
	o    *ours
	path string
}

func (f *ourFile) WriteAt(p []byte, off int64) (int, error) {
	return f.o.e.WriteAt(context.Background(), f.path, p, off)
}
func (f *ourFile) Sync() error  { return f.o.sync() }
func (f *ourFile) Close() error { return nil }

// kernel is a loop mount.
type kernel struct{ dir string }

func newKernel(b *bench, image, compress string) (contestant, error) {
	dir, err := os.MkdirTemp(b.dir, "gobtrfs-bench-mount-")
	if err != nil {
		return nil, err
	}
	options := "loop"
	if compress != "" {
		options += ",compress=" + compress
	}
	if out, err := exec.Command("mount", "-o", options, image, dir).CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount: %w: %s", err, out), os.Remove(dir))
	}
	return &kernel{dir}, nil
}

func (k *kernel) create(path string, data []byte) error {
	f, err := os.OpenFile(filepath.Join(k.dir, path), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if len(data) > 0 {
		_, err = f.Write(data)
	}
	return errors.Join(err, f.Close())
}

func (k *kernel) mkdir(path string) error { return os.Mkdir(filepath.Join(k.dir, path), 0o755) }

func (k *kernel) remove(path string) error { return os.Remove(filepath.Join(k.dir, path)) }

func (k *kernel) open(path string) (file, error) {
	return os.OpenFile(filepath.Join(k.dir, path), os.O_WRONLY, 0)
}

func (k *kernel) sync() error {
	d, err := os.Open(k.dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

func (k *kernel) close() error {
	if out, err := exec.Command("umount", k.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("umount: %w: %s", err, out)
	}
	return os.Remove(k.dir)
}

// cpuTimes are the times for which this process and each thread of the kernel,
// which do Linux's part, were busy so far.
type cpuTimes map[string]time.Duration

// since is by how much they rose. What a thread that has ended did is lost.
func (t cpuTimes) since(before cpuTimes) (sum time.Duration) {
	for name, d := range t {
		sum += d - before[name]
	}
	return sum
}

func usedCPU() (cpuTimes, error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return nil, err
	}
	times := cpuTimes{"self": time.Duration(r.Utime.Nano() + r.Stime.Nano())}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// Behind the name in parentheses: state, parent, and as the 12th and
		// 13th the ticks.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		const kthreadd = "2"
		if len(fields) < 13 || fields[1] != kthreadd {
			continue
		}
		for _, f := range fields[11:13] {
			ticks, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			times[path] += time.Duration(ticks) * time.Second / 100
		}
	}
	return times, nil
}

// startProfile profiles what follows until stop, if path is not empty.
func startProfile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close() //nolint:errcheck // a profile that is cut off shows when it is read
	}, nil
}
