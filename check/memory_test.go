package check_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"gobtrfs/check"
	"gobtrfs/mkfs"
)

// sameInTinyMemory checks once more with so little memory that everything that
// can goes through the temporary file, and demands the same findings.
func sameInTinyMemory(t *testing.T, want *check.Report, images ...string) *check.Report {
	t.Helper()
	got := checkImages(t, check.Options{Memory: 1, TempDir: t.TempDir()}, images...)
	if len(got.Findings) != len(want.Findings) {
		t.Errorf("%d findings in tiny memory, %d else", len(got.Findings), len(want.Findings))
		return got
	}
	for i := range got.Findings {
		if g, w := got.Findings[i].String(), want.Findings[i].String(); g != w {
			t.Errorf("in tiny memory %s, else %s", g, w)
		}
	}
	s := got.Stats
	if s.Spilled = 0; s != want.Stats {
		t.Errorf("in tiny memory %+v, else %+v", s, want.Stats)
	}
	return got
}

// manyFiles is a filesystem with n empty files, in nodes of 4 KiB.
func manyFiles(t *testing.T, n int) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	entries := func(yield func(mkfs.Entry, error) bool) {
		for i := range n {
			dir := fmt.Sprintf("directory-%d", i/1000)
			if i%1000 == 0 && !yield(mkfs.Entry{Path: dir, Mode: 0o40755}, nil) {
				return
			}
			if !yield(mkfs.Entry{Path: fmt.Sprintf("%s/file-%d", dir, i), Mode: 0o100644}, nil) {
				return
			}
		}
	}
	if _, err := mkfs.MakeFiles(t.Context(), []string{img}, 4<<30, mkfs.Options{Source: mkfs.Entries(entries), NodeSize: 4096}); err != nil {
		t.Fatal(err)
	}
	return img
}

// heapWhile is the largest heap while do runs, less what there was before.
func heapWhile(do func()) int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() int64 {
		metrics.Read(sample)
		return int64(sample[0].Value.Uint64())
	}
	runtime.GC()
	before, peak := read(), int64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-tick.C:
				peak = max(peak, read())
			case <-stop:
				tick.Stop()
				return
			}
		}
	}()
	do()
	close(stop)
	<-done
	return peak - before
}

// TestMemoryIsBounded: a filesystem of which ten times as much would have to be
// known as may be in memory is checked within the limit, and the limit is what
// does it.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 8 << 20
	img := manyFiles(t, boundedFiles)
	var r, free *check.Report
	o := check.Options{Memory: limit, TempDir: t.TempDir(), Workers: 2}
	peak := heapWhile(func() { r = checkImages(t, o, img) })
	requireClean(t, r)
	o.Memory = 1 << 30
	open := heapWhile(func() { free = checkImages(t, o, img) })
	t.Logf("%d tree blocks: %.1f MB with a limit of %.1f MB, %.1f MB spilled; %.1f MB without", r.Stats.Nodes, float64(peak)/1e6, float64(limit)/1e6, float64(r.Stats.Spilled)/1e6, float64(open)/1e6)
	if peak > limit {
		t.Errorf("%d bytes of heap, the limit is %d", peak, limit)
	}
	if open < 2*limit || free.Stats.Spilled > 0 {
		t.Errorf("the filesystem is too small for this test: %d bytes of heap without a limit, %d bytes spilled", open, free.Stats.Spilled)
	}
}
