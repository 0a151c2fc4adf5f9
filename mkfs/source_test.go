//go:build linux

package mkfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
	"gobtrfs/internal/zstd"
)

// archive makes a tar in memory.
func archive(t testing.TB, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		text := []byte(nil)
		if h.Typeflag == tar.TypeReg {
			text = []byte("contents of " + h.Name)
			h.Size = int64(len(text))
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1000, 0)
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func reg(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
func dirh(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir}
}

// listing loads a source and lists the tree that it makes.
func listing(t testing.TB, s Source) ([]string, error) {
	t.Helper()
	m, err := prepare(t.Context(), 1, Options{Source: s, UUID: testUUID}, nil)
	if err != nil {
		return nil, err
	}
	defer m.tree.close()
	var out []string
	for _, n := range m.tree.order {
		e := &m.tree.names[n]
		p := joinRel(m.tree.pathOf(e.parent), e.text)
		out = append(out, fmt.Sprintf("%s %o", p, m.tree.inodes[e.inode].mode))
	}
	return out, nil
}

func TestHostileArchives(t *testing.T) {
	good := archive(t, reg("a"), dirh("d"), reg("d/b"))
	packed, ok := zstd.NewEncoder(3).Encode(nil, good)
	if !ok {
		t.Fatal("an archive does not compress")
	}
	for _, c := range []struct {
		name string
		b    []byte
		want string // "": accepted
	}{
		{"good", good, ""},
		{"absolute path", archive(t, reg("/etc/passwd")), "/etc/passwd"},
		{"path upwards", archive(t, reg("a/../../b")), "a/../../b"},
		{"link target upwards", archive(t, reg("a"), tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "../a"}), `"l"`},
		{"absolute link target", archive(t, reg("a"), tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "/a"}), `"l"`},
		{"link to nothing", archive(t, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "a"}), `"l"`},
		{"link to itself", archive(t, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "l"}), `"l"`},
		{"link to a directory", archive(t, dirh("d"), tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "d"}), `"l"`},
		{"link to the top", archive(t, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "."}), `"l"`},
		{"file twice", archive(t, reg("a"), reg("a")), "twice"},
		{"directory twice", archive(t, dirh("d"), reg("d/a"), dirh("d")), ""},
		{"file over directory", archive(t, dirh("d"), reg("d")), "twice"},
		{"file below a file", archive(t, reg("a"), reg("a/b")), "not a directory"},
		{"file below a symbolic link", archive(t, tar.Header{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, reg("s/passwd")), "not a directory"},
		{"the top is a file", archive(t, reg(".")), "top"},
		{"name too long", archive(t, reg(strings.Repeat("n", 256))), "256 bytes"},
		{"symbolic link to nothing", archive(t, tar.Header{Name: "s", Typeflag: tar.TypeSymlink, Linkname: ""}), `"s"`},
		{"empty", nil, "end marker"},
		{"cut in a header", good[:300], "unexpected EOF"},
		{"cut in contents", good[:512*3+3], "a"},
		{"cut between entries", good[:len(good)-1024], "end marker"},
		{"zeros, then something else", append(make([]byte, 4096), "superblock"...), "no archive"},
		{"noise", bytes.Repeat([]byte("noise"), 1000), "tar"},
		{"half of gzip", []byte("\x1f\x8b\x08\x00"), "EOF"},
		{"zstd", packed, ""},
		{"half of zstd", packed[:len(packed)/2], "EOF"},
		{"more holes than there is time for", sparseArchive(t), "too much"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := listing(t, Tar(bytes.NewReader(c.b), "test.tar"))
			if c.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "test.tar") {
				t.Errorf("error %v, want one about %q", err, c.want)
			}
		})
	}
}

func FuzzTar(f *testing.F) {
	f.Add(archive(f, reg("a"), dirh("d"), reg("d/b"), tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "a"}), archive(f, reg("d/.wh.b"), reg(".wh..wh..opq")))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		const sparse = 16 << 20
		s := Layers(&tarSource{r: bytes.NewReader(a), name: "a", maxSparse: sparse}, &tarSource{r: bytes.NewReader(b), name: "b", maxSparse: sparse})
		m, err := prepare(t.Context(), 1, Options{Source: s, UUID: testUUID}, nil)
		if err != nil {
			return
		}
		defer m.tree.close()
		d := blockdev.NewMemory(128 << 20)
		_, err = m.make(t.Context(), []blockdev.Device{d})
		var head [disk.SuperInfoSize]byte
		if _, e := d.ReadAt(head[:], disk.SuperInfoOffset); e != nil || disk.HasMagic(head[:]) != (err == nil) {
			t.Errorf("superblock %v after %v (%v)", disk.HasMagic(head[:]), err, e)
		}
	})
}

