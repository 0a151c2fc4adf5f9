package btrfs_test

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/internal/oracle"
	"gobtrfs/mkfs"
)

// allocated is how many bytes an image file takes.
func allocated(t *testing.T, images ...string) (n int64) {
	t.Helper()
	for _, image := range images {
		fi, err := os.Stat(image)
		must(t, err)
		n += fi.Sys().(*syscall.Stat_t).Blocks * 512
	}
	return n
}

// fillAndRemove writes n files of 1 MiB and removes all but one.
func fillAndRemove(t *testing.T, f *btrfs.FS, e *btrfs.Editor, n int) {
	t.Helper()
	ctx := t.Context()
	for i := range n {
		must(t, e.Create(ctx, fmt.Sprint("/f", i), btrfs.Attr{Perm: 0o600}))
		_, err := e.WriteAt(ctx, fmt.Sprint("/f", i), oracle.Noise(uint64(i), 1<<20), 0)
		must(t, err)
	}
	must(t, f.Sync(ctx))
	for i := 1; i < n; i++ {
		must(t, e.Remove(ctx, fmt.Sprint("/f", i)))
	}
	must(t, f.Sync(ctx))
}

// An image that is written with Discard gives back what is removed; without it,
// Trim does. Everything else stays as it is.
func TestDiscard(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for _, tc := range []struct {
		devices int
		profile string
		copies  int64
	}{{1, "dup", 2}, {4, "raid10", 2}} {
		t.Run(tc.profile, func(t *testing.T) {
			ctx := t.Context()
			v := &variant{devices: tc.devices, own: mkfs.Options{Data: tc.profile, Metadata: tc.profile}}
			for _, discard := range []bool{false, true} {
				images := v.make(t, 512<<20)
				empty := allocated(t, images...)
				o := v.options(images, true)
				o.Discard = discard
				f, e := openWith(t, images[0], o)
				fillAndRemove(t, f, e, 40)
				if full := allocated(t, images...) - empty; discard != (full < tc.copies*8<<20) {
					t.Errorf("discard %v: %d bytes are taken", discard, full)
				}
				trimmed, err := f.Trim(ctx, btrfs.TrimOptions{})
				must(t, err)
				if left := allocated(t, images...) - empty; left > tc.copies*5<<20 {
					t.Errorf("trimmed %d bytes, %d are taken", trimmed, left)
				}
				must(t, f.Verify())
				top, err := f.TopLevel(ctx)
				must(t, err)
				file, err := top.Open(ctx, "/f0")
				must(t, err)
				got, err := file.ReadAll(ctx)
				must(t, err)
				if !bytes.Equal(got, oracle.Noise(0, 1<<20)) {
					t.Error("the file that was not removed has other contents")
				}
				must(t, f.Close())
				if discard {
					v.judge(t, images)
				}
			}
		})
	}
}

// Trim leaves out short pieces, and says so when nothing can be discarded.
func TestTrimLimits(t *testing.T) {
	ctx := t.Context()
	mem := blockdev.NewMemory(256 << 20)
	_, err := mkfs.Make(ctx, []blockdev.Device{mem}, mkfs.Options{})
	must(t, err)
	f, e := openDevices(t, []blockdev.Device{mem}, btrfs.Options{Writable: true})
	fillAndRemove(t, f, e, 20)
	all, err := f.Trim(ctx, btrfs.TrimOptions{})
	must(t, err)
	some, err := f.Trim(ctx, btrfs.TrimOptions{Minimum: 4 << 20})
	must(t, err)
	none, err := f.Trim(ctx, btrfs.TrimOptions{Minimum: 1 << 40})
	must(t, err)
	if all > 256<<20 || all < 128<<20 || some > all || some < all/2 || none != 0 {
		t.Errorf("%d, %d and %d bytes were trimmed", all, some, none)
	}
	must(t, f.Close())
}
