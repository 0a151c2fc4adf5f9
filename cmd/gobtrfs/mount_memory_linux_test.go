//go:build linux && !386 && !arm && !mips && !mipsle

package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"gobtrfs/internal/oracle"
)

var memoryScale = flag.Int("memory.scale", 1, "how much bigger the load is under which the memory of a mount is watched")

// memoryIsBounded has many files written, made, opened, listed and removed at
// the same time. What the server takes stays near what its options say, and
// does not grow with the load.
func memoryIsBounded(t *testing.T, bin string) {
	const cache, dirty = 16, 16 // MiB
	const limit = 128           // MiB: these, as much again before it is collected, and buffers of requests
	r := newRigOf(t, bin, 4<<30)
	r.mount("-o", fmt.Sprintf("cache_mib=%d,dirty_mib=%d,inodes=5000", cache, dirty))
	var work sync.WaitGroup
	for g := range 4 {
		work.Go(func() { // contents, written over again so that the image stays small
			if err := overwriteFile(fmt.Sprintf("%s/big-%d", r.dir, g), 32<<20, 3**memoryScale); err != nil {
				t.Error(err)
			}
		})
		work.Go(func() {
			if err := makeAndRemove(fmt.Sprintf("%s/small-%d", r.dir, g), 3000**memoryScale); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	peak := r.peakRSS()
	t.Logf("peak of the server: %d MiB with %d MiB for tree blocks and %d MiB for contents", peak, cache, dirty)
	if peak > limit {
		t.Errorf("the server took %d MiB, the limit is %d", peak, limit)
	}
	if out, code := r.run("umount", r.dir); code != 0 {
		t.Fatalf("umount exits with %d: %s", code, out)
	}
	oracle.Check(t, r.img)
}

// overwriteFile writes a file so many times, a MiB each.
func overwriteFile(name string, size, times int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	piece := oracle.Noise(uint64(len(name)), 1<<20)
	for range times {
		for off := 0; off < size; off += len(piece) {
			if _, err := f.WriteAt(piece, int64(off)); err != nil {
				return err
			}
		}
	}
	return f.Close()
}

// makeAndRemove makes files, keeps some open, lists them, and removes all.
func makeAndRemove(dir string, n int) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	piece := oracle.Noise(1, 3000)
	for i := range n {
		f, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return err
		}
		if i%10 == 0 {
			defer f.Close() // it has no name for a while
		}
		if _, err := f.Write(piece[:i%len(piece)]); err != nil {
			return err
		}
		if i%10 != 0 {
			f.Close()
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != n {
		return fmt.Errorf("%d names of %d: %w", len(entries), n, err)
	}
	for _, e := range entries {
		if _, err := e.Info(); err != nil {
			return err
		}
		if err := unix.Unlink(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// peakRSS is the most memory that the server ever had, in MiB.
func (r *rig) peakRSS() int {
	r.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.server))
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				r.t.Fatal(err)
			}
			return kib >> 10
		}
	}
	r.t.Fatal("no VmHWM")
	return 0
}
