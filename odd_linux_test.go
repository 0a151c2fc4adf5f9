package btrfs_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/oracle"
	"gobtrfs/internal/volume"
	"gobtrfs/mkfs"
)

var (
	oddSeed   = flag.Uint64("odd.seed", 3, "seed of the edits on old and odd filesystems, and which of them")
	oddAll    = flag.Bool("odd.all", false, "edit all old and odd filesystems; default: one in three")
	oddRounds = flag.Int("odd.rounds", 1, "rounds of edits on each old and odd filesystem")
)

// oddities are filesystems that mkfs does not make by itself.
var oddities = []struct {
	name string
	make func(t *testing.T) (*variant, []string)
}{
	{"sprout", func(t *testing.T) (*variant, []string) { return &variant{flags: true, seeds: true}, sprout(t) }},
	{"metadata uuid", func(t *testing.T) (*variant, []string) {
		image := populated(t)
		oracle.Run(t, "btrfstune", "-m", image)
		return &variant{flags: true}, []string{image}
	}},
	{"given metadata uuid", func(t *testing.T) (*variant, []string) {
		image := populated(t, "-d", "dup")
		oracle.Run(t, "btrfstune", "-M", fmt.Sprintf("11111111-2222-3333-4444-%012x", rand.Uint32()), image)
		return &variant{flags: true}, []string{image}
	}},
	{"converted from ext4", func(t *testing.T) (*variant, []string) {
		// Its chunks end anywhere; Linux puts the next one there, and tree blocks at
		// its start.
		return &variant{flags: true, allow: "tree block .*(is )?not nodesize aligned|chunk.* is not fully aligned"}, []string{converted(t)}
	}},
	{"old", func(t *testing.T) (*variant, []string) {
		v := &variant{flags: true, holes: true, mount: "space_cache=v1"}
		return v, []string{populated(t, "-n", "4096", "-O", "^skinny-metadata,^extref,^no-holes", "-R", "^free-space-tree")}
	}},
	{"old and grown up", func(t *testing.T) (*variant, []string) {
		// What is there stays as it was made, what comes is of the new kinds.
		image := populated(t, "-n", "4096", "-O", "^skinny-metadata,^extref,^no-holes", "-R", "^free-space-tree")
		oracle.Run(t, "btrfstune", "-r", "-x", image)
		return &variant{flags: true, holes: true}, []string{image}
	}},
	{"mixed", func(t *testing.T) (*variant, []string) {
		return &variant{flags: true}, []string{populated(t, "-M", "-m", "dup", "-d", "dup")}
	}},
	{"invalid free-space tree", func(t *testing.T) (*variant, []string) {
		return &variant{flags: true, allow: "free space tree is invalid"}, []string{invalidFreeSpaceTree(t)}
	}},
}

// populated is a filesystem with some files that Linux wrote.
func populated(t *testing.T, args ...string) string {
	t.Helper()
	image := oracle.Mkfs(t, 512<<20, args...)
	m := oracle.Mount(t, "", image)
	m.AllowLog("space cache v1 is being deprecated", "filesystems without a free-space tree are still around")
	oracle.Run(t, "cp", "-r", "internal/txn", m.Dir+"/old")
	oracle.Run(t, "btrfs", "subvolume", "snapshot", m.Dir, m.Dir+"/oldsnap")
	m.Unmount()
	return image
}

// sprout is a filesystem on a seed, its own device first.
func sprout(t *testing.T) []string {
	t.Helper()
	seed, own := populated(t), oracle.Sparse(t, 1, 512<<20)[0]
	oracle.Run(t, "btrfstune", "-S", "1", seed)
	if _, err := btrfs.Open(t.Context(), seed, btrfs.Options{Writable: true}); !errors.Is(err, btrfs.ErrReadOnly) || !strings.Contains(err.Error(), "seed") {
		t.Errorf("a seed opens for writing: %v", err)
	}
	m := oracle.Mount(t, "ro", seed)
	m.AllowLog(".", "the filesystem changes its identity")
	oracle.Attached(t, []string{own}, func(loops []string) {
		oracle.Run(t, "btrfs", "device", "add", "-f", loops[0], m.Dir)
		oracle.Run(t, "mount", "-o", "remount,rw", m.Dir)
		must(t, os.WriteFile(m.Dir+"/of the sprout", []byte("new"), 0o600))
		m.Unmount()
	})
	return []string{own, seed}
}

