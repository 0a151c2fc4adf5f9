package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

// TestFillAndEmpty fills a filesystem to the last byte, with large files, with
// small ones and with attributes, removes what it made, in the end but for a file
// here and there, and does so again. What is full says so (ENOSPC) and goes on
// working; chunks come and go; every judge is content.
func TestFillAndEmpty(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for _, args := range [][]string{{}, {"-M"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			ctx := context.Background()
			image := oracle.Mkfs(t, 256<<20, args...)
			for round := range 3 {
				f, e := openWritable(t, image)
				n := fill(t, e, round)
				if err := f.Failed(); err != nil {
					t.Fatal(err)
				}
				must(t, f.Sync(ctx))
				must(t, f.Verify())
				t.Logf("round %d: %d files until full", round, n)
				if round == 0 {
					must(t, f.Close())
					judge(t, image)
					f, e = openWritable(t, image)
				}
				for i := range n {
					if round < 2 || i%3000 > 0 {
						must(t, e.Remove(ctx, fmt.Sprint("/f", i)))
					}
				}
				must(t, f.Sync(ctx))
				must(t, f.Verify())
				oneSpare(t, f)
				fewChunks(t, f)
				must(t, f.Close())
				judge(t, image)
			}
		})
	}
}

// fill makes files until there is no room, and returns how many there are.
func fill(t *testing.T, e *btrfs.Editor, round int) int {
	t.Helper()
	ctx := context.Background()
	for i := 0; ; i++ {
		name := fmt.Sprint("/f", i)
		err := e.Create(ctx, name, btrfs.Attr{Perm: 0o600})
		if errors.Is(err, syscall.ENOSPC) {
			return i
		}
		must(t, err)
		switch {
		case round == 2:
			err = e.SetXattr(ctx, name, "user.fill", make([]byte, 3000))
		case i > 600:
			return i + 1
		case round == 1: // not inline
			_, err = e.WriteAt(ctx, name, oracle.Noise(uint64(i%7), 3000), 0)
		default:
			_, err = e.WriteAt(ctx, name, oracle.Noise(uint64(i%7), 6<<20), 0)
		}
		if errors.Is(err, syscall.ENOSPC) {
			return i + 1
		}
		must(t, err)
	}
}

// oneSpare fails if more than one block group of a kind is empty.
func oneSpare(t *testing.T, f *btrfs.FS) {
	t.Helper()
	empty := make(map[disk.BlockGroupFlags]int)
	for _, g := range f.SpaceGroups() {
		if g.Used == 0 {
			if empty[g.Type]++; empty[g.Type] > 1 {
				t.Errorf("%d empty groups of type %v", empty[g.Type], g.Type)
			}
		}
	}
}