// sparseArchive has a file of 2 TiB, all of it a hole.
func sparseArchive(t *testing.T) []byte {
	t.Helper()
	dir := oracle.Dir(t)
	f, err := os.Create(dir + "/hole")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(2<<40), f.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(tarOf(t, dir, "--sparse"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHolesAreNotRead makes an image of a large file that is nearly all hole.
func TestHolesAreNotRead(t *testing.T) {
	dir := oracle.Dir(t)
	f, err := os.Create(dir + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const at, size = 5 << 30, 16 << 30
	if _, err := f.WriteAt([]byte("data"), at); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	c := &fdContent{fd: int(f.Fd())}
	if a, b := c.dataFrom(0), c.dataFrom(at+mib); a != at || b < size {
		why := fmt.Sprintf("the filesystem of %s does not tell where data is: %d, %d", dir, a, b)
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	r, err := Make(t.Context(), []blockdev.Device{blockdev.NewMemory(256 << 20)}, Options{Source: Dir(dir)})
	if err != nil || r.Data != sectorSize || r.Contents != size {
		t.Errorf("%d bytes of data (%v) for %d", r.Data, err, r.Contents)
	}
}

func TestLayers(t *testing.T) {
	layer := func(hs ...tar.Header) Source { return Tar(bytes.NewReader(archive(t, hs...)), "layer") }
	base := func() Source {
		return layer(dirh("d"), reg("d/a"), reg("d/b"), dirh("d/sub"), reg("d/sub/c"), reg("f"), dirh("e"), reg("e/x"))
	}
	for _, c := range []struct {
		name string
		top  Source
		want string
	}{
		{"nothing", layer(), "d e f d/a d/b d/sub d/sub/c e/x"},
		{"file replaced", layer(reg("f")), "d e f d/a d/b d/sub d/sub/c e/x"},
		{"file removed", layer(reg(".wh.f"), reg("d/.wh.a")), "d e d/b d/sub d/sub/c e/x"},
		{"directory removed", layer(reg(".wh.d")), "e f e/x"},
		{"directory removed and made anew", layer(reg(".wh.d"), dirh("d"), reg("d/new")), "d e f d/new e/x"},
		{"made anew, then removed below", layer(dirh("d"), reg("d/new"), reg(".wh.d")), "d e f d/new e/x"},
		{"opaque", layer(dirh("d"), reg("d/.wh..wh..opq"), reg("d/new")), "d e f d/new e/x"},
		{"opaque last", layer(dirh("d"), reg("d/new"), reg("d/.wh..wh..opq")), "d e f d/new e/x"},
		{"directory replaced by a file", layer(reg("d")), "d e f e/x"},
		{"file replaced by a directory", layer(dirh("f"), reg("f/y")), "d e f d/a d/b d/sub d/sub/c e/x f/y"},
		{"whiteout of nothing", layer(reg(".wh.none"), reg("none/.wh.none")), "d e f d/a d/b d/sub d/sub/c e/x"},
		{"hard link to below", layer(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "d/a"}), "d e f l d/a d/b d/sub d/sub/c e/x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := listing(t, Layers(base(), c.top))
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				got[i], _, _ = strings.Cut(got[i], " ")
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
		})
	}
	got, err := listing(t, layer(reg(".wh.literal")))
	if err != nil || len(got) != 1 {
		t.Errorf("one archive alone: %v, %v; want the name as it is", got, err)
	}
}

// TestSourcesByTheKernel compares what other sources make with what Linux shows.
func TestSourcesByTheKernel(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	dir := withoutSockets(t, sampleTree(t))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	b, err := os.ReadFile(tarOf(t, dir, "--sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]Source{
		"archive":            openTar(t, tarOf(t, dir)),
		"compressed, sparse": Tar(&zipped, "pipe"),
	} {
		t.Run(name, func(t *testing.T) {
			img := oracle.Sparse(t, 1, 512<<20)
			makeOn(t, Options{Source: s, Compress: "zstd"}, img...)
			judge(t, dir, img...)
		})
	}
}

func TestIOFSSource(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	fsys := fstest.MapFS{
		"a/b/c.txt": {Data: []byte(strings.Repeat("text ", 2000)), Mode: 0o640, ModTime: time.Unix(77, 5)},
		"big":       {Data: bytes.Repeat([]byte("0123456789abcdef"), 200_000), Mode: 0o600, ModTime: time.Unix(78, 0)},
		"link":      {Data: []byte("a/b"), Mode: fs.ModeSymlink | 0o777, ModTime: time.Unix(79, 0)},
		"empty":     {Mode: 0o600, ModTime: time.Unix(80, 0)},
		"dir":       {Mode: fs.ModeDir | 0o711, ModTime: time.Unix(81, 0)},
	}
	img := oracle.Sparse(t, 1, 256<<20)
	makeOn(t, Options{Source: FS(fsys)}, img...)
	oracle.CheckWith(t, oracle.CheckOptions{Data: true}, img...)
	m := oracle.Mount(t, "ro", img...)
	if err := fstest.TestFS(os.DirFS(m.Dir), "a/b/c.txt", "big", "empty"); err != nil {
		t.Error(err)
	}
	for _, p := range []string{"a/b/c.txt", "big"} {
		got, err := os.ReadFile(filepath.Join(m.Dir, p))
		if err != nil || !bytes.Equal(got, fsys[p].Data) {
			t.Errorf("%s: %d bytes, %v", p, len(got), err)
		}
	}
	m.Unmount()
}

// brokenContent fails in one way.
type brokenContent struct {
	size int
	err  error
}

func (b brokenContent) Close() error { return nil }
func (b brokenContent) ReadAt(p []byte, off int64) (int, error) {
	n := min(len(p), max(b.size-int(off), 0))
	if n < len(p) {
		return n, b.err
	}
	return n, nil
}

func TestSourceFailures(t *testing.T) {
	boom := errors.New("boom")
	entry := func(size int64, c Content, err error) Source {
		return Entries(func(yield func(Entry, error) bool) {
			yield(Entry{Path: "good", Mode: modeRegular | 0o600, Size: 10, Open: func() (Content, error) { return brokenContent{10, io.EOF}, nil }}, nil)
			yield(Entry{Path: "dir/bad", Mode: modeRegular | 0o600, Size: size, Open: func() (Content, error) { return c, err }}, nil)
		})
	}
	for _, c := range []struct {
		name string
		s    Source
		want error
	}{
		{"cannot be opened", entry(5000, nil, boom), boom},
		{"cannot be read", entry(5000, brokenContent{4000, boom}, nil), boom},
		{"cannot be read late", entry(5<<20, brokenContent{4 << 20, boom}, nil), boom},
		{"ends early", entry(3<<20, brokenContent{2 << 20, nil}, nil), ErrChanged},
		{"has grown", entry(5000, brokenContent{6000, boom}, nil), ErrChanged},
		{"has grown late", entry(5<<20, brokenContent{6 << 20, boom}, nil), ErrChanged},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			img := filepath.Join(dir, "image")
			_, err := MakeFiles(t.Context(), []string{img}, 256<<20, Options{Source: c.s})
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), "dir/bad") {
				t.Errorf("error %v, want %v naming the file", err, c.want)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestFilesThatChange changes files between listing and reading.
func TestFilesThatChange(t *testing.T) {
	for name, change := range map[string]func(p string) error{
		"gone":        os.Remove,
		"rewritten":   func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(1000, 0)) },
		"shorter":     func(p string) error { return os.Truncate(p, 10) },
		"longer":      func(p string) error { return os.Truncate(p, 1<<20) },
		"another":     func(p string) error { return errors.Join(os.Remove(p), os.WriteFile(p, make([]byte, 9000), 0o600)) },
		"a directory": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"a fifo":      func(p string) error { return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := filepath.Join(dir, "file")
			if err := os.WriteFile(p, bytes.Repeat([]byte("x"), 9000), 0o600); err != nil {
				t.Fatal(err)
			}
			m, err := prepare(t.Context(), 1, Options{Source: Dir(dir)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			// An inode number that was given back may come again at once.
			if err := os.WriteFile(filepath.Join(dir, "other"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if name == "another" {
				if err := os.Rename(p, p+".old"); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := change(p); err != nil {
				t.Fatal(err)
			}
			_, err = m.make(t.Context(), []blockdev.Device{blockdev.NewMemory(256 << 20)})
			if err == nil || !strings.Contains(err.Error(), "file") {
				t.Errorf("error %v, want one that names the file", err)
			}
		})
	}
}

func TestNoSpace(t *testing.T) {
	dir := oracle.Dir(t)
	oracle.Run(t, "sh", "-c", "head -c 60M /dev/urandom > "+dir+"/noise")
	for _, size := range []uint64{0, 1 << 20, 40 << 20, 60 << 20, 61 << 20} {
		d := blockdev.NewMemory(int64(size))
		_, err := Make(t.Context(), []blockdev.Device{d}, Options{Source: Dir(dir)})
		var se *SizeError
		if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &se) {
			t.Errorf("%d bytes: %v, want ENOSPC", size, err)
			continue
		}
		// What the error asks for is enough.
		if _, err := Make(t.Context(), []blockdev.Device{blockdev.NewMemory(int64(se.Need))}, Options{Source: Dir(dir)}); err != nil {
			t.Errorf("with the %d bytes asked for: %v", se.Need, err)
		}
	}
	dirOut := t.TempDir()
	_, err := MakeFiles(t.Context(), []string{filepath.Join(dirOut, "x")}, 30<<20, Options{Source: Dir(dir), Shrink: true})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("limit of a shrunk image: %v", err)
	}
	if left, _ := os.ReadDir(dirOut); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCancel(t *testing.T) {
	dir := oracle.Dir(t)
	oracle.Run(t, "sh", "-c", "head -c 30M /dev/urandom > "+dir+"/noise")
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	o := Options{Source: Dir(dir), Progress: func(Progress) {
		if n++; n == 5 {
			cancel()
		}
	}}
	_, err := Make(ctx, []blockdev.Device{blockdev.NewMemory(256 << 20)}, o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// slowSync is a device on which somebody loses patience.
type slowSync struct {
	*blockdev.Memory
	cancel func()
}

func (s *slowSync) Sync() error {
	s.cancel()
	return s.Memory.Sync()
}

func TestCancelBeforeTheSuperblock(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := &slowSync{blockdev.NewMemory(256 << 20), cancel}
	if _, err := Make(ctx, []blockdev.Device{d}, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	var head [disk.SuperInfoSize]byte
	if _, err := d.ReadAt(head[:], disk.SuperInfoOffset); err != nil || disk.HasMagic(head[:]) {
		t.Errorf("there is a superblock (%v)", err)
	}
}

// faulty fails the n-th write.
type faulty struct {
	*blockdev.Memory
	left int
}

var errFault = errors.New("device fault")

func (f *faulty) WriteAt(p []byte, off int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, errFault
	}
	return f.Memory.WriteAt(p, off)
}

// TestEveryWriteFails lets each write of the device fail in turn. Unless the last
// superblock is there nothing may look whole.
func TestEveryWriteFails(t *testing.T) {
	t.Setenv("GOMAXPROCS", "1")
	dir := oracle.Dir(t)
	oracle.Run(t, "cp", "-r", "/usr/include/linux", dir)
	for n := 0; ; n++ {
		d := &faulty{blockdev.NewMemory(256 << 20), n}
		_, err := Make(t.Context(), []blockdev.Device{&serial{Device: d}}, Options{Source: Dir(dir)})
		if err == nil {
			if n < 5 {
				t.Errorf("done after %d writes", n)
			}
			return
		}
		if !errors.Is(err, errFault) {
			t.Fatalf("write %d: %v", n, err)
		}
		var head [disk.SuperInfoSize]byte
		if _, err := d.ReadAt(head[:], disk.SuperInfoOffset); err != nil || disk.HasMagic(head[:]) {
			t.Fatalf("write %d failed, and there is a superblock (%v)", n, err)
		}
	}
}