// needConvert skips where filesystems cannot be converted, and fails in CI.
func needConvert(t *testing.T) {
	t.Helper()
	for _, p := range []string{"mkfs.ext4", "btrfs-convert"} {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("CI must have %s: %v", p, err)
			}
			t.Skipf("needs %s: %v", p, err)
		}
	}
}

// converted is what btrfs-convert makes of an ext4 filesystem.
func converted(t *testing.T) string {
	t.Helper()
	needConvert(t)
	image := oracle.Sparse(t, 1, 256<<20)[0]
	oracle.Run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-d", "internal/txn", image)
	oracle.Run(t, "btrfs-convert", image)
	return image
}

// editSuper changes every copy of a superblock.
func editSuper(t *testing.T, image string, edit func(sb *disk.Superblock)) {
	t.Helper()
	d, err := blockdev.OpenFile(image, blockdev.FileOptions{})
	must(t, err)
	defer d.Close()
	for _, c := range volume.ReadSuperCopies(d) {
		must(t, c.Err)
		edit(c.Super)
		b, err := c.Super.Encode()
		must(t, err)
		sum := csum.Sum(c.Super.CsumType, b[disk.CsumSize:])
		copy(b, sum[:])
		_, err = d.WriteAt(b, int64(c.Offset))
		must(t, err)
	}
}

// invalidFreeSpaceTree is a filesystem that was written by somebody who did not
// know of its free-space tree, and said so.
func invalidFreeSpaceTree(t *testing.T) string {
	t.Helper()
	const both = disk.CompatROFreeSpaceTree | disk.CompatROFreeSpaceTreeValid
	v := &variant{devices: 1, own: mkfs.Options{Features: []string{"^block-group-tree"}}}
	image := v.make(t, 512<<20)[0]
	f, e := openWith(t, image, btrfs.Options{})
	fillAndRemove(t, f, e, 10)
	must(t, f.Close())
	editSuper(t, image, func(sb *disk.Superblock) { sb.CompatROFlags &^= both })
	f, e = openWith(t, image, btrfs.Options{})
	for i := range 300 { // many holes in one place
		must(t, e.Create(t.Context(), fmt.Sprint("/small", i), btrfs.Attr{Perm: 0o600}))
		_, err := e.WriteAt(t.Context(), fmt.Sprint("/small", i), oracle.Noise(uint64(i), 8192), 0)
		must(t, err)
	}
	must(t, f.Sync(t.Context()))
	for i := 0; i < 300; i += 2 {
		must(t, e.Remove(t.Context(), fmt.Sprint("/small", i)))
	}
	must(t, f.Sync(t.Context()))
	must(t, f.Close())
	editSuper(t, image, func(sb *disk.Superblock) { sb.CompatROFlags |= disk.CompatROFreeSpaceTree })
	return image
}

// TestOddFilesystemsBesideKernel is TestEditsBesideKernel on filesystems with a
// history.
func TestOddFilesystemsBesideKernel(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for n, odd := range oddities {
		if !*oddAll && uint64(n)%3 != *oddSeed%3 {
			continue
		}
		t.Run(odd.name, func(t *testing.T) {
			t.Logf("-odd.seed=%d", *oddSeed)
			v, ours := odd.make(t)
			var theirs []string
			if odd.name == "converted from ext4" {
				theirs = append(theirs, oracle.Copy(t, ours[0])) // it shows the ext4 image, of which no two are the same
			} else {
				_, theirs = odd.make(t)
			}
			v.devices = len(ours)
			gen := &opMaker{rnd: rand.New(rand.NewPCG(*oddSeed, uint64(n))), holes: v.holes}
			for round := range *oddRounds {
				editRound(t, v, gen, ours, theirs, round)
				if t.Failed() {
					t.Fatalf("round %d", round)
				}
				if odd.name == "converted from ext4" && round == 0 {
					rollback(t, oracle.Copy(t, ours[0]))
				}
				ours, theirs = theirs, ours
			}
		})
	}
}

