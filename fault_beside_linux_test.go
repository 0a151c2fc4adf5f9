package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/internal/oracle"
)

// TestFaultsBesideOperations fails device operations in turn while several
// goroutines edit and make durable at the same time. Nobody waits for ever,
// everybody is told the device's error once it matters to him, no goroutine is
// left, and the device holds all that was acknowledged.
func TestFaultsBesideOperations(t *testing.T) {
	before := inMemory(t, 256<<20)
	count := &faulty{Device: before.Clone(), fault: &fault{}}
	if _, err := editAndSync(t, count); err != nil {
		t.Fatal(err)
	}
	total := count.n.Load()
	causes := []error{errors.New("input/output error of a test"), syscall.ENOSPC, syscall.EIO}
	faults := int64(24)
	if testing.Short() {
		faults = 5
	}
	step := max(1, total/faults)
	goroutines := runtime.NumGoroutine()
	for k, at := 0, int64(1); at <= total; k, at = k+1, at+step {
		m := before.Clone()
		d := &faulty{Device: m, fault: &fault{at: at, forEver: k%2 == 0, short: k%3 == 0, cause: causes[k%len(causes)]}}
		safe, err := editAndSync(t, d)
		if d.n.Load() >= at && err != nil && !errors.Is(err, d.cause) {
			t.Fatalf("fault %d of %d: %v, want %v", at, total, err, d.cause)
		}
		f, e := editDevice(t, m, btrfs.Options{})
		for _, name := range safe {
			if _, err := e.Stat(t.Context(), name); err != nil {
				t.Errorf("fault %d of %d: acknowledged %s: %v", at, total, name, err)
			}
		}
		must(t, f.Verify())
		must(t, f.Close())
		wholeDevice(t, m)
	}
	for wait := 0; runtime.NumGoroutine() > goroutines; wait++ {
		if wait == 100 {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("%d device operations", total)
}

// editAndSync returns the files that were acknowledged, and the first error.
func editAndSync(t *testing.T, d blockdev.Device) (safe []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f, err := btrfs.OpenDevices(ctx, []blockdev.Device{d}, btrfs.Options{Writable: true, DirtyNodeBytes: 1 << 20})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	top, err := f.TopLevel(ctx)
	must(t, err)
	e, err := top.Edit()
	must(t, err)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			files, first := editFiles(ctx, f, e, g)
			mu.Lock()
			defer mu.Unlock()
			safe = append(safe, files...)
			if err == nil {
				err = first
			}
		})
	}
	wg.Wait()
	return safe, err
}

func editFiles(ctx context.Context, f *btrfs.FS, e *btrfs.Editor, g int) (safe []string, err error) {
	dir := fmt.Sprint("/g", g)
	if err := e.Mkdir(ctx, dir, btrfs.Attr{Perm: 0o755}); err != nil {
		return nil, err
	}
	var made []string
	for i := range 40 {
		name := fmt.Sprintf("%s/%d", dir, i)
		if err := e.Create(ctx, name, btrfs.Attr{Perm: 0o600}); err != nil {
			return safe, err
		}
		if _, err := e.WriteAt(ctx, name, oracle.Noise(uint64(i), 100*i*i), 0); err != nil {
			return safe, err
		}
		made = append(made, name)
		switch {
		case i%20 == 13:
			if _, err := e.Snapshot(ctx, "/", fmt.Sprintf("%s/snap%d", dir, i), true); err != nil {
				return safe, err
			}
		case i%8 == 7:
			if err := f.Sync(ctx); err != nil {
				return safe, err
			}
			safe = append(safe, made...)
			made = nil
		case i%8 == 3 && len(made) > 3:
			if err := e.Remove(ctx, made[0]); err != nil {
				return safe, err
			}
			made = made[1:]
		}
	}
	return safe, nil
}
