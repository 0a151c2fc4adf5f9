package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
	"gobtrfs/internal/oracle"
)

// TestCreationsTogether: many create at a time, in one directory and in
// directories of their own, below others too, and fight for some names. Each
// name has one maker; whoever looks in between sees whole creations; renames
// and commits go on beside; and the judges are content.
func TestCreationsTogether(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	const workers, files = 8, 100
	ctx := t.Context()
	image := oracle.Mkfs(t, 1<<30)
	f, e := openWritable(t, image)
	must(t, e.Mkdir(ctx, "/shared", btrfs.Attr{Perm: 0o755}))
	var wg, others sync.WaitGroup
	stop := make(chan struct{})
	again := func(do func() error) { others.Go(func() { repeat(t, stop, do) }) }
	again(func() error { return f.Sync(ctx) })
	again(func() error { return wholeDirectory(ctx, f, e, "/shared") })
	must(t, e.Create(ctx, "/shared/wanders", btrfs.Attr{Perm: 0o600}))
	again(func() error {
		if err := e.Rename(ctx, "/shared/wanders", "/wanders", 0); err != nil {
			return err
		}
		return e.Rename(ctx, "/wanders", "/shared/wanders", 0)
	})
	var won atomic.Int64
	for w := range workers {
		wg.Go(func() {
			dir := fmt.Sprintf("/w%d", w)
			for _, err := range []error{
				e.Mkdir(ctx, dir, btrfs.Attr{Perm: 0o755}),
				e.Mkdir(ctx, dir+"/sub", btrfs.Attr{Perm: 0o755}),
			} {
				if err != nil {
					t.Error(err)
				}
			}
			for i := range files {
				for _, path := range []string{
					fmt.Sprintf("/shared/w%d-%d", w, i), fmt.Sprintf("%s/f%d", dir, i), fmt.Sprintf("%s/sub/f%d", dir, i),
				} {
					if err := e.Create(ctx, path, btrfs.Attr{Perm: 0o640, UID: uint32(w)}); err != nil {
						t.Error(err)
					}
				}
				err := e.Create(ctx, fmt.Sprintf("/shared/common%d", i), btrfs.Attr{Perm: 0o600})
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, syscall.EEXIST):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	others.Wait()
	if won.Load() != files {
		t.Errorf("%d makers of %d names", won.Load(), files)
	}
	must(t, f.Failed())
	must(t, f.Sync(ctx))
	must(t, f.Verify())
	must(t, wholeDirectory(ctx, f, e, "/shared"))
	inodes := map[disk.ObjectID]string{}
	for dir, want := range map[string]int{"/shared": (workers+1)*files + 1, "/w3": files + 1, "/w3/sub": files} {
		names, err := e.Names(ctx, dir)
		must(t, err)
		if len(names) != want {
			t.Errorf("%s has %d names, want %d", dir, len(names), want)
		}
		for _, name := range names {
			path := dir + "/" + name
			info, err := e.Stat(ctx, path)
			must(t, err)
			if other := inodes[info.Ino]; other != "" {
				t.Errorf("%s and %s are one inode", path, other)
			}
			inodes[info.Ino] = path
		}
	}
	must(t, f.Close())
	judge(t, image)
}

// wholeDirectory fails if a directory's size is not that of its names, or a
// name leads to no inode.
func wholeDirectory(ctx context.Context, f *btrfs.FS, e *btrfs.Editor, path string) error {
	info, err := e.Stat(ctx, path)
	if err != nil {
		return err
	}
	return f.Writer().View(ctx, info.Sub, func(ctx context.Context, v *fstree.Subvol) error {
		dir, err := v.Inode(ctx, info.Ino)
		if err != nil {
			return err
		}
		size := 0
		var inodes []disk.ObjectID
		it := v.ReadDir(ctx, info.Ino, 0)
		for it.Next() {
			size += 2 * len(it.Entry().Name)
			inodes = append(inodes, it.Entry().Location.ObjectID)
		}
		if it.Err() != nil {
			return it.Err()
		}
		if dir.Size != uint64(size) {
			return fmt.Errorf("%s: size %d, names of %d bytes", path, dir.Size, size)
		}
		slices.Sort(inodes)
		if len(slices.Compact(inodes)) != len(inodes) {
			return fmt.Errorf("%s: two names of one inode", path)
		}
		for _, ino := range inodes {
			if _, err := v.Inode(ctx, ino); err != nil {
				return err
			}
		}
		return nil
	})
}
