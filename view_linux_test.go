package btrfs_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"gobtrfs"
	"gobtrfs/internal/oracle"
)

// TestViewShowsTheRunningTransaction changes a nested subvolume and reads it
// through the one above, without a commit in between.
func TestViewShowsTheRunningTransaction(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Progs)
	ctx := context.Background()
	f, e := openWritable(t, oracle.Mkfs(t, 256<<20))
	sub, err := e.CreateSubvolume(ctx, "/sub", btrfs.Attr{Perm: 0o755})
	must(t, err)
	must(t, e.Create(ctx, "/sub/file", btrfs.Attr{Perm: 0o644}))
	_, err = e.WriteAt(ctx, "/sub/file", []byte("new"), 0)
	must(t, err)
	look := func(ctx context.Context, s *btrfs.Subvolume) error {
		file, err := s.Open(ctx, "/sub/file")
		if err != nil {
			return err
		}
		if b, err := file.ReadAll(ctx); err != nil || string(b) != "new" {
			t.Errorf("the file has %q, %v", b, err)
		}
		up, dir, name, ok, err := file.Subvolume().Parent(ctx)
		if err != nil || up != 5 || dir != 256 || name != "sub" || !ok {
			t.Errorf("subvolume %d hangs in %d/%d as %q, %v, %v", sub, up, dir, name, ok, err)
		}
		top, err := file.Subvolume().Sibling(ctx, up)
		if err != nil || top.ID() != up {
			t.Errorf("the subvolume above: %v", err)
		}
		return nil
	}
	must(t, f.View(ctx, 5, look))
	must(t, f.Sync(ctx))
	must(t, f.View(ctx, 5, look))
	must(t, e.Remove(ctx, "/sub/file"))
	err = f.View(ctx, 5, func(ctx context.Context, s *btrfs.Subvolume) error {
		_, err := s.Open(ctx, "/sub/file")
		return err
	})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a removed file: %v", err)
	}
}
