//go:build !linux

package oracle

import "testing"

// logWatch has nothing to watch: Need(KMsg) has sent every caller away before.
type logWatch struct{}

func watchLog(t testing.TB) *logWatch {
	t.Helper()
	t.Fatal("the kernel log can be read on Linux only")
	return nil
}

func (*logWatch) complaints(string, []string) []string { return nil }
