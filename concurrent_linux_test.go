package btrfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/internal/oracle"
)

// TestConcurrentEdits lets many goroutines edit directories of their own and
// one together, while others commit and read. Every file is whole afterwards,
// readers saw nothing but commits, and the judges are content.
func TestConcurrentEdits(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	image := oracle.Mkfs(t, 1<<30)
	f, e := openWritable(t, image)
	concurrentEdits(t, f, e, 8, 24)
	must(t, f.Close())
	judge(t, image)
}

// repeat does something over and over until stop is closed or it fails.
func repeat(t *testing.T, stop <-chan struct{}, do func() error) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if err := do(); err != nil {
			t.Error(err)
			return
		}
	}
}

func concurrentEdits(t *testing.T, f *btrfs.FS, e *btrfs.Editor, writers, files int) {
	t.Helper()
	ctx := t.Context()
	var wg, helpers sync.WaitGroup
	stop := make(chan struct{})
	helper := func(do func() error) { helpers.Go(func() { repeat(t, stop, do) }) }
	helper(func() error { return f.Sync(ctx) })
	for range 2 {
		helper(func() error { return readEverything(ctx, f) })
	}
	for w := range writers {
		wg.Go(func() {
			if err := editAlone(ctx, e, w, files); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(stop)
	helpers.Wait()
	must(t, f.Failed())
	must(t, f.Sync(ctx))
	must(t, f.Verify())
	top, err := f.TopLevel(ctx)
	must(t, err)
	for w := range writers {
		for i := range files {
			file, err := top.Open(ctx, fmt.Sprintf("/w%d/f%d", w, i))
			if i%3 == 0 {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("writer %d: file %d: %v", w, i, err)
				}
				continue
			}
			must(t, err)
			got, err := file.ReadAll(ctx)
			must(t, err)
			if !bytes.Equal(got, concurrentContents(w, i)) {
				t.Errorf("writer %d: file %d has other contents", w, i)
			}
		}
	}
}

func concurrentContents(w, i int) []byte {
	return oracle.Noise(uint64(w*1000+i), 100+i*3000)
}

func editAlone(ctx context.Context, e *btrfs.Editor, w, files int) error {
	dir := fmt.Sprint("/w", w)
	if err := e.Mkdir(ctx, dir, btrfs.Attr{Perm: 0o755}); err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(uint64(w), 0))
	for i := range files {
		name := fmt.Sprintf("%s/f%d", dir, i)
		if err := e.Create(ctx, name, btrfs.Attr{Perm: 0o600}); err != nil {
			return err
		}
		if _, err := e.WriteAt(ctx, name, concurrentContents(w, i), 0); err != nil {
			return err
		}
		// One name that all fight for.
		err := e.Link(ctx, name, "/common")
		if errors.Is(err, syscall.EEXIST) {
			err = e.Remove(ctx, "/common")
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if rnd.IntN(10) == 0 {
			if _, err := e.Snapshot(ctx, "/", fmt.Sprintf("%s/snap%d", dir, i), true); err != nil {
				return err
			}
		}
	}
	for i := 0; i < files; i += 3 {
		if err := e.Remove(ctx, fmt.Sprintf("%s/f%d", dir, i)); err != nil {
			return err
		}
	}
	return nil
}

// readEverything reads what was committed. A later commit may end that.
func readEverything(ctx context.Context, f *btrfs.FS) error {
	top, err := f.TopLevel(ctx)
	if err == nil {
		var root *btrfs.File
		if root, err = top.Root(ctx); err == nil {
			err = readDir(ctx, root)
		}
	}
	if errors.Is(err, syscall.ESTALE) {
		return nil
	}
	return err
}

func readDir(ctx context.Context, dir *btrfs.File) error {
	for ent, err := range dir.ReadDir(ctx, 0) {
		if err != nil {
			return err
		}
		file, err := dir.OpenEntry(ctx, ent)
		if err != nil {
			return err
		}
		if file.Mode().IsRegular() {
			_, err = file.ReadAll(ctx)
		} else if file.Mode().IsDir() {
			err = readDir(ctx, file)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
