package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

// prose is text of n bytes that compresses to less than half.
func prose(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	words := strings.Fields("the extent of a file is where its contents are and the tree says so in an item of its own")
	var b []byte
	for len(b) < n {
		b = append(append(b, words[rnd.IntN(len(words))]...), ' ')
	}
	return b[:n]
}

// layout are the extents of a file as text, without places.
func layout(t *testing.T, image, path string) string {
	t.Helper()
	var b strings.Builder
	for _, e := range extentsOf(t, image, path) {
		fmt.Fprintf(&b, "%d-%d hole=%v type=%d %v;", e.Start, e.End, e.Hole, e.Item.Type, e.Item.Compression)
	}
	return b.String()
}

func extentsOf(t *testing.T, image, path string) (out []btrfs.Extent) {
	t.Helper()
	f, err := btrfs.Open(t.Context(), image, btrfs.Options{})
	must(t, err)
	defer f.Close()
	return extentsNow(t, f, path)
}

// extentsNow are a file's extents in the running transaction.
func extentsNow(t *testing.T, f *btrfs.FS, path string) (out []btrfs.Extent) {
	t.Helper()
	must(t, f.View(t.Context(), disk.TreeFS, func(ctx context.Context, s *btrfs.Subvolume) error {
		file, err := s.Open(ctx, path)
		if err != nil {
			return err
		}
		for e, err := range file.Extents(ctx, 0) {
			if err != nil {
				return err
			}
			out = append(out, *e)
		}
		return nil
	}))
	return out
}

// TestLayoutAsLinux writes files of sizes at which something changes, that
// compress or do not, and compares how they lie with what Linux makes of them:
// inline or not, where extents are cut, and what is compressed.
func TestLayoutAsLinux(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Mounting...)
	ctx := context.Background()
	sizes := []int{1, 300, 2047, 2048, 2049, 3000, 4095, 4096, 4097, 8192, 9000, 131072, 131073, 400000}
	for _, way := range []struct {
		mount   string
		options btrfs.Options
	}{
		{"", btrfs.Options{}}, {"compress-force=zstd:3", btrfs.Options{Compress: "zstd:3", CompressForce: true}},
		{"compress-force=lzo", btrfs.Options{Compress: "lzo", CompressForce: true}},
		{"compress-force=zlib", btrfs.Options{Compress: "zlib", CompressForce: true}},
		{"nodatacow", btrfs.Options{NoDataCow: true}},
	} {
		ours, theirs := oracle.Mkfs(t, 256<<20), oracle.Mkfs(t, 256<<20)
		m := mount(t, way.mount, theirs)
		f, e := openWith(t, ours, way.options)
		var names []string
		for _, n := range sizes {
			for kind, data := range map[string][]byte{"prose": prose(n), "noise": oracle.Noise(1, n)} {
				name := fmt.Sprint("/", kind, n)
				names = append(names, name)
				must(t, os.WriteFile(filepath.Join(m.Dir, name), data, 0o644))
				must(t, e.Create(ctx, name, btrfs.Attr{Perm: 0o644}))
				_, err := e.WriteAt(ctx, name, data, 0)
				must(t, err)
			}
		}
		must(t, f.Sync(ctx))
		must(t, f.Close())
		m.Unmount()
		for _, name := range names {
			if strings.HasSuffix(way.mount, "lzo") && (strings.HasSuffix(name, "e1") || strings.HasSuffix(name, "e300")) {
				continue // Linux puts lzo in items also where it is longer than what it stands for
			}
			if got, want := layout(t, ours, name), layout(t, theirs, name); got != want {
				t.Errorf("%q: %s lies as\n%s, want\n%s", way.mount, name, got, want)
			}
		}
		judge(t, ours)
	}
}

