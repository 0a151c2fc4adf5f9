package btrfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/internal/oracle"
)

// TestPunchWhenFull punches holes when there is no room: of whole sectors, which
// need none for contents, into plain, compressed and nodatacow files; of parts of
// sectors, which find none or are made; and, when there are no more items either,
// where none is added. Nothing but the holes changes.
func TestPunchWhenFull(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Mounting...)
	for i, args := range [][]string{{}, {"-O", "^no-holes"}} {
		if i > 0 && testing.Short() {
			break
		}
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			ctx := t.Context()
			image := oracle.Mkfs(t, 128<<20, args...)
			f, e := openWith(t, image, btrfs.Options{Compress: "zstd"})
			const size = 2 << 20
			files := map[string][]byte{
				"/plain": oracle.Noise(1, size), "/packed": prose(size), "/inplace": oracle.Noise(2, size), "/parts": oracle.Noise(3, size),
			}
			for name, data := range files {
				must(t, e.Create(ctx, name, btrfs.Attr{Perm: 0o644}))
				if name == "/inplace" { // FS_NOCOW_FL
					must(t, e.SetFlags(ctx, name, 0x800000))
				}
				piece := size
				if name == "/parts" { // more extents than one operation removes
					piece = 16 << 10
				}
				for off := 0; off < size; off += piece {
					_, err := e.WriteAt(ctx, name, data[off:off+piece], int64(off))
					must(t, err)
					if piece < size {
						must(t, f.Sync(ctx))
					}
				}
			}
			must(t, f.Sync(ctx))
			fillWithData(t, f, e)
			for name, data := range files {
				for off := 0; off+24<<10 <= size/2; off += 24 << 10 {
					if err := e.PunchHole(ctx, name, int64(off), 4096); err != nil {
						t.Fatalf("whole sector at %d of %s: %v", off, name, err)
					}
					clear(data[off : off+4096])
				}
				for _, r := range [][2]int{{9000, 100}, {50000, 40000}, {4096, 5000}, {1<<20 - 1, 2}} {
					err := e.PunchHole(ctx, name, int64(r[0]), int64(r[1]))
					if err == nil {
						clear(data[r[0] : r[0]+r[1]])
					} else if !errors.Is(err, syscall.ENOSPC) {
						t.Errorf("%d bytes at %d of %s: %v", r[1], r[0], name, err)
					}
				}
			}
			same(t, e, files)
			must(t, f.Failed())
			names := fillWithNames(t, e)
			must(t, e.PunchHole(ctx, "/parts", size/2, size/2))
			clear(files["/parts"][size/2:])
			for off := size / 2; off < size; off += 8 << 10 { // each makes items
				err := e.PunchHole(ctx, "/plain", int64(off), 4096)
				if errors.Is(err, syscall.ENOSPC) {
					break
				}
				must(t, err)
				clear(files["/plain"][off : off+4096])
			}
			same(t, e, files)
			must(t, f.Sync(ctx))
			must(t, f.Verify())
			must(t, f.Close())
			d, err := blockdev.OpenFile(image, blockdev.FileOptions{})
			must(t, err)
			wholeDevice(t, d)
			must(t, d.Close())
			judge(t, image)
			f, e = openWritable(t, image)
			same(t, e, files)
			for i := range names { // there is still room to remove in
				must(t, e.Remove(ctx, fmt.Sprint("/name", i)))
			}
			must(t, f.Close())
		})
	}
}

// fillWithData writes until not one sector is left.
func fillWithData(t *testing.T, f *btrfs.FS, e *btrfs.Editor) {
	t.Helper()
	must(t, e.Create(t.Context(), "/big", btrfs.Attr{Perm: 0o644}))
	off := int64(0)
	for n := 1 << 20; n >= 4096; {
		if off > 1<<30 {
			t.Fatal("it never fills")
		}
		_, err := e.WriteAt(t.Context(), "/big", oracle.Noise(uint64(off), n), off)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			must(t, f.Sync(t.Context())) // what was promised and not needed is back
			n /= 4
		default:
			must(t, err)
			off += int64(n)
		}
	}
}

// fillWithNames makes files with attributes until there is no room for one more, and
// returns how many there are.
func fillWithNames(t *testing.T, e *btrfs.Editor) (made int) {
	t.Helper()
	for i := range 1 << 20 {
		name := fmt.Sprint("/name", i)
		err := e.Create(t.Context(), name, btrfs.Attr{Perm: 0o600})
		if err == nil {
			made++
			err = e.SetXattr(t.Context(), name, "user.fill", make([]byte, 3000))
		}
		if errors.Is(err, syscall.ENOSPC) {
			return made
		}
		must(t, err)
	}
	t.Fatal("it never fills")
	return 0
}

// same fails if files do not have these contents.
func same(t *testing.T, e *btrfs.Editor, files map[string][]byte) {
	t.Helper()
	for name, want := range files {
		got := make([]byte, len(want))
		_, err := e.ReadAt(context.Background(), name, got, 0)
		must(t, err)
		if !bytes.Equal(got, want) {
			at := 0
			for got[at] == want[at] {
				at++
			}
			t.Errorf("%s differs from offset %d on", name, at)
		}
	}
}
