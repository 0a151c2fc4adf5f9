package check_test

import (
	"context"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/internal/oracle"
)

// A replacement that the kernel finished leaves its item behind, and is no
// reason to complain.
func TestFinishedReplaceIsClean(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	old := oracle.Mkfs(t, 256<<20)
	replacement := oracle.Sparse(t, 1, 256<<20)[0]
	m := oracle.Mount(t, "", old)
	oracle.Attached(t, []string{replacement}, func(loops []string) {
		oracle.Run(t, "btrfs", "replace", "start", "-B", "-f", m.Loops[0], loops[0], m.Dir)
		m.Unmount()
	})

	dev, err := blockdev.OpenFile(replacement, blockdev.FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	report, err := check.Run(context.Background(), []blockdev.Device{dev}, check.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// The old mkfs leaves stale free-space items, which are warnings.
	if report.Damaged() || report.Has(check.CodeReplacePending) {
		t.Errorf("findings on a clean filesystem: %v", report.Findings)
	}
}
