package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

// dropped is the root item of a subvolume without a name, if one is left.
func dropped(t *testing.T, image string) (item disk.RootItem, ok bool) {
	t.Helper()
	f, err := btrfs.Open(t.Context(), image, btrfs.Options{})
	must(t, err)
	defer f.Close()
	root, _, err := f.Store().Tree(t.Context(), disk.TreeRoot)
	must(t, err)
	it := root.Seek(t.Context(), disk.Key{ObjectID: disk.OrphanObjectID, Type: disk.KeyOrphanItem})
	if !it.Valid() || it.Key().ObjectID != disk.OrphanObjectID {
		must(t, it.Err())
		return item, false
	}
	id := disk.ObjectID(it.Key().Offset)
	it = root.Seek(t.Context(), disk.Key{ObjectID: id, Type: disk.KeyRootItem})
	must(t, it.Err())
	if !it.Valid() || it.Key().ObjectID != id || it.Key().Type != disk.KeyRootItem {
		return item, false
	}
	item, err = disk.ParseRootItem(it.Data())
	must(t, err)
	return item, true
}

// TestDropGoesOnWhereLinuxStopped deletes a large subvolume, part of which a
// snapshot keeps, under a kernel that is stopped half-way. Opening the
// filesystem drops the rest.
func TestDropGoesOnWhereLinuxStopped(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Mounting...)
	before := oracle.Mkfs(t, 1<<30, "-n", "4096")
	m := mount(t, "", before)
	oracle.Run(t, "btrfs", "subvolume", "create", filepath.Join(m.Dir, "s"))
	contents := oracle.Noise(1, 1800) // in the inode's item: many leaves
	for i := range 6000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/s/%d", m.Dir, i), contents, 0o600))
	}
	oracle.Run(t, "btrfs", "subvolume", "snapshot", "-r", filepath.Join(m.Dir, "s"), filepath.Join(m.Dir, "kept"))
	for i := range 3000 {
		must(t, os.Chmod(fmt.Sprintf("%s/s/%d", m.Dir, 2*i), 0o640))
	}
	m.Unmount()
	wait := time.Millisecond
	for range 20 {
		image := oracle.Copy(t, before)
		m := mount(t, "", image)
		oracle.Run(t, "btrfs", "subvolume", "delete", filepath.Join(m.Dir, "s"))
		m.Sync() // wakes the cleaner
		time.Sleep(wait)
		m.Unmount()
		item, ok := dropped(t, image)
		switch {
		case !ok:
			wait /= 2 // it was done
		case item.DropProgress == (disk.Key{}):
			wait = wait*3/2 + time.Millisecond
		}
		if item.DropProgress == (disk.Key{}) {
			must(t, os.Remove(image))
			continue
		}
		t.Logf("after %v Linux was at %v, level %d of %d", wait, item.DropProgress, item.DropLevel, item.Level)
		oracle.Check(t, image)
		f, _ := openWritable(t, image)
		must(t, f.Sync(t.Context()))
		must(t, f.Verify())
		must(t, f.Close())
		if _, ok := dropped(t, image); ok {
			t.Error("a part is left")
		}
		judge(t, image)
		return
	}
	t.Error("Linux was never stopped half-way")
}

// patience ends a context after a number of questions.
type patience struct {
	context.Context
	left int
}

func (p *patience) Err() error {
	if p.left--; p.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestLinuxDropsWhatWeBegan stops us half-way through a deletion, with which we
// or Linux go on.
func TestLinuxDropsWhatWeBegan(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Mounting...)
	ctx := context.Background()
	image := oracle.Mkfs(t, 512<<20, "-n", "4096")
	f, e := openWritable(t, image)
	_, err := e.CreateSubvolume(ctx, "/s", btrfs.Attr{Perm: 0o755})
	must(t, err)
	for i := range 6000 {
		must(t, e.Create(ctx, fmt.Sprintf("/s/%d-with-a-name-that-takes-some-room", i), btrfs.Attr{Perm: 0o600}))
	}
	_, err = e.Snapshot(ctx, "/s", "/kept", true)
	must(t, err)
	for i := range 3000 {
		must(t, e.Chmod(ctx, fmt.Sprintf("/s/%d-with-a-name-that-takes-some-room", 2*i), 0o640))
	}
	must(t, f.Sync(ctx))
	if err := e.DeleteSubvolume(&patience{ctx, 3}, "/s"); !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted deletion: %v", err)
	}
	must(t, f.Sync(ctx))
	must(t, f.Close())
	item, ok := dropped(t, image)
	if !ok {
		t.Fatal("it was all dropped at once")
	}
	if item.DropProgress.ObjectID < disk.FirstFreeObjectID || item.DropLevel != item.Level {
		t.Errorf("the mark is %v, level %d of %d", item.DropProgress, item.DropLevel, item.Level)
	}
	// The low-memory mode misses in a tree without a name what is gone of it, in
	// one that Linux left too once the freed blocks hold something else.
	oracle.CheckWith(t, oracle.CheckOptions{NoLowmem: true, Data: true}, image)
	ours := oracle.Copy(t, image)
	f, _ = openWritable(t, ours)
	must(t, f.Sync(ctx))
	must(t, f.Verify())
	must(t, f.Close())
	if _, ok := dropped(t, ours); ok {
		t.Error("we left a part")
	}
	oracle.Check(t, ours)
	m := mount(t, "", image)
	m.Sync() // wakes the cleaner
	oracle.Run(t, "btrfs", "subvolume", "sync", m.Dir)
	m.Unmount()
	if _, ok := dropped(t, image); ok {
		t.Error("Linux left a part")
	}
	judge(t, image)
}
