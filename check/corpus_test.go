package check_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gobtrfs/check"
	"gobtrfs/internal/oracle"
)

// corpusDir is where the damaged filesystems of btrfs-progs' public test-suite
// are: GOBTRFS_PROGS_IMAGES, or beside the checkout.
func corpusDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("GOBTRFS_PROGS_IMAGES")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "images", "progs")
	}
	if _, err := os.Stat(dir); err != nil {
		lack(t, "the images of btrfs-progs' tests are not there: "+err.Error())
	}
	return dir
}

// lack skips the test, or fails it in CI.
func lack(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// corpus says for each image, by a part of its path, what must be found: one of
// the codes. No codes: nothing is wrong.
var corpus = []struct {
	path  string
	codes []check.Code
}{
	{"fsck/002-bad-transid", []check.Code{check.CodeNodeGeneration}},
	{"fsck/004-no-dir-index", []check.Code{check.CodeDirEntry}},
	{"fsck/006-bad-root-items", []check.Code{check.CodeTreeRoot}},
	{"fsck/008-bad-dir-index-name", []check.Code{check.CodeDirEntry}},
	{"fsck/010-no-rootdir-inode-item", []check.Code{check.CodeInodeMissing}},
	{"fsck/012-leaf-corruption", nil},
	{"fsck/014-no-extent-info", []check.Code{check.CodeExtentMissing}},
	{"fsck/016-wrong-inode-nbytes", []check.Code{check.CodeInodeNbytes}},
	{"fsck/018-leaf-crossing-stripes", []check.Code{check.CodeNodePlace}},
	{"fsck/020-extent-ref-cases", nil},
	{"fsck/022-qgroup-rescan-halfway", nil},
	{"fsck/026-bad-dir-item-name", []check.Code{check.CodeItem}},
	{"fsck/028-unaligned-super-dev-sizes", []check.Code{check.CodeDeviceItem}},
	{"fsck/030-reflinked-prealloc-extents", nil},
	{"fsck/032-corrupted-qgroup", []check.Code{check.CodeQgroup}},
	{"fsck/034-bad-inode-flags", []check.Code{check.CodeInodeItem}},
	{"fsck/036-bad-dev-extents", []check.Code{check.CodeChunk}},
	{"fsck/036-rescan-not-kicked-in", nil},
	{"fsck/038-missing-one-file-extent", []check.Code{check.CodeFileGap}},
	{"fsck/040-compressed-nodatasum", []check.Code{check.CodeCsumMissing}},
	{"fsck/042-half-dropped-inode", nil},
	{"fsck/044-invalid-extent-item-generation", []check.Code{check.CodeItem}},
	{"fsck/050-invalid-block-group-used", []check.Code{check.CodeBlockGroupUsed}},
	{"fsck/054-orphan-directory", nil},
	{"fsck/058-bad-free-space-tree-entry/corrupt-free-space-tree.", []check.Code{check.CodeItem}},
	{"fsck/058-bad-free-space-tree-entry/corrupt-free-space-tree2", []check.Code{check.CodeFreeSpaceStale}},
	{"fsck/064-deprecated-inode-cache", []check.Code{check.CodeInodeCache}},
	{"fsck/066-missing-root-orphan-item", []check.Code{check.CodeRootOrphan}},
	{"fsck/068-orphan-dev-extent", []check.Code{check.CodeDevExtent}},
	{"fsck/070-missing-inode-ref", []check.Code{check.CodeInodeRef}},
	{"fuzz/bad-superblock-2", []check.Code{check.CodeOpen}},
	{"fuzz/bko-104131-fsck-oob-read", []check.Code{check.CodeOpen}},
	{"fuzz/bko-153641-unaligned-tree-block-bytenr", []check.Code{check.CodeNodeUnreadable}},
	{"fuzz/bko-154961-heap-overflow-chunk-items", []check.Code{check.CodeItem}},
	{"fuzz/bko-155181-bad-backref", []check.Code{check.CodeItem}},
	{"fuzz/bko-155201-wrong-chunk-item-in-root-tree", []check.Code{check.CodeItem}},
	{"fuzz/bko-155621-bad-block-group-offset", []check.Code{check.CodeBlockGroup}},
	{"fuzz/bko-156731", []check.Code{check.CodeTreeRoot, check.CodeItem}},
	{"fuzz/bko-156811-bad-parent-ref-qgroup-verify", []check.Code{check.CodeTreeRoot, check.CodeTreeMissing}},
	{"fuzz/bko-161821", []check.Code{check.CodeNodeUnreadable}},
	{"fuzz/bko-167551", []check.Code{check.CodeNodeUnreadable}},
	{"fuzz/bko-167921", []check.Code{check.CodeNodeUnreadable}},
	{"fuzz/bko-169301-1-blocksize-zero", []check.Code{check.CodeTreeRoot, check.CodeTreeMissing}},
	{"fuzz/bko-169311-blocksize-zero-qgroup-verify", []check.Code{check.CodeTreeRoot, check.CodeTreeMissing}},
	{"fuzz/bko-172861", []check.Code{check.CodeTreeRoot, check.CodeTreeMissing}},
	{"fuzz/bko-199839", []check.Code{check.CodeBlockGroup}},
	{"fuzz/bko-200409", []check.Code{check.CodeOpen}},
	{"fuzz/bko-97021-invalid-chunk-sectorsize", []check.Code{check.CodeOpen, check.CodeChunk}},
	{"fuzz/bko-97041-invalid-sub-stripes-zero-FPE", []check.Code{check.CodeOpen, check.CodeChunk}},
	{"fuzz/bko-97191-btrfs-image", []check.Code{check.CodeNodeUnreadable}},
	{"fuzz/superblock-stripsize-bogus", []check.Code{check.CodeSuper, check.CodeSuperCopy}},
	{"fuzz/sys-array-num-stripes-0", []check.Code{check.CodeOpen, check.CodeChunk}},
	{"fuzz/sys-chunk-type-bogus", []check.Code{check.CodeOpen, check.CodeChunk}},
	{"misc/025-zstd-compression", nil},
}

// TestPublicDamagedImages checks that the real cause is named for each of the
// images, that those without damage are clean, and that none takes long.
func TestPublicDamagedImages(t *testing.T) {
	dir := corpusDir(t)
	for _, tool := range []string{"xz", "btrfs-image"} {
		if _, err := exec.LookPath(tool); err != nil {
			lack(t, err.Error())
		}
	}
	used := make([]bool, len(corpus))
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "README.md" || strings.Contains(path, "034-metadata-uuid") {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(corpus, func(c struct {
			path  string
			codes []check.Code
		}) bool {
			return strings.HasPrefix(filepath.ToSlash(rel), c.path)
		})
		if i < 0 {
			t.Errorf("%s: nobody said what must be found", rel)
			return nil
		}
		used[i] = true
		t.Run(rel, func(t *testing.T) {
			start := time.Now()
			img := unpack(t, path)
			r := checkImages(t, check.Options{}, img)
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
			judgeCorpus(t, r, corpus[i].codes)
			sameInTinyMemory(t, r, img)
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range used {
		if !used[i] {
			t.Errorf("%s is not there", corpus[i].path)
		}
	}
}

func judgeCorpus(t *testing.T, r *check.Report, codes []check.Code) {
	t.Helper()
	if len(codes) > 0 {
		for _, c := range codes {
			if r.Has(c) {
				return
			}
		}
		t.Errorf("want one of %v, found %v", codes, r.Counts)
		return
	}
	for i := range r.Findings {
		// A metadata dump keeps only the first copy of the superblock.
		if f := &r.Findings[i]; f.Severity > check.Note && f.Code != check.CodeSuperCopy && f.Code != check.CodeFreeSpaceStale {
			t.Error(f)
		}
	}
}

// unpack makes a raw image of one file of the corpus. The tools keep holes: some
// images are far larger than memory.
func unpack(t *testing.T, path string) string {
	t.Helper()
	dir := oracle.Dir(t)
	if strings.HasSuffix(path, ".tar.xz") {
		oracle.Run(t, "tar", "-C", dir, "-xJSf", path)
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s holds %v, %v", path, files, err)
		}
		return files[0]
	}
	src := filepath.Join(dir, filepath.Base(path))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(src, b, 0o666); err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(src, ".xz") {
		oracle.Run(t, "xz", "-d", src)
		src = strings.TrimSuffix(src, ".xz")
	}
	if !strings.HasSuffix(src, ".img") {
		return src
	}
	// btrfs-image complains about what is damaged, and restores it all the same.
	out := src + ".raw"
	msg, _ := exec.Command("btrfs-image", "-r", src, out).CombinedOutput()
	if _, err := os.Stat(out); err != nil {
		t.Fatalf("btrfs-image %s: %s", path, msg)
	}
	return out
}

// TestFSIDChangeStates: eight members of two-device filesystems whose fsid change
// was interrupted at different moments are whole when both are given.
func TestFSIDChangeStates(t *testing.T) {
	dir := filepath.Join(corpusDir(t), "misc", "034-metadata-uuid")
	for _, pair := range [][2]string{{"disk1", "disk2"}, {"disk3", "disk4"}, {"disk5", "disk6"}, {"disk7", "disk8"}} {
		r := checkImages(t, check.Options{}, unpack(t, filepath.Join(dir, pair[0]+".raw.xz")), unpack(t, filepath.Join(dir, pair[1]+".raw.xz")))
		if r.Damaged() || !r.Complete {
			t.Errorf("%v: %v", pair, r.Findings)
		}
	}
}
