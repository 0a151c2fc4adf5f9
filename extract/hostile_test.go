package extract_test

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/extract"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/specimen"
	"gobtrfs/report"
)

const nodeSize = 16384

// edited is the specimen with every directory entry of that name changed, in
// every leaf, checksums made right again.
func edited(t *testing.T, name string, change func(k disk.Key, entry []byte)) *btrfs.File {
	t.Helper()
	raw := slices.Clone(specimen.Unclean(t))
	sb, err := disk.ParseSuperblock(raw[65536 : 65536+4096])
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for off := 0; off+nodeSize <= len(raw); off += nodeSize {
		n := disk.Node(raw[off : off+nodeSize])
		if n.FSID() != sb.FSID || !n.IsLeaf() || n.ValidateLayout() != nil {
			continue
		}
		dirty := false
		for i := range n.NrItems() {
			k := n.Key(i)
			if k.Type != disk.KeyDirIndex && k.Type != disk.KeyDirItem {
				continue
			}
			d, _, err := disk.ParseDirItem(n.ItemData(i))
			if err == nil && string(d.Name) == name {
				change(k, n.ItemData(i))
				dirty = true
			}
		}
		if dirty {
			changed++
			sum := csum.Sum(sb.CsumType, n.Body())
			copy(n.Csum(), sum[:])
		}
	}
	if changed == 0 {
		t.Fatalf("no entry %q in the specimen", name)
	}
	dev := blockdev.NewMemory(int64(len(raw)))
	if _, err := dev.WriteAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	f, err := btrfs.OpenDevices(t.Context(), []blockdev.Device{dev}, btrfs.Options{NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	sub, err := f.TopLevel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root, err := sub.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// A directory that holds itself ends in an error, not in an endless copy.
func TestCircleOfDirectories(t *testing.T) {
	t.Parallel()
	root := edited(t, "b", func(k disk.Key, entry []byte) {
		binary.LittleEndian.PutUint64(entry, uint64(k.ObjectID)) // a/b is a
	})
	errs := 0
	for _, err := range report.Walk(t.Context(), root) {
		if err != nil {
			if !errors.Is(err, report.ErrLoop) {
				t.Errorf("walk: %v", err)
			}
			errs++
		}
	}
	if errs == 0 {
		t.Error("the walk did not see the circle")
	}
	for _, keepGoing := range []bool{false, true} {
		o := extract.Options{KeepGoing: keepGoing, NoOwner: true}
		for kind, copyOut := range map[string]func() (extract.Result, error){
			"directory": func() (extract.Result, error) {
				return extract.ToDir(t.Context(), root, "", filepath.Join(t.TempDir(), "out"), o)
			},
			"tar": func() (extract.Result, error) { return extract.ToTar(t.Context(), root, "", io.Discard, o) },
		} {
			r, err := copyOut()
			if keepGoing && err != nil || !keepGoing && !errors.Is(err, report.ErrLoop) {
				t.Errorf("%s, keep going %v: error %v", kind, keepGoing, err)
			}
			if r.DamagedCount == 0 || !errors.Is(r.Damaged[0].Err, report.ErrLoop) {
				t.Errorf("%s, keep going %v: damage %v", kind, keepGoing, r.Damaged)
			}
		}
	}
}

// A name that leads out of the destination is damage.
func TestNamesThatLeadAway(t *testing.T) {
	t.Parallel()
	for _, evil := range []string{"../up", "/root", "a/../", "..\x00x.", "a\x00bcd"} {
		root := edited(t, "hello", func(k disk.Key, entry []byte) {
			if k.Type == disk.KeyDirIndex { // the other item's key is the name's hash
				copy(entry[30:], evil) // behind the entry's fixed fields
			}
		})
		dest := filepath.Join(t.TempDir(), "deep", "out")
		if err := os.MkdirAll(filepath.Dir(dest), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := extract.ToDir(t.Context(), root, "", dest, extract.Options{NoOwner: true}); !errors.Is(err, btrfs.ErrCorrupt) {
			t.Errorf("%q: error %v", evil, err)
		}
		err := filepath.WalkDir(filepath.Dir(filepath.Dir(dest)), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && filepath.Dir(path) == filepath.Dir(dest) {
				t.Errorf("%q: %s was written", evil, path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}