// rollback makes an ext4 filesystem again of what was converted: nothing of it
// was overwritten.
func rollback(t *testing.T, image string) {
	t.Helper()
	f, err := btrfs.Open(t.Context(), image, btrfs.Options{})
	must(t, err)
	top, err := f.TopLevel(t.Context())
	must(t, err)
	_, err = top.Open(t.Context(), "/ext2_saved/image")
	must(t, f.Close())
	if err != nil {
		t.Logf("the edits removed the image: %v", err)
		return
	}
	oracle.Run(t, "btrfs-convert", "-r", image)
	oracle.Run(t, "e2fsck", "-f", "-n", image)
	dir := filepath.Join(t.TempDir(), "all")
	oracle.Run(t, "debugfs", "-R", "dump /commit.go "+dir, image)
	got, err := os.ReadFile(dir)
	must(t, err)
	want, err := os.ReadFile("internal/txn/commit.go")
	must(t, err)
	if string(got) != string(want) {
		t.Error("a file of the ext4 filesystem has changed")
	}
}

// A free-space tree that is not valid is made anew when a filesystem is opened
// for writing, and not otherwise.
func TestInvalidFreeSpaceTree(t *testing.T) {
	oracle.Need(t, oracle.Root, oracle.Progs)
	image := invalidFreeSpaceTree(t)
	valid := func(o btrfs.Options) bool {
		t.Helper()
		f, err := btrfs.Open(t.Context(), image, o)
		must(t, err)
		defer f.Close()
		return f.Super().CompatROFlags&disk.CompatROFreeSpaceTreeValid != 0
	}
	if valid(btrfs.Options{}) {
		t.Error("opened for reading, it is valid")
	}
	if !valid(btrfs.Options{Writable: true}) || !valid(btrfs.Options{}) {
		t.Error("opened for writing, it is not valid")
	}
	oracle.CheckWith(t, oracle.CheckOptions{Data: true}, image)
}

// A power cut while the tree is made anew costs nothing: it is not valid then, and
// made anew once more.
func TestCrashWhileRebuildingFreeSpace(t *testing.T) {
	t.Logf("-crash.seed=%d", *crashSeed)
	before := load(t, invalidFreeSpaceTree(t))
	want, err := listing(before)
	must(t, err)
	rec := &recorder{Device: before.Clone(), log: &eventLog{}}
	f, err := btrfs.OpenDevices(t.Context(), []blockdev.Device{rec}, btrfs.Options{Writable: true})
	must(t, err)
	must(t, f.Close())
	rec.log.commits = []committed{{0, want}}
	c := newCrash(t, &crashWorkload{variant: on(1)}, rand.New(rand.NewPCG(*crashSeed, 10)), disks{before}, rec.log)
	c.writes, c.exports = 1, 0 // it is made anew from each state; btrfs check believes trees that are not valid
	c.run(max(10, *crashStates/3))
	t.Logf("%d events, %d states", len(rec.log.events), c.states)
}

// References of version 0 are refused by name, and only by writers.
func TestExtentReferencesOfVersion0(t *testing.T) {
	v := &variant{devices: 1}
	image := v.make(t, 256<<20)[0]
	editSuper(t, image, func(sb *disk.Superblock) { sb.IncompatFlags &^= disk.IncompatMixedBackref })
	f, err := btrfs.Open(t.Context(), image, btrfs.Options{})
	must(t, err)
	must(t, f.Close())
	_, err = btrfs.Open(t.Context(), image, btrfs.Options{Writable: true})
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "extent references of version 0") {
		t.Errorf("opened for writing: %v", err)
	}
}