// TestAppendsMakeLongExtents appends little by little.
func TestAppendsMakeLongExtents(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Progs)
	image := oracle.Mkfs(t, 256<<20)
	f, e := openWritable(t, image)
	must(t, e.Create(t.Context(), "/f", btrfs.Attr{Perm: 0o644}))
	const size, piece = 24 << 20, 1000
	data := oracle.Noise(3, size)
	for at := 0; at < size; at += piece {
		_, err := e.WriteAt(t.Context(), "/f", data[at:min(size, at+piece)], int64(at))
		must(t, err)
	}
	if pending := extentsNow(t, f, "/f"); len(pending) != 1 || !pending[0].Pending || !pending[0].IsData() || pending[0].End != size {
		t.Errorf("what waits shows as %+v", pending)
	}
	must(t, f.Sync(t.Context()))
	must(t, f.Close())
	if n := len(extentsOf(t, image, "/f")); n != 1 {
		t.Errorf("%d extents, want 1", n)
	}
	judge(t, image)
}

// TestPendingContentsShow looks for data and holes among extents of the tree
// and contents that wait.
func TestPendingContentsShow(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Progs)
	ctx := t.Context()
	f, e := openWritable(t, oracle.Mkfs(t, 256<<20))
	must(t, e.Create(ctx, "/f", btrfs.Attr{Perm: 0o644}))
	write := func(off, n int) {
		_, err := e.WriteAt(ctx, "/f", oracle.Noise(1, n), int64(off))
		must(t, err)
	}
	write(0, 40<<10)
	must(t, e.Truncate(ctx, "/f", 400<<10))
	must(t, f.Sync(ctx))
	write(20<<10, 8<<10)   // over an extent
	write(38<<10, 10<<10)  // over its end and the hole behind
	write(100<<10, 4<<10)  // in a hole
	write(500<<10, 10<<10) // behind the end
	const kib = 1 << 10
	check := func(when string) {
		must(t, f.View(ctx, disk.TreeFS, func(ctx context.Context, s *btrfs.Subvolume) error {
			file, err := s.Open(ctx, "/f")
			must(t, err)
			if file.Size() != 510*kib {
				t.Errorf("%s: size %d", when, file.Size())
			}
			if n := file.Item().NBytes; n != 64*kib {
				t.Errorf("%s: it takes %d bytes, want %d", when, n, 64*kib)
			}
			for _, c := range []struct{ off, data, hole int64 }{
				{0, 0, 48}, {25, 25, 48}, {47, 47, 48}, {48, 100, 48}, {100, 100, 104}, {104, 500, 104}, {300, 500, 300}, {505, 505, 510},
			} {
				data, err := file.SeekData(ctx, c.off*kib)
				must(t, err)
				hole, err := file.SeekHole(ctx, c.off*kib)
				must(t, err)
				if hole > c.hole*kib { // the last sector counts as a whole
					hole = min(hole, file.Size())
				}
				if data != c.data*kib || hole != c.hole*kib {
					t.Errorf("%s: from %d KiB data is at %d, a hole at %d KiB; want %d and %d", when, c.off, data/kib, hole/kib, c.data, c.hole)
				}
			}
			return nil
		}))
	}
	check("before")
	must(t, f.Sync(ctx))
	check("after the commit")
}

