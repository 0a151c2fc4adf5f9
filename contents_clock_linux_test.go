package btrfs_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/internal/oracle"
)

// TestContentsDoNotWaitForEver writes, and does nothing more: after the
// interval of commits the contents are durable.
func TestContentsDoNotWaitForEver(t *testing.T) {
	oracle.Need(t, oracle.Progs)
	dev := load(t, oracle.Mkfs(t, 128<<20))
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		f, err := btrfs.OpenDevices(ctx, []blockdev.Device{dev}, btrfs.Options{Writable: true, CommitInterval: 10 * time.Second})
		must(t, err)
		defer f.Close()
		top, err := f.TopLevel(ctx)
		must(t, err)
		e, err := top.Edit()
		must(t, err)
		must(t, e.Create(ctx, "/f", btrfs.Attr{Perm: 0o644}))
		must(t, f.Sync(ctx))
		size := func() int64 {
			top, err := f.TopLevel(ctx)
			must(t, err)
			file, err := top.Open(ctx, "/f")
			must(t, err)
			return file.Size()
		}
		for n := range int64(3) {
			_, err := e.WriteAt(ctx, "/f", make([]byte, 100), n*100)
			must(t, err)
			time.Sleep(9 * time.Second)
			if got := size(); got != n*100 {
				t.Errorf("%d bytes are committed already, want %d", got, n*100)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if got := size(); got != (n+1)*100 {
				t.Errorf("%d bytes are committed, want %d", got, (n+1)*100)
			}
		}
	})
}
