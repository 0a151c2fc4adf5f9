package blockdev

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

// devices makes one device of every kind with the same size.
func devices(t testing.TB, size int64) map[string]Device {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dev.img")
	f, err := OpenFile(path, FileOptions{Create: true, Size: size})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := Section(NewMemory(3*size), size, size)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]Device{"file": f, "memory": NewMemory(size), "section": s}
}

// Every kind of device behaves as a plain slice of bytes does.
func TestDevicesBehaveLikeBytes(t *testing.T) {
	const size = 300_000
	for name, d := range devices(t, size) {
		t.Run(name, func(t *testing.T) {
			model := make([]byte, size)
			rapid.Check(t, func(rt *rapid.T) {
				off := rapid.Int64Range(0, size).Draw(rt, "off")
				n := int(rapid.Int64Range(0, min(size-off, 200_000)).Draw(rt, "n"))
				switch rapid.IntRange(0, 2).Draw(rt, "op") {
				case 0:
					b := bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(rt, "byte"))}, n)
					if got, err := d.WriteAt(b, off); got != n || err != nil {
						rt.Fatalf("write: %d, %v", got, err)
					}
					copy(model[off:], b)
				case 1:
					err := d.Discard(off, int64(n))
					if errors.Is(err, errors.ErrUnsupported) {
						return
					}
					if err != nil {
						rt.Fatal(err)
					}
					clear(model[off : off+int64(n)]) // a hole reads as zeros on all of these
				case 2:
					b := make([]byte, n+10)
					got, err := d.ReadAt(b, off)
					want := min(len(b), int(size-off))
					if got != want || (err == io.EOF) != (want < len(b)) || err != nil && err != io.EOF {
						rt.Fatalf("read: %d, %v, want %d", got, err, want)
					}
					if !bytes.Equal(b[:got], model[off:off+int64(got)]) {
						rt.Fatal("bytes differ")
					}
				}
			})
			if err := d.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAccessOutside(t *testing.T) {
	for name, d := range devices(t, 8192) {
		for _, c := range []struct{ off, n int64 }{{-1, 1}, {8192, 1}, {8000, 500}, {1<<63 - 1, 2}, {0, 8193}} {
			if _, err := d.WriteAt(make([]byte, c.n), c.off); !errors.Is(err, ErrRange) {
				t.Errorf("%s: write of %d at %d: %v", name, c.n, c.off, err)
			}
			if err := d.Discard(c.off, c.n); !errors.Is(err, ErrRange) {
				t.Errorf("%s: discard of %d at %d: %v", name, c.n, c.off, err)
			}
			if _, err := Section(d, c.off, c.n); !errors.Is(err, ErrRange) {
				t.Errorf("%s: section of %d at %d: %v", name, c.n, c.off, err)
			}
		}
		if _, err := d.ReadAt(make([]byte, 1), -1); !errors.Is(err, ErrRange) {
			t.Errorf("%s: read at -1: %v", name, err)
		}
		if n, err := d.ReadAt(make([]byte, 1), 1<<62); n != 0 || err != io.EOF {
			t.Errorf("%s: read far behind the end: %d, %v", name, n, err)
		}
	}
}

func TestOpenFileOptions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.img")
	if _, err := OpenFile(path, FileOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open of nothing: %v", err)
	}
	if _, err := OpenFile(path, FileOptions{ReadOnly: true, Create: true}); err == nil {
		t.Error("create for reading only")
	}
	d, err := OpenFile(path, FileOptions{Create: true, Size: 5000})
	if err != nil || d.Size() != 5000 || d.Name() != path || d.IsBlock() {
		t.Fatalf("create: %v, %+v", err, d)
	}
	if _, err := d.WriteAt([]byte("abc"), 4997); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path, FileOptions{}); !errors.Is(err, errLocked) {
		t.Errorf("a second writer: %v", err)
	}
	second, err := OpenFile(path, FileOptions{NoLock: true})
	if err != nil {
		t.Fatal(err)
	}
	ro, err := OpenFile(path, FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ro.WriteAt([]byte("x"), 0); !errors.Is(err, ErrReadOnly) {
		t.Errorf("write: %v", err)
	}
	if err := ro.Discard(0, 1); !errors.Is(err, ErrReadOnly) {
		t.Errorf("discard: %v", err)
	}
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := ro.ReadAt(make([]byte, 10), 4000); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read of a file that shrank: %v", err)
	}
	for _, f := range []*File{d, second, ro} {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if d, err = OpenFile(path, FileOptions{Truncate: true, Size: 10}); err != nil || d.Size() != 10 {
		t.Fatalf("truncate: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := OpenFile(t.TempDir(), FileOptions{ReadOnly: true}); err == nil {
		t.Error("a directory opens")
	}
}

func TestMemoryClone(t *testing.T) {
	m := NewMemory(1 << 20)
	if _, err := m.WriteAt([]byte("before"), 70_000); err != nil {
		t.Fatal(err)
	}
	c := m.Clone()
	if _, err := m.WriteAt([]byte("after!"), 70_000); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := c.ReadAt(b, 70_000); err != nil || string(b) != "before" {
		t.Errorf("clone has %q, %v", b, err)
	}
	if at, n := c.Written(); len(at) != 1 || at[0] != 64<<10 || n != 64<<10 {
		t.Errorf("written are %d bytes at %d", n, at)
	}
}
