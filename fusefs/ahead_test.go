//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"gobtrfs/internal/oracle"
)

// TestSmallFilesAreThereBeforeTheyAreRead reads the files of directories in
// order. Few of them take a request, and all have their contents.
func TestSmallFilesAreThereBeforeTheyAreRead(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	const dirs, files = 4, 100
	img := oracle.Mkfs(t, 256*mib)
	m := oracle.Mount(t, "compress=zstd", img)
	body := func(d, i int) []byte {
		b := oracle.Noise(uint64(d*files+i), 5000)
		return append(b[:i*53%5000], bytes.Repeat([]byte("x"), i*i%7000)...) // inline, compressed, none at all
	}
	for d := range dirs {
		if err := os.Mkdir(fmt.Sprintf("%s/%d", m.Dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range files {
			if err := os.WriteFile(fmt.Sprintf("%s/%d/%d", m.Dir, d, i), body(d, i), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.Unmount()
	s := serve(t, "/", Options{}, img)
	for d := range dirs {
		oracle.Run(t, "ls", "-l", fmt.Sprintf("%s/%d", s.dir, d)) // the kernel knows them
		for i := range files {
			if b, err := os.ReadFile(fmt.Sprintf("%s/%d/%d", s.dir, d, i)); err != nil || !bytes.Equal(b, body(d, i)) {
				t.Errorf("file %d of %d: %d bytes, %v", i, d, len(b), err)
			}
			waitUntil(t, "the next files are stored", s.server.ahead.idle) // how fast each is does not matter here
		}
	}
	reads := uint64(0)
	for _, o := range s.Stats().Ops {
		if o.Name == "read" {
			reads = o.Requests
		}
	}
	if reads > dirs*files/5 {
		t.Errorf("%d requests for %d files", reads, dirs*files)
	}
}

func (a *ahead) idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.busy
}

func TestReadingAheadFollowsWhatIsRead(t *testing.T) {
	t.Parallel()
	var a ahead
	dir, other := place{5, 300}, place{5, 301}
	for i, step := range []struct {
		dir       place
		index     uint64
		wantAfter uint64
		wantN     int
		doneTo    uint64
		known     bool
	}{
		{dir: dir, index: 2}, // one file is no row
		{dir: dir, index: 3, wantAfter: 3, wantN: 8, doneTo: 11, known: true},
		{dir: dir, index: 12, wantAfter: 12, wantN: 16, doneTo: 28, known: true},
		{dir: dir, index: 20, wantAfter: 28, wantN: 32, doneTo: 60, known: true}, // it was faster than the storing
		{dir: other, index: 7, wantAfter: 7, wantN: 32, doneTo: 40, known: true}, // a tree is read
		{dir: other, index: 8, wantAfter: 40, wantN: 64, doneTo: 72, known: true},
		{dir: other, index: 3}, // back: no row any more
		{dir: other, index: 4, wantAfter: 72, wantN: 4, doneTo: 73},
		{dir: other, index: 5}, // the kernel did not know it: a pause
	} {
		after, n := a.next(step.dir, step.index)
		if after != step.wantAfter || n != step.wantN {
			t.Errorf("step %d: store %d behind %d, want %d behind %d", i, n, after, step.wantN, step.wantAfter)
		}
		if n > 0 {
			if _, n := a.next(step.dir, step.index+1); n != 0 {
				t.Errorf("step %d: two at a time", i)
			}
			a.done(step.doneTo, step.known)
		}
	}
}
