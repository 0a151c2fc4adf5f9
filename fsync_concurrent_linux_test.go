package btrfs_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/internal/oracle"
)

// TestConcurrentFsync has many writers sync files of their own, beside commits:
// when an fsync has returned, what the device then holds shows the file.
func TestConcurrentFsync(t *testing.T) {
	oracle.Need(t, oracle.Progs)
	ctx := t.Context()
	dev := load(t, oracle.Mkfs(t, 256<<20))
	f, err := btrfs.OpenDevices(ctx, []blockdev.Device{dev}, btrfs.Options{Writable: true, CommitInterval: -1})
	must(t, err)
	defer f.Close()
	top, err := f.TopLevel(ctx)
	must(t, err)
	e, err := top.Edit()
	must(t, err)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			path := fmt.Sprint("/file", i)
			if err := e.Create(ctx, path, btrfs.Attr{Perm: 0o644}); err != nil {
				t.Error(err)
			}
			for n := range 20 {
				if _, err := e.WriteAt(ctx, path, bytes.Repeat([]byte{byte(n)}, 5000), int64(n*3000)); err != nil {
					t.Error(err)
				}
				if err := e.Fsync(ctx, path, n%2 == 0); err != nil {
					t.Error(err)
				}
				if n%7 == i {
					if err := f.Sync(ctx); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	must(t, f.Sync(ctx))
	must(t, e.Chmod(ctx, "/file0", 0o600))
	must(t, e.Fsync(ctx, "/file0", false))
	must(t, f.Verify())
	again, err := btrfs.OpenDevices(ctx, []blockdev.Device{dev.Clone()}, btrfs.Options{})
	must(t, err)
	defer again.Close()
	if again.Super().LogRoot == 0 {
		t.Error("no fsync made a log")
	}
	for i := range 6 {
		data := readAll(t, again, fmt.Sprint("/file", i))
		if len(data) != 19*3000+5000 || data[0] != 0 || data[19*3000] != 19 || data[10*3000+100] != 10 {
			t.Errorf("file %d has %d bytes", i, len(data))
		}
	}
}

func readAll(t *testing.T, f *btrfs.FS, path string) []byte {
	t.Helper()
	top, err := f.TopLevel(t.Context())
	must(t, err)
	file, err := top.Open(t.Context(), path)
	must(t, err)
	b, err := file.ReadAll(t.Context())
	must(t, err)
	return b
}
