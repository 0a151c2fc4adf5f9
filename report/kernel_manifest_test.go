package report_test

import (
	"compress/gzip"
	"os"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/specimen"
	"gobtrfs/report"
)

// The unclean specimen shows what Linux showed of it after mounting. Other than
// the matrix this runs anywhere.
func TestSpecimenIsAsLinuxShowedIt(t *testing.T) {
	t.Parallel()
	saved, err := os.Open("../demo/kernel.manifest.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	plain, err := gzip.NewReader(saved)
	if err != nil {
		t.Fatal(err)
	}
	want, err := manifest.NewComparison(manifest.Read(plain), manifest.All)
	if err != nil {
		t.Fatal(err)
	}
	raw := specimen.Unclean(t)
	dev := blockdev.NewMemory(int64(len(raw)))
	if _, err := dev.WriteAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	f, err := btrfs.OpenDevices(t.Context(), []blockdev.Device{dev}, btrfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sub, err := f.TopLevel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	top, err := sub.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for e, err := range report.Manifest(t.Context(), top, manifest.All) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		for _, d := range want.Add(&e) {
			t.Error(d)
		}
	}
	for _, d := range want.Missing() {
		t.Error(d)
	}
	if n != 414 {
		t.Errorf("%d entries, want 414", n)
	}
}
