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
	"gobtrfs/internal/oracle"
)

var (
	editSeed   = flag.Uint64("edit.seed", 1, "seed of the edits made beside a kernel mount")
	editSeeds  = flag.Uint64("edit.seeds", 2, "seeds, one after the other")
	editRounds = flag.Int("edit.rounds", 2, "rounds of edits made beside a kernel mount")
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

// sameError says whether both sides found the same error. Where a subvolume is
// read-only or not there, there may be several.
func sameError(o *fileOp, want, got error) bool {
	a, b := errno(want), errno(got)
	return a == b || a != 0 && b != 0 && (o.inSubvol() || a == syscall.EROFS || b == syscall.EROFS)
}

// TestEditsBesideKernel does the same random operations on an image through a
// mount and on another through an Editor. Errors must be the same; after each
// round both hold the same files, and ours passes every judge, and is whole
// without as many devices as its profiles tolerate. Then they swap: the kernel
// goes on with our image and we with its.
func TestEditsBesideKernel(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	if args := strings.Fields(*editMkfs); len(args) > 0 {
		editBeside(t, *editSeed, *editRounds, mkfsVariant(args))
		return
	}
	for seed := *editSeed; seed < *editSeed+*editSeeds; seed++ {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			editBeside(t, seed, *editRounds, newVariant(rand.New(rand.NewPCG(seed, 2))))
		})
		if !ok {
			break
		}
	}
}

func editBeside(t *testing.T, seed uint64, rounds int, v *variant) {
	t.Helper()
	t.Logf("-edit.seed=%d: %v", seed, v)
	ours, theirs := v.make(t, 512<<20), v.make(t, 512<<20)
	gen := &opMaker{rnd: rand.New(rand.NewPCG(seed, 1)), holes: v.holes, noFlags: !v.flags}
	for round := range rounds {
		editRound(t, v, gen, ours, theirs, round)
		withoutDevices(t, v, ours)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		ours, theirs = theirs, ours
	}
	t.Logf("%d operations of %d kinds in %d rounds, %d succeeded", *editOps*rounds, len(gen.kinds), rounds, gen.done)
}

func editRound(t *testing.T, v *variant, gen *opMaker, ours, theirs []string, round int) {
	t.Helper()
	editBoth(t, v, gen, ours, theirs, round)
	v.judge(t, ours)
}

// editBoth makes a round of edits on both sides, which are then the same.
func editBoth(t *testing.T, v *variant, gen *opMaker, ours, theirs []string, round int) {
	t.Helper()
	ctx := context.Background()
	m := v.mounted(t, theirs, strings.Fields(v.mount)...)
	f, e := openWith(t, ours[0], v.options(ours, true))
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
		if !sameError(o, want, got) && !k.throughStub(o) {
			t.Fatalf("operation %d: %v: kernel %v, we %v", i, o, want, got)
		}
		gen.learn(o, got)
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
	oracle.RequireSame(t, want, imageManifest(t, ours[0], v.options(ours, false)), v.fields())
	if a, b := volumes(t, v, theirs), volumes(t, v, ours); !slices.Equal(a, b) {
		t.Errorf("subvolumes %q, want %q", b, a)
	}
}

// volumes lists the paths of the subvolumes, which of them are read-only, and
// which is the default.
func volumes(t *testing.T, v *variant, images []string) []string {
	t.Helper()
	f, err := btrfs.Open(t.Context(), images[0], v.options(images, false))
	must(t, err)
	defer f.Close()
	infos, err := f.Subvolumes(t.Context())
	must(t, err)
	def, err := f.Default(t.Context())
	must(t, err)
	var out []string
	for _, i := range infos {
		out = append(out, fmt.Sprint(i.Path, " read-only: ", i.ReadOnly(), " default: ", i.ID == def.ID()))
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
