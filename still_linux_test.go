package btrfs_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gobtrfs"
	"gobtrfs/internal/oracle"
)

// TestStillDevices lets writers write in place, write new contents and commit
// while the devices are held still: not a byte may change, and all goes on
// afterwards.
func TestStillDevices(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Progs)
	ctx := context.Background()
	image := oracle.Mkfs(t, 128<<20)
	f, e := openWritable(t, image)
	must(t, e.Create(ctx, "/place", btrfs.Attr{Perm: 0o644}))
	must(t, e.Allocate(ctx, "/place", 0, 1<<20, false))
	sum := func() [32]byte {
		b, err := os.ReadFile(image)
		must(t, err)
		return sha256.Sum256(b)
	}
	var round, synced atomic.Int64
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				n := round.Add(1)
				name := fmt.Sprintf("/file%d", n%7)
				if _, err := e.WriteAt(ctx, "/place", oracle.Noise(uint64(n), 4096), n%200*4096); err != nil {
					return err
				}
				if err := e.Create(ctx, name, btrfs.Attr{Perm: 0o644}); err != nil && n <= 7 {
					return err
				}
				if _, err := e.WriteAt(ctx, name, oracle.Noise(uint64(n), 100_000), 0); err != nil {
					return err
				}
				if err := f.Sync(ctx); err != nil {
					return err
				}
				synced.Store(n)
			}
		}()
	}()
	for range 3 {
		for before := synced.Load(); synced.Load() == before; { // they are at work
			time.Sleep(time.Millisecond)
		}
		must(t, f.Still(ctx, true, func(context.Context) error {
			before := sum()
			time.Sleep(50 * time.Millisecond)
			if sum() != before {
				t.Error("the image changed")
			}
			return nil
		}))
	}
	close(stop)
	must(t, <-done)
	must(t, f.Sync(ctx))
	oracle.Check(t, image)
}

// TestStillContainsEverythingBefore: what was done before is in the commit that
// is looked at, and who waits for that is not kept waiting.
func TestStillContainsEverythingBefore(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Progs)
	ctx := context.Background()
	image := oracle.Mkfs(t, 256<<20)
	f, e := openWritable(t, image)
	must(t, e.Create(ctx, "/file", btrfs.Attr{Perm: 0o644}))
	_, err := e.WriteAt(ctx, "/file", oracle.Noise(1, 100_000), 0)
	must(t, err)
	must(t, f.Still(ctx, false, func(ctx context.Context) error {
		g, err := btrfs.Open(ctx, image, btrfs.Options{})
		must(t, err)
		defer g.Close()
		top, err := g.TopLevel(ctx)
		must(t, err)
		file, err := top.Open(ctx, "/file")
		must(t, err)
		if b, err := file.ReadAll(ctx); err != nil || string(b) != string(oracle.Noise(1, 100_000)) {
			t.Errorf("the file on the image: %d bytes, %v", len(b), err)
		}
		return nil
	}))
}

// TestStillAfterAFailure: what cannot be written any more can be looked at.
func TestStillAfterAFailure(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Progs)
	ctx := context.Background()
	f, e := openWritable(t, oracle.Mkfs(t, 128<<20))
	must(t, e.Create(ctx, "/file", btrfs.Attr{Perm: 0o644}))
	f.Writer().Txn().Fail(errors.New("the device is gone"))
	looked := false
	must(t, f.Still(ctx, true, func(context.Context) error {
		looked = true
		return nil
	}))
	if !looked {
		t.Error("nobody looked")
	}
}

// TestLabel sets labels, and nothing else in a commit.
func TestLabel(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Progs)
	ctx := context.Background()
	image := oracle.Mkfs(t, 256<<20, "-L", "old")
	f, _ := openWritable(t, image)
	for _, label := range []string{"new", strings.Repeat("x", 255), "", "last"} {
		must(t, f.SetLabel(ctx, label))
		if got := f.Label(); got != label {
			t.Errorf("label %q, want %q", got, label)
		}
	}
	for _, label := range []string{strings.Repeat("x", 256), "a\x00b"} {
		if err := f.SetLabel(ctx, label); err == nil {
			t.Errorf("label %q is accepted", label)
		}
	}
	if out := oracle.Run(t, "btrfs", "filesystem", "label", image); strings.TrimSpace(string(out)) != "last" {
		t.Errorf("btrfs-progs show the label %q", out)
	}
	oracle.Check(t, image)
}
