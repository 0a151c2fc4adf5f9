//go:build !linux || 386 || arm || mips || mipsle

package oracle

import (
	"testing"

	"gobtrfs/internal/manifest"
)

// HostManifest asks the running kernel, which must be Linux.
func HostManifest(t testing.TB, _ string, _ HostOptions) []manifest.Entry {
	t.Helper()
	t.Fatal("a btrfs can be mounted on Linux only")
	return nil
}

// DataRanges asks the running kernel, which must be Linux.
func DataRanges(t testing.TB, _ string) []Range {
	t.Helper()
	t.Fatal("a btrfs can be mounted on Linux only")
	return nil
}