// TestWrittenInPlace overwrites files that are not to be copied on write, and
// preallocated ones: they stay where they are until a snapshot shares them.
func TestWrittenInPlace(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Mounting...)
	ctx := t.Context()
	image := oracle.Mkfs(t, 256<<20)
	f, e := openWith(t, image, btrfs.Options{NoDataCow: true})
	const size = 1 << 20
	must(t, e.Create(ctx, "/nocow", btrfs.Attr{Perm: 0o644}))
	places := func(path string) (out []disk.Logical) {
		must(t, f.Sync(ctx))
		for _, x := range extentsNow(t, f, path) {
			at := x.Item.DiskBytenr
			if n := len(out); n == 0 || out[n-1] != at {
				out = append(out, at)
			}
		}
		return out
	}
	write := func(path string, off, n int) {
		t.Helper()
		_, err := e.WriteAt(ctx, path, oracle.Noise(uint64(off), n), int64(off))
		must(t, err)
	}
	write("/nocow", 0, size)
	before := places("/nocow")
	write("/nocow", 100, 5000)
	write("/nocow", 500000, 40000)
	if after := places("/nocow"); len(before) != 1 || !slices.Equal(before, after) {
		t.Errorf("a file that is written in place moved from %v to %v", before, after)
	}
	_, err := e.Snapshot(ctx, "/", "/snapshot", true)
	must(t, errors.Join(err, f.Sync(ctx))) // what is written in the snapshot's transaction may be shared
	want := make([]byte, size)
	_, err = e.ReadAt(ctx, "/snapshot/nocow", want, 0)
	must(t, err)
	write("/nocow", 0, 8192)
	shared := places("/nocow")
	if len(shared) < 2 || shared[0] == before[0] {
		t.Errorf("a write to a shared extent went to %v, the extent is at %v", shared, before)
	}
	write("/nocow", 0, 8192)
	if again := places("/nocow"); !slices.Equal(shared, again) {
		t.Errorf("the copy moved from %v to %v", shared, again)
	}
	got := make([]byte, size)
	_, err = e.ReadAt(ctx, "/snapshot/nocow", got, 0)
	must(t, err)
	if !slices.Equal(got, want) {
		t.Error("the snapshot changed")
	}
	must(t, e.Create(ctx, "/reserved", btrfs.Attr{Perm: 0o644}))
	must(t, e.Allocate(ctx, "/reserved", 0, 3*size, false))
	empty := places("/reserved")
	write("/reserved", 100000, 5000)
	write("/reserved", 0, 4096)
	write("/reserved", size, size)
	if full := places("/reserved"); !slices.Equal(empty, full) {
		t.Errorf("preallocated at %v, written to %v", empty, full)
	}
	must(t, f.Close())
	// Linux writes on in the same extents, and we find its checksums.
	m := mount(t, "", image)
	k, err := os.OpenFile(filepath.Join(m.Dir, "reserved"), os.O_RDWR, 0)
	must(t, err)
	_, err = k.WriteAt(prose(300000), 200000)
	must(t, errors.Join(err, k.Close()))
	m.Unmount()
	judge(t, image)
}

// TestPreallocatedWhenFull writes to preallocated space when there is no other.
func TestPreallocatedWhenFull(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Mounting...)
	ctx := t.Context()
	image := oracle.Mkfs(t, 256<<20)
	f, e := openWritable(t, image)
	must(t, e.Create(ctx, "/reserved", btrfs.Attr{Perm: 0o644}))
	must(t, e.Allocate(ctx, "/reserved", 0, 8<<20, false))
	must(t, e.Create(ctx, "/big", btrfs.Attr{Perm: 0o644}))
	data := oracle.Noise(1, 64<<10)
	off := int64(0)
	for {
		n, err := e.WriteAt(ctx, "/big", data, off)
		if off += int64(n); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
		if off > 1<<30 {
			t.Fatal("it never fills")
		}
	}
	parts := []struct{ off, n int }{{5000, 100}, {100 << 10, 64 << 10}, {1<<20 + 5, 5 << 20}}
	for _, p := range parts {
		_, err := e.WriteAt(ctx, "/reserved", oracle.Noise(2, p.n), int64(p.off))
		must(t, err)
	}
	must(t, f.Sync(ctx))
	_, err := e.WriteAt(ctx, "/reserved", data, 5000) // written now, so it needs copying
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a write without room: %v", err)
	}
	for _, p := range parts {
		got := make([]byte, p.n)
		_, err := e.ReadAt(ctx, "/reserved", got, int64(p.off))
		must(t, err)
		if !slices.Equal(got, oracle.Noise(2, p.n)) {
			t.Errorf("%d bytes at %d of the preallocated file are not what was written", p.n, p.off)
		}
	}
	must(t, f.Sync(ctx))
	must(t, f.Verify())
	must(t, f.Close())
	judge(t, image)
}

