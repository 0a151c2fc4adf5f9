package btrfs_test

import (
	"errors"
	"flag"
	"fmt"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/mkfs"
)

var (
	fillRounds = flag.Int("fill.rounds", 3, "how often a filesystem is filled and emptied")
	fillSize   = flag.Int64("fill.size", 256<<20, "size of the filesystem that is filled, in bytes")
)

// TestFillRounds fills and empties a filesystem in memory again and again: by
// turns with preallocated extents, with large files and with small ones. It
// never fails but for want of space, and afterwards no more than one block
// group of a kind is empty.
func TestFillRounds(t *testing.T) {
	for _, o := range []mkfs.Options{{}, {Metadata: "single"}, {Features: []string{"mixed-bg"}}} {
		t.Run(fmt.Sprintf("metadata=%s features=%v", o.Metadata, o.Features), func(t *testing.T) {
			m := blockdev.NewMemory(*fillSize)
			_, err := mkfs.Make(t.Context(), []blockdev.Device{m}, o)
			must(t, err)
			f, e := editDevice(t, m, btrfs.Options{})
			for round := range *fillRounds {
				n := fillOnce(t, e, round)
				must(t, f.Failed())
				must(t, f.Sync(t.Context()))
				must(t, f.Verify())
				for i := range n {
					must(t, e.Remove(t.Context(), fmt.Sprint("/f", i)))
				}
				must(t, f.Sync(t.Context()))
				must(t, f.Verify())
				oneSpare(t, f)
				if n == 0 {
					t.Fatalf("round %d: there was room for nothing", round)
				}
			}
			must(t, f.Close())
			wholeDevice(t, m)
		})
	}
}

func fillOnce(t *testing.T, e *btrfs.Editor, round int) (files int) {
	size := max(*fillSize/40, 1<<20)
	if round%3 == 2 {
		size = 64 << 10
	}
	data := make([]byte, min(size, 4<<20))
	for ; ; files++ {
		name := fmt.Sprint("/f", files)
		err := e.Create(t.Context(), name, btrfs.Attr{Perm: 0o600})
		if errors.Is(err, syscall.ENOSPC) {
			return files
		}
		must(t, err)
		if round%3 == 0 {
			err = e.Allocate(t.Context(), name, 0, size, false)
		} else {
			for off := int64(0); off < size && err == nil; off += int64(len(data)) {
				data[0], data[1] = byte(files), byte(round)
				_, err = e.WriteAt(t.Context(), name, data, off)
			}
		}
		if errors.Is(err, syscall.ENOSPC) {
			return files + 1
		}
		must(t, err)
	}
}
