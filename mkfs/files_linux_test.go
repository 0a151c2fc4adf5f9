package mkfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gobtrfs/internal/oracle"
)

// TestTargetIsNotPartOfTheSource makes an image inside the directory that it is made
// from, new and over the old one: the bytes do not change.
func TestTargetIsNotPartOfTheSource(t *testing.T) {
	for name, o := range map[string]Options{"shrunk": {Shrink: true}, "in place": {}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte("contents"), 0o600); err != nil {
				t.Fatal(err)
			}
			image := filepath.Join(dir, "image")
			o.Source, o.UUID, o.Force = Dir(dir), testUUID, true
			o.Map.Clamp = time.Unix(1000, 0) // the directory's own time changes
			size := uint64(128 << 20)
			if o.Shrink {
				size = 0
			}
			var first []byte
			for range 3 {
				if _, err := MakeFiles(t.Context(), []string{image}, size, o); err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(image)
				if err != nil {
					t.Fatal(err)
				}
				if first == nil {
					first = b
				}
				if !bytes.Equal(b, first) {
					t.Error("another image, made over the first one, differs")
				}
			}
		})
	}
}

// TestFailureKeepsWhatWasThere lets the source fail before anything is written.
func TestFailureKeepsWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	old := bytes.Repeat([]byte("precious"), 1<<20)
	if err := os.WriteFile(image, old, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, size := range []uint64{0, 1 << 20, 100 << 20} {
		for _, shrink := range []bool{false, true} {
			o := Options{Source: Dir(filepath.Join(dir, "none")), Force: true, Shrink: shrink}
			if _, err := MakeFiles(t.Context(), []string{image}, size, o); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("size %d: %v", size, err)
			}
			if b, err := os.ReadFile(image); err != nil || !bytes.Equal(b, old) {
				t.Fatalf("size %d: %d bytes are left (%v) of %d", size, len(b), err, len(old))
			}
		}
	}
}

// TestExistingFileGetsTheSizeAskedFor makes filesystems in place.
func TestExistingFileGetsTheSizeAskedFor(t *testing.T) {
	image := filepath.Join(oracle.Dir(t), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{300 << 20, 128 << 20, 200 << 20} {
		r, err := MakeFiles(t.Context(), []string{image}, uint64(size), Options{Force: true})
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(image)
		if err != nil || fi.Size() != size || r.DeviceSizes[0] != uint64(size) {
			t.Errorf("file of %d bytes (%v) with a filesystem of %d, want %d", fi.Size(), err, r.DeviceSizes[0], size)
		}
		oracle.Check(t, image)
	}
}

// TestFullDiskUnderTheImage makes an image larger than what its disk can hold.
func TestFullDiskUnderTheImage(t *testing.T) {
	oracle.Need(t, oracle.Root)
	src, disk := oracle.Dir(t), oracle.Dir(t)
	if err := os.WriteFile(filepath.Join(src, "noise"), oracle.Noise(1, 12<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk)
	t.Cleanup(func() { oracle.Run(t, "umount", disk) })
	image := filepath.Join(disk, "image")
	for name, o := range map[string]Options{"shrunk": {Shrink: true}, "sparse": {}} {
		o.Source = Dir(src)
		size := uint64(256 << 20)
		if o.Shrink {
			size = 0
		}
		_, err := MakeFiles(t.Context(), []string{image}, size, o)
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "image") {
			t.Errorf("%s: error %v, want ENOSPC naming the image", name, err)
		}
		if left, err := os.ReadDir(disk); err != nil || len(left) != 0 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
	}
}
