package check_test

import (
	"bytes"
	"os"
	"testing"

	"gobtrfs/check"
	"gobtrfs/internal/oracle"
)

// Copies without checksums: where a file has written they must be equal; in
// preallocated space stands what the devices held before.
func TestCopiesWithoutChecksums(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	images := oracle.Sparse(t, 2, 256*mib)
	if err := os.WriteFile(images[1], oracle.Noise(1, 256*mib), 0o666); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mkfs.btrfs", "-q", "-f", "-K", "-d", "raid1", "-m", "raid1", images[0], images[1])
	m := oracle.Mount(t, "", images...)
	oracle.Run(t, "bash", "-e", "-c", "cd "+m.Dir+`
		fallocate -l 1M pre; touch nocow; chattr +C nocow; for i in $(seq 5000); do echo "line $i of a file without checksums"; done > nocow`)
	m.Unmount()
	requireClean(t, checkImages(t, check.Options{VerifyData: true}, images...))

	raw, err := os.ReadFile(images[1])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, []byte("line 2500 of"))
	if at < 0 {
		t.Fatal("the file is not on the second device")
	}
	f, err := os.OpenFile(images[1], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("LINE"), int64(at)); err != nil {
		t.Fatal(err)
	}
	r := checkImages(t, check.Options{VerifyData: true}, images...)
	if !r.Damaged() || !r.Has(check.CodeMirrorsDiffer) || !r.Has(check.CodeDataBad) {
		t.Errorf("copies differ, but what was found is %v", r.Findings)
	}
}
