//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"gobtrfs/internal/oracle"
)

// TestTheKernelDropsInodes makes more files than the kernel may know. It drops
// those that nobody uses, and what is in use stays as it is.
func TestTheKernelDropsInodes(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	const limit, files, open = 200, 1000, 20
	img := oracle.Mkfs(t, 256*mib)
	s := serveWritable(t, Options{Inodes: limit}, img)
	if !s.fuse.KernelSettings().SupportsNotify(fuse.NOTIFY_PRUNE) {
		const why = "the kernel does not know NOTIFY_PRUNE"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	var held []*os.File
	for i := range files {
		f, err := os.Create(fmt.Sprintf("%s/%d", s.dir, i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(f, "file %d", i); err != nil {
			t.Fatal(err)
		}
		if i%(files/open) == 0 {
			held = append(held, f)
			if i%2 == 0 {
				if err := os.Remove(f.Name()); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		f.Close()
	}
	waitUntil(t, "the kernel knows as many inodes as it may", func() bool {
		return s.server.known.total.Load() < limit*2
	})
	for i, f := range held {
		b := make([]byte, 100)
		n, _ := f.ReadAt(b, 0) // io.EOF
		if want := fmt.Sprintf("file %d", i*files/open); string(b[:n]) != want {
			t.Errorf("an open file has %q, want %q", b[:n], want)
		}
		f.Close()
	}
	for i := 1; i < files; i += 97 {
		if b, err := os.ReadFile(fmt.Sprintf("%s/%d", s.dir, i)); err != nil || !bytes.Equal(b, fmt.Appendf(nil, "file %d", i)) {
			t.Errorf("file %d: %q, %v", i, b, err)
		}
	}
}
