package btrfs_test

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/mkfs"
)

const defaultFillRounds = 4 // one of each kind

var (
	fillRounds = flag.Int("fill.rounds", defaultFillRounds, "how often a filesystem is filled and emptied")
	fillSize   = flag.Int64("fill.size", 128<<20, "size of the filesystem that is filled, in bytes")
)

// thin is a device in memory that keeps no zeros, so that it may be large.
type thin struct{ *blockdev.Memory }

func (d thin) WriteAt(p []byte, off int64) (n int, err error) {
	const page = 64 << 10
	for n < len(p) && err == nil {
		at := off + int64(n)
		part := p[n:min(len(p), n+page-int(at%page))]
		if bytes.Count(part, []byte{0}) == len(part) {
			err = d.Discard(at, int64(len(part)))
		} else {
			_, err = d.Memory.WriteAt(part, at)
		}
		n += len(part)
	}
	return n, err
}

// TestFillRounds fills and empties a filesystem in memory again and again (T13): by
// turns with preallocated extents, with large files, with small ones, and with
// names. It never fails but for want of space; when it is full, a truncation, the
// deletion of a snapshot and opening it again succeed as well as removing
// everything; and there are never two chunks of a type more than are needed.
func TestFillRounds(t *testing.T) {
	kinds := []mkfs.Options{{}, {Features: []string{"mixed-bg"}}, {NodeSize: 65536}, {Metadata: "single"}, {Data: "dup", NodeSize: 4096}}
	if testing.Short() {
		kinds = kinds[:2]
	} else if *fillRounds == defaultFillRounds {
		kinds = kinds[:3]
	}
	for _, o := range kinds {
		t.Run(fmt.Sprintf("data=%s metadata=%s nodes=%d features=%v", o.Data, o.Metadata, o.NodeSize, o.Features), func(t *testing.T) {
			size := *fillSize
			if o.NodeSize == 65536 {
				size *= 2 // its reserves take half of the smallest
			}
			m := thin{blockdev.NewMemory(size)}
			_, err := mkfs.Make(t.Context(), []blockdev.Device{m}, o)
			must(t, err)
			f, e := editDevice(t, m, btrfs.Options{})
			for round := range *fillRounds {
				must(t, e.Create(t.Context(), "/old", btrfs.Attr{Perm: 0o600}))
				_, err := e.WriteAt(t.Context(), "/old", make([]byte, 1<<20), 0)
				must(t, err)
				_, err = e.Snapshot(t.Context(), "/", "/snapshot", false)
				must(t, err)
				n := fillOnce(t, e, round)
				must(t, f.Failed())
				must(t, f.Sync(t.Context()))
				must(t, f.Verify())
				fewChunks(t, f)
				must(t, e.Truncate(t.Context(), "/old", 5000))
				must(t, e.DeleteSubvolume(t.Context(), "/snapshot"))
				must(t, f.Sync(t.Context()))
				must(t, f.Close())
				f, e = editDevice(t, m, btrfs.Options{})
				for i := range n {
					must(t, e.Remove(t.Context(), fmt.Sprint("/f", i)))
				}
				must(t, e.Remove(t.Context(), "/old"))
				must(t, f.Sync(t.Context()))
				must(t, f.Verify())
				oneSpare(t, f)
				fewChunks(t, f)
				if n < 5 {
					t.Fatalf("round %d: there was room for %d files", round, n)
				}
			}
			must(t, f.Close())
			wholeDevice(t, m)
		})
	}
}

func fillOnce(t *testing.T, e *btrfs.Editor, round int) (files int) {
	size := max(*fillSize/40, 1<<20)
	kind := round % 4
	if *fillSize > 2<<30 {
		kind = round % 3 // metadata are no zeros and would need memory
	}
	if kind == 2 {
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
		switch kind {
		case 0:
			err = e.Allocate(t.Context(), name, 0, size, false)
		case 3:
			err = e.SetXattr(t.Context(), name, "user.fill", []byte(strings.Repeat("x", 3000)))
		default:
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

// fewChunks fails if what is in use would fit in two chunks less of a type, with
// what metadata must have in reserve.
func fewChunks(t *testing.T, f *btrfs.FS) {
	t.Helper()
	byType := make(map[disk.BlockGroupFlags][]btrfs.GroupUsage)
	for _, g := range f.SpaceGroups() {
		byType[g.Type] = append(byType[g.Type], g)
	}
	for typ, groups := range byType {
		if len(groups) < 3 {
			continue
		}
		slices.SortFunc(groups, func(a, b btrfs.GroupUsage) int { return cmp.Compare(a.Length, b.Length) })
		var used, room uint64
		if typ&disk.BlockGroupMetadata != 0 {
			s := f.Writer().Txn().Space()
			used += uint64(s.GlobalReserve().Size() + s.CommitReserve().Size())
		}
		for i, g := range groups {
			used += g.Used
			if i >= 2 {
				room += g.Length
			}
		}
		if used <= room {
			t.Errorf("%d bytes of type %v are in groups %+v, and would fit in two fewer", used, typ, groups)
		}
	}
}
