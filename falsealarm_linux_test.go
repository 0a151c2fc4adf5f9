package btrfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

// falseAlarms says which modes of btrfs check, 6.2 as well as 6.19, find errors in
// the subvolumes of a filesystem where there are none. They name nothing then.
//
// The original mode does so where subvolumes share an inode without names, as
// a snapshot of a subvolume with a file that is open and removed does until
// somebody cleans it. The low-memory mode does so where an inode has extended
// references: it compares their types, and takes the mode for one.
// TestFalseAlarms shows both with what Linux alone wrote.
func falseAlarms(t *testing.T, image string, o btrfs.Options) (original, lowmem bool) {
	t.Helper()
	f, err := btrfs.Open(t.Context(), image, o)
	must(t, err)
	defer f.Close()
	infos, err := f.Subvolumes(t.Context())
	must(t, err)
	orphans := make(map[uint64]int)
	for _, info := range infos {
		tree, _, err := f.Store().Tree(t.Context(), info.ID)
		must(t, err)
		it := tree.Seek(t.Context(), disk.Key{})
		for ; it.Valid(); it.Next() {
			switch k := it.Key(); k.Type {
			case disk.KeyInodeExtref:
				lowmem = true
			case disk.KeyOrphanItem:
				orphans[k.Offset]++
				original = original || orphans[k.Offset] > 1
			}
		}
		must(t, it.Err())
	}
	return original, lowmem
}

// unnamed says whether btrfs check says that there are errors, and not which.
func unnamed(said []string) bool {
	return !slices.ContainsFunc(said, func(line string) bool { return !unnamedError.MatchString(line) })
}

var unnamedError = regexp.MustCompile(`^(original|lowmem): (ERROR: errors found in fs roots|found \d+ bytes used, error\(s\) found|exit status 1)$`)

// notReconstructed leaves out what btrfs check, 6.2 and 6.19, says of checksums in
// RAID5 and RAID6: of the copies that parity stands for it reads up to the end of a
// stripe, and compares what lies behind it, which it has not read. Scrub, and reading
// without devices, judge parity.
func notReconstructed(said []string) []string {
	rest := slices.DeleteFunc(slices.Clone(said), mirrorSum.MatchString)
	if len(rest) == len(said) {
		return said
	}
	return slices.DeleteFunc(rest, mirrorError.MatchString)
}

var (
	mirrorSum   = regexp.MustCompile(`^(original|lowmem): mirror [2-9] bytenr \d+ csum 0x\w+ expected csum 0x\w+$`)
	mirrorError = regexp.MustCompile(`^(original|lowmem): (ERROR: errors found in csum tree|found \d+ bytes used, error\(s\) found|exit status 1)$`)
)

// TestFalseAlarms makes what btrfs check gives false alarms of, with the kernel
// alone: it says nothing else of it, and our check and the other mode nothing.
func TestFalseAlarms(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	judge := func(name, image string, original, lowmem bool) {
		t.Helper()
		if a, b := falseAlarms(t, image, btrfs.Options{}); a != original || b != lowmem {
			t.Errorf("%s: false alarms are expected of the original mode: %v, low-memory: %v", name, a, b)
		}
		d, err := blockdev.OpenFile(image, blockdev.FileOptions{ReadOnly: true})
		must(t, err)
		defer d.Close()
		if bad := checkErrors(t, []blockdev.Device{d}, check.Options{VerifyData: true}); bad != nil {
			t.Errorf("%s: our check: %v", name, bad)
		}
		for _, c := range []struct {
			oracle.CheckOptions
			known bool
		}{{oracle.CheckOptions{NoLowmem: true}, original}, {oracle.CheckOptions{NoRegular: true}, lowmem}} {
			said := oracle.Complaints(t, c.CheckOptions, image)
			t.Logf("%s: %q", name, said)
			if len(said) > 0 && !(c.known && unnamed(said)) {
				t.Errorf("%s: btrfs check: %q", name, said)
			}
		}
	}

	image := oracle.Mkfs(t, 256<<20)
	m := oracle.Mount(t, "commit=300", image)
	var open *os.File
	for i := range 600 { // more than a leaf
		f, err := os.Create(filepath.Join(m.Dir, fmt.Sprint(i)))
		must(t, err)
		if i == 300 {
			open = f
		} else {
			must(t, f.Close())
		}
	}
	m.Sync()
	must(t, os.Remove(open.Name()))
	m.Sync()
	for _, name := range []string{"/s1", "/s2"} {
		oracle.Run(t, "btrfs", "subvolume", "snapshot", "-r", m.Dir, m.Dir+name)
	}
	judge("a shared inode without names", oracle.CopyUnclean(t, image), true, false)
	must(t, open.Close())
	m.Unmount()

	image = oracle.Mkfs(t, 256<<20)
	m = oracle.Mount(t, "", image)
	must(t, os.Mkdir(m.Dir+"/d", 0o755))
	must(t, os.WriteFile(m.Dir+"/f", []byte("hi"), 0o644))
	for i := range 100 {
		must(t, os.Link(m.Dir+"/f", fmt.Sprintf("%s/d/%d%s", m.Dir, i, strings.Repeat("x", 200))))
	}
	m.Unmount()
	judge("extended references", image, false, true)
}
