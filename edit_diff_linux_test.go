package btrfs_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

var (
	editSeed   = flag.Uint64("edit.seed", 1, "seed of the edits made beside a kernel mount")
	editRounds = flag.Int("edit.rounds", 4, "rounds of edits made beside a kernel mount")
	editOps    = flag.Int("edit.ops", 250, "edits in a round")
	editEach   = flag.Bool("edit.each", false, "compare the file after every edit, to find the one that went wrong")
	editMkfs   = flag.String("edit.mkfs", "", "arguments of mkfs.btrfs for the edits; default: varies with the seed")
)

// errno is the error number in an error, 0 for none.
func errno(err error) syscall.Errno {
	var n syscall.Errno
	if err != nil && !errors.As(err, &n) {
		n = syscall.EIO
	}
	return n
}

// diffFields is what must be equal on both sides. Times and inode numbers are
// not: each side has its own clock, and Linux does not use numbers again that
// it gave out since the mount.
const diffFields = manifest.All &^ (manifest.Ino | manifest.Mtime | manifest.Ctime | manifest.Btime |
	manifest.Subvol)

// TestEditsBesideKernel does the same random operations on an image through a
// mount and on another through an Editor. Errors must be the same; after each
// round both hold the same files, and ours passes every judge. Then they swap:
// the kernel goes on with our image and we with its.
func TestEditsBesideKernel(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	t.Logf("-edit.seed=%d", *editSeed)
	args := strings.Fields(*editMkfs)
	if len(args) == 0 {
		args = [][]string{
			{}, {"-n", "4096"}, {"-O", "^no-holes"}, {"-n", "8192", "-m", "dup"}, {"-R", "^free-space-tree"}, {"-M"},
			{"--csum", "xxhash", "-m", "single"}, {"-n", "65536"}, {"-O", "^skinny-metadata,^extref"},
		}[*editSeed%9]
	}
	t.Log("mkfs.btrfs ", args)
	ours, theirs := oracle.Mkfs(t, 512<<20, args...), oracle.Mkfs(t, 512<<20, args...)
	gen := opMaker{rnd: rand.New(rand.NewPCG(*editSeed, 1)), holes: slices.Contains(args, "^no-holes")}
	for round := range *editRounds {
		editRound(t, gen, ours, theirs, round)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		ours, theirs = theirs, ours
	}
}

// writeWays are mount options and what they are in Options. Compression without
// force would mark other files as not worth it than Linux does.
var writeWays = []struct {
	mount   string
	options btrfs.Options
}{
	{"", btrfs.Options{}},
	{"compress-force=zstd:1", btrfs.Options{Compress: "zstd:1", CompressForce: true}},
	{"nodatacow", btrfs.Options{NoDataCow: true}},
	{"compress-force=lzo", btrfs.Options{Compress: "lzo", CompressForce: true, DirtyBytes: 1 << 20}},
	{"nodatasum", btrfs.Options{NoDataSum: true}},
}

func editRound(t *testing.T, gen opMaker, ours, theirs string, round int) {
	t.Helper()
	ctx := context.Background()
	// Both write contents in the same way.
	way := writeWays[(uint64(round)+*editSeed)%uint64(len(writeWays))]
	m := mount(t, way.mount, theirs)
	f, e := openWith(t, ours, way.options)
	k, w := &kernelSide{dir: m.Dir}, &ourSide{Editor: e, w: f.Writer()}
	t.Cleanup(k.close)
	var log []string
	t.Cleanup(func() {
		if t.Failed() {
			must(t, os.WriteFile(filepath.Join(t.ArtifactDir(), fmt.Sprint("operations-", round)), []byte(strings.Join(log, "\n")), 0o666))
		}
	})
	for i := range *editOps {
		o := gen.next()
		want, got := o.kind.kernel(k, o), o.kind.ours(ctx, w, o)
		log = append(log, fmt.Sprintf("%v: %v", o, errno(got)))
		if errno(want) != errno(got) && !(want != nil && got != nil && o.inSubvol()) {
			t.Fatalf("operation %d: %v: kernel %v, we %v", i, o, want, got)
		}
		if *editEach && got == nil {
			sameContents(t, f, m.Dir, o)
		}
		if gen.rnd.IntN(40) == 0 {
			must(t, f.Sync(ctx))
		}
	}
	if gen.rnd.IntN(2) == 0 {
		must(t, w.release(ctx))
	} // else what is open without a name is for the next to clean up
	k.close()
	must(t, f.Sync(ctx))
	if err := f.Verify(); err != nil {
		t.Fatal(err)
	}
	must(t, f.Close())
	want := oracle.HostManifest(t, m.Dir, oracle.HostOptions{})
	m.Unmount()
	oracle.RequireSame(t, want, imageManifest(t, ours, btrfs.Options{}), diffFields)
	if a, b := readOnlyVolumes(t, theirs), readOnlyVolumes(t, ours); !slices.Equal(a, b) {
		t.Errorf("read-only subvolumes %q, want %q", b, a)
	}
	judgeWith(t, oracle.CheckOptions{NoLowmem: gen.holes}, ours)
}

// readOnlyVolumes lists the paths of the subvolumes that are read-only.
func readOnlyVolumes(t *testing.T, image string) []string {
	t.Helper()
	f, err := btrfs.Open(t.Context(), image, btrfs.Options{})
	must(t, err)
	defer f.Close()
	infos, err := f.Subvolumes(t.Context())
	must(t, err)
	var out []string
	for _, i := range infos {
		if i.ReadOnly() {
			out = append(out, i.Path)
		}
	}
	slices.Sort(out)
	return out
}

// sameContents compares the file that an operation was about on both sides.
func sameContents(t *testing.T, f *btrfs.FS, dir string, o *fileOp) {
	t.Helper()
	ctx := context.Background()
	fi, err := os.Lstat(dir + o.path)
	if err != nil || !fi.Mode().IsRegular() {
		return
	}
	want, err := os.ReadFile(dir + o.path)
	must(t, err)
	must(t, f.Sync(ctx))
	top, err := f.TopLevel(ctx)
	must(t, err)
	file, err := top.Open(ctx, o.path)
	must(t, err)
	got, err := file.ReadAll(ctx)
	must(t, err)
	if !bytes.Equal(want, got) {
		at := 0
		for at < min(len(want), len(got)) && want[at] == got[at] {
			at++
		}
		t.Fatalf("%v: %d bytes, want %d, first difference at %d", o, len(got), len(want), at)
	}
}