// TestIncompatibleCodecs looks whether the superblock says that an old kernel
// could not read the contents.
func TestIncompatibleCodecs(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Progs)
	ctx := t.Context()
	for name, flag := range map[string]uint64{"lzo": disk.IncompatCompressLZO, "zstd": disk.IncompatCompressZstd} {
		image := oracle.Mkfs(t, 256<<20)
		f, e := openWith(t, image, btrfs.Options{Compress: name})
		must(t, e.Create(ctx, "/f", btrfs.Attr{Perm: 0o644}))
		if f.Super().IncompatFlags&flag != 0 {
			t.Fatalf("%s: the superblock has the flag already", name)
		}
		_, err := e.WriteAt(ctx, "/f", prose(200000), 0)
		must(t, err)
		must(t, f.Sync(ctx))
		if f.Super().IncompatFlags&flag == 0 {
			t.Errorf("%s: the superblock lacks the flag", name)
		}
		must(t, f.Close())
	}
}

// TestTruncateForgetsWhatWaits cuts off contents that never need a place.
func TestTruncateForgetsWhatWaits(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Progs)
	ctx := t.Context()
	f, e := openWritable(t, oracle.Mkfs(t, 256<<20))
	must(t, e.Create(ctx, "/f", btrfs.Attr{Perm: 0o644}))
	_, err := e.WriteAt(ctx, "/f", oracle.Noise(1, 3<<20), 0)
	must(t, err)
	must(t, e.Truncate(ctx, "/f", 0))
	must(t, f.Sync(ctx))
	if x := extentsNow(t, f, "/f"); len(x) != 0 {
		t.Errorf("extents %+v of an empty file", x)
	}
	for _, g := range f.SpaceGroups() {
		if g.Type&disk.BlockGroupData != 0 && g.Used > 0 {
			t.Errorf("%d bytes of data in use", g.Used)
		}
	}
}

// TestManyExtentsAreReplaced writes over a file of many short extents, at once
// and bit by bit.
func TestManyExtentsAreReplaced(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Progs)
	ctx := t.Context()
	image := oracle.Mkfs(t, 256<<20)
	f, e := openWritable(t, image)
	must(t, e.Create(ctx, "/f", btrfs.Attr{Perm: 0o644}))
	const size, sector = 12 << 20, 4096
	want := oracle.Noise(9, size)
	write := func(off, n int) {
		t.Helper()
		_, err := e.WriteAt(ctx, "/f", want[off:off+n], int64(off))
		must(t, err)
	}
	scatter := func() {
		for _, first := range []int{0, sector} { // every other sector, then those between
			for off := first; off < size; off += 2 * sector {
				write(off, sector)
			}
			must(t, f.Sync(ctx))
		}
		if n := len(extentsNow(t, f, "/f")); n < 2500 {
			t.Fatalf("only %d extents", n)
		}
	}
	scatter()
	write(100, size-200) // from where it is
	must(t, f.Sync(ctx))
	if n := len(extentsNow(t, f, "/f")); n > 8 {
		t.Errorf("%d extents after one long write", n)
	}
	scatter()
	for off := 0; off < size; off += 1 << 20 {
		write(off, 1<<20)
	}
	must(t, f.Sync(ctx))
	got := make([]byte, size)
	_, err := e.ReadAt(ctx, "/f", got, 0)
	must(t, err)
	if !slices.Equal(got, want) {
		t.Error("the file has other contents")
	}
	must(t, f.Verify())
	must(t, f.Close())
	if n := len(extentsOf(t, image, "/f")); n > 8 {
		t.Errorf("%d extents after many writes in turn", n)
	}
	judge(t, image)
}
