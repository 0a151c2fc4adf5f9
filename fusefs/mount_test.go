//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

const mib = 1 << 20

// needFUSE skips where nothing can be mounted, and fails in CI.
func needFUSE(t testing.TB) {
	t.Helper()
	oracle.Need(t, oracle.Mounting...)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI must have FUSE: %v", err)
		}
		t.Skipf("needs FUSE: %v", err)
	}
}

// lockedBuffer collects a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type served struct {
	*Server
	dir string
	log *lockedBuffer
}

// serve mounts the subvolume at path from the top level until the test ends.
func serve(t testing.TB, path string, o Options, images ...string) *served {
	t.Helper()
	needFUSE(t)
	fsys, err := btrfs.Open(t.Context(), images[0], btrfs.Options{Devices: images[1:]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() }) // after the unmount
	top, err := fsys.TopLevel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := top.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s := &served{dir: t.TempDir(), log: &lockedBuffer{}}
	o.Direct, o.Log = true, slog.New(slog.NewTextHandler(s.log, nil))
	// The test's own context ends before the cleanups run.
	if s.Server, err = Mount(context.WithoutCancel(t.Context()), f.Subvolume(), s.dir, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
			Unmount(s.dir, true, true)
		}
	})
	// This process is both sides of the mount. The Go runtime asks the kernel to
	// poll each file that it opens, which would ask this process, while it waits.
	if err := s.fuse.WaitMount(); err != nil {
		t.Fatal(err)
	}
	return s
}

// plant fills a fresh filesystem through the kernel and returns its image and
// what the kernel shows.
func plant(t *testing.T, options string, mkfs ...string) (string, []manifest.Entry) {
	t.Helper()
	needFUSE(t)
	img := oracle.Mkfs(t, 1024*mib, mkfs...)
	m := oracle.Mount(t, options, img)
	oracle.Populate(t, m.Dir, 16384)
	m.Unmount()
	m = oracle.Mount(t, "ro", img)
	defer m.Unmount()
	return img, oracle.HostManifest(t, m.Dir, oracle.HostOptions{})
}

// throughFUSE is what a FUSE mount of a subvolume must show where the kernel
// shows want: one device number for all, so that inodes of nested subvolumes
// have numbers of their own, and no subvolume ids.
func throughFUSE(want []manifest.Entry, top disk.ObjectID) []manifest.Entry {
	out := slices.Clone(want)
	type level struct {
		path string
		id   disk.ObjectID
	}
	var stack []level
	for i := range out {
		e := &out[i]
		for len(stack) > 1 && !strings.HasPrefix(e.Path, stack[len(stack)-1].path+"/") {
			stack = stack[:len(stack)-1]
		}
		if e.Has&manifest.Subvol != 0 {
			stack = append(stack, level{e.Path, e.Subvol})
			e.Has &^= manifest.Subvol
		}
		if id := stack[len(stack)-1].id; id != top && e.Has&manifest.Ino != 0 && e.Ino != 2 {
			e.Ino = 1<<63 | uint64(id)<<40 | e.Ino
		}
	}
	return out
}

// stubs turns the directories that stand for subvolumes into what the manifest
// of a btrfs says of them.
func stubs(entries []manifest.Entry) []manifest.Entry {
	for i, e := range entries {
		if e.Type == 'd' && e.Ino == 2 {
			entries[i] = manifest.NewStub(e.Path)
		}
	}
	return entries
}

func TestMountShowsWhatTheKernelShows(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, options string
		mkfs          []string
	}{
		{"defaults", "noatime", nil},
		{"compressed, old features", "noatime,compress-force=zstd", []string{"-O", "^no-holes,^extref"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			img, want := plant(t, tc.options, tc.mkfs...)
			s := serve(t, "/", Options{}, img)
			got := stubs(oracle.HostManifest(t, s.dir, oracle.HostOptions{}))
			oracle.RequireSame(t, throughFUSE(want, disk.TreeFS), got, manifest.All)
			seen := map[uint64]string{}
			for _, e := range got {
				if other, ok := seen[e.Ino]; ok && e.Nlink == 1 && e.Has&manifest.Ino != 0 && e.Ino != 2 {
					t.Errorf("%q and %q are both inode %d", other, e.Path, e.Ino)
				}
				seen[e.Ino] = e.Path
			}
			if text := s.log.String(); strings.Contains(text, "level=ERROR") {
				t.Errorf("the log of a good filesystem says:\n%s", text)
			}
		})
	}
}

func TestMountOfANestedSubvolume(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	img := oracle.Mkfs(t, 256*mib)
	m := oracle.Mount(t, "noatime", img)
	oracle.Run(t, "btrfs", "subvolume", "create", m.Dir+"/a")
	oracle.Run(t, "btrfs", "subvolume", "create", m.Dir+"/a/b")
	for _, name := range []string{"outside", "a/file", "a/b/file"} {
		if err := os.WriteFile(filepath.Join(m.Dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m.Unmount()
	m = oracle.Mount(t, "ro,subvol=a", img)
	want := oracle.HostManifest(t, m.Dir, oracle.HostOptions{})
	top := want[0].Subvol
	m.Unmount()
	s := serve(t, "/a", Options{}, img)
	oracle.RequireSame(t, throughFUSE(want, top), stubs(oracle.HostManifest(t, s.dir, oracle.HostOptions{})), manifest.All)
}

// TestHolesOrderAndACLs compares what a manifest does not say.
func TestHolesOrderAndACLs(t *testing.T) {
	t.Parallel()
	img, _ := plant(t, "noatime")
	type facts struct {
		holes map[string][]oracle.Range
		order map[string][]string
		acls  string
		stat  string
	}
	look := func(dir string) (f facts) {
		f.holes, f.order = map[string][]oracle.Range{}, map[string][]string{}
		for _, sub := range []string{"", "many", "names", "layouts", "collisions"} {
			d, err := os.Open(filepath.Join(dir, sub))
			if err != nil {
				t.Fatal(err)
			}
			names, err := d.Readdirnames(-1)
			d.Close()
			if err != nil {
				t.Fatal(err)
			}
			f.order[sub] = names
		}
		for _, name := range f.order["layouts"] {
			f.holes[name] = oracle.DataRanges(t, filepath.Join(dir, "layouts", name))
		}
		f.acls = inDir(t, dir, "getfacl", "-R", "-p", "-n", ".")
		// Blocks, access and birth times, device numbers of device nodes; not of
		// stubs, which have the time of the look, and tops of subvolumes, whose
		// numbers differ.
		f.stat = inDir(t, dir, "find", ".", "-xdev", "!", "-inum", "2", "!", "-inum", "256", "-printf", `%p %b %A@ %B@ %i\n`)
		f.stat += inDir(t, dir, "stat", "-c", "%n %t %T %o", ".", "layouts", "contents/zeros")
		return f
	}
	m := oracle.Mount(t, "ro,noatime", img)
	want := look(m.Dir)
	m.Unmount()
	s := serve(t, "/", Options{}, img)
	got := look(s.dir)
	for name, w := range want.holes {
		if !slices.Equal(got.holes[name], w) {
			t.Errorf("data of %s at %v, want %v", name, got.holes[name], w)
		}
	}
	for name, w := range want.order {
		if !slices.Equal(got.order[name], w) {
			t.Errorf("directory %q lists %q, want %q", name, got.order[name], w)
		}
	}
	sameLines(t, "getfacl", want.acls, got.acls)
	// The kernel does not go into nested subvolumes with -xdev; one device
	// cannot be left.
	sameLines(t, "stat", want.stat, got.stat)
}

func inDir(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	return oracle.Run(t, "sh", append([]string{"-c", `cd "$0" && exec "$@"`, dir, name}, args...)...)
}

// sameLines reports lines of want that got lacks.
func sameLines(t *testing.T, what, want, got string) {
	t.Helper()
	have := map[string]bool{}
	for l := range strings.Lines(got) {
		have[l] = true
	}
	n := 0
	for l := range strings.Lines(want) {
		if n++; !have[l] {
			t.Errorf("%s: no line %q", what, l)
		}
	}
	if n < 10 {
		t.Errorf("%s: only %d lines to compare", what, n)
	}
}

func TestReadersInParallel(t *testing.T) {
	t.Parallel()
	img, want := plant(t, "noatime,compress=zstd")
	s := serve(t, "/", Options{}, img)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range want {
				e := &want[(i+worker*len(want)/8)%len(want)]
				if e.Has&manifest.SHA256 == 0 || e.Size > 64*mib {
					continue
				}
				b, err := os.ReadFile(filepath.Join(s.dir, e.Path))
				if err != nil {
					t.Error(err)
				} else if sha256.Sum256(b) != e.SHA256 {
					t.Errorf("%s has other contents", e.Path)
				}
			}
		})
	}
	wg.Wait()
}

// TestPositionsInADirectoryStayTrue goes back to every position that a
// listing gave.
func TestPositionsInADirectoryStayTrue(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	img := oracle.Mkfs(t, 256*mib)
	m := oracle.Mount(t, "", img)
	for i := range 3000 {
		if err := os.WriteFile(fmt.Sprintf("%s/%0*d", m.Dir, 1+i%200, i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m.Unmount()
	s := serve(t, "/", Options{}, img)
	fd, err := unix.Open(s.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	all := direntsFrom(t, fd, 0)
	if len(all) != 3002 {
		t.Fatalf("%d entries, want 3002", len(all))
	}
	for i := 0; i < len(all)-1; i += 97 {
		rest := direntsFrom(t, fd, all[i].off)
		if !slices.Equal(rest, all[i+1:]) {
			t.Fatalf("from position %d, behind %q, there are %d entries, want %d", all[i].off, all[i].name, len(rest), len(all)-i-1)
		}
	}
}

type dirent struct {
	off  int64
	name string
}

func direntsFrom(t *testing.T, fd int, off int64) (out []dirent) {
	t.Helper()
	if _, err := unix.Seek(fd, off, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return out
		}
		for b := buf[:n]; len(b) > 0; {
			d := (*unix.Dirent)(unsafe.Pointer(&b[0]))
			name := b[unsafe.Offsetof(d.Name):d.Reclen]
			out = append(out, dirent{d.Off, string(name[:bytes.IndexByte(name, 0)])})
			b = b[d.Reclen:]
		}
	}
}

func TestHandlesOutliveTheCaches(t *testing.T) {
	needFUSE(t)
	img := oracle.Mkfs(t, 256*mib)
	m := oracle.Mount(t, "", img)
	oracle.Run(t, "btrfs", "subvolume", "create", m.Dir+"/sub")
	names := []string{"file", "dir/deeper/file", "sub/file", "sub/dir/file"}
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(m.Dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.Dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m.Unmount()
	s := serve(t, "/", Options{}, img)
	handles := map[string]unix.FileHandle{}
	for _, name := range append(slices.Clone(names), "dir/deeper", "sub", "sub/dir", ".") {
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(s.dir, name), 0)
		if err != nil {
			t.Fatalf("name_to_handle_at %s: %v", name, err)
		}
		handles[name] = h
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI must be able to drop the kernel's caches: %v", err)
		}
		t.Skipf("cannot drop the kernel's caches: %v", err)
	}
	top, err := unix.Open(s.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(top)
	for name, h := range handles {
		fd, err := unix.OpenByHandleAt(top, h, unix.O_RDONLY)
		if err != nil {
			t.Errorf("open_by_handle_at %s: %v", name, err)
			continue
		}
		f := os.NewFile(uintptr(fd), name)
		if slices.Contains(names, name) {
			if b, err := io.ReadAll(f); err != nil || string(b) != name {
				t.Errorf("%s has contents %q, %v", name, b, err)
			}
		} else if path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil || path != filepath.Join(s.dir, name) {
			t.Errorf("%s is at %q, %v", name, path, err)
		}
		f.Close()
	}
}

func TestADamagedFileDoesNotSpoilTheRest(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	img := oracle.Mkfs(t, 256*mib, "-d", "single", "-m", "dup")
	m := oracle.Mount(t, "", img)
	bad, good := oracle.Noise(1, 300_000), oracle.Noise(2, 300_000)
	if err := errors.Join(os.Mkdir(m.Dir+"/dir", 0o755), os.WriteFile(m.Dir+"/dir/bad", bad, 0o644), os.WriteFile(m.Dir+"/dir/good", good, 0o644)); err != nil {
		t.Fatal(err)
	}
	m.Unmount()
	flip(t, img, bad[200_000:200_016])
	s := serve(t, "/", Options{}, img)
	if b, err := os.ReadFile(s.dir + "/dir/good"); err != nil || !bytes.Equal(b, good) {
		t.Errorf("the good file: %v", err)
	}
	f, err := os.Open(s.dir + "/dir/bad")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(io.Discard, f); !errors.Is(err, syscall.EIO) {
		t.Errorf("reading the damaged file: %v, want EIO", err)
	}
	const page = 4096
	for off := 0; off < len(bad); off += page {
		want := bad[off:min(off+page, len(bad))]
		got := make([]byte, len(want))
		_, err := f.ReadAt(got, int64(off))
		if off == 200_000/page*page {
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("the damaged page: %v, want EIO", err)
			}
		} else if err != nil || !bytes.Equal(got, want) {
			t.Errorf("the good page at %d: %v", off, err)
		}
	}
	text := s.log.String()
	if !strings.Contains(text, "path=/dir/bad") || strings.Contains(text, "/dir/good") {
		t.Errorf("the log says:\n%s", text)
	}
	if n := strings.Count(text, "path=/dir/bad"); n > 1 {
		t.Errorf("the log names the file %d times", n)
	}
}

// flip changes the one place in an image where these bytes are.
func flip(t *testing.T, img string, old []byte) {
	t.Helper()
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, old)
	if at < 0 || bytes.Contains(b[at+1:], old) {
		t.Fatal("the bytes are not there exactly once")
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{^old[0]}, int64(at)); err != nil {
		t.Fatal(err)
	}
}

func TestChangesAreRefused(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	img := oracle.Mkfs(t, 256*mib)
	m := oracle.Mount(t, "", img)
	if err := os.WriteFile(m.Dir+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	m.Unmount()
	s := serve(t, "/", Options{}, img)
	for name, err := range map[string]error{
		"create": os.WriteFile(s.dir+"/new", nil, 0o644),
		"mkdir":  os.Mkdir(s.dir+"/new", 0o755),
		"unlink": unix.Unlink(s.dir + "/file"),
		"chmod":  os.Chmod(s.dir+"/file", 0o600),
		"rename": os.Rename(s.dir+"/file", s.dir+"/other"),
		"xattr":  unix.Setxattr(s.dir+"/file", "user.a", []byte("b"), 0),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", name, err)
		}
	}
}

// TestStatfsTellsWhatCanBeWritten holds the available space against what the
// kernel can write until it says "no space", and the rest against what it says
// itself.
func TestStatfsTellsWhatCanBeWritten(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		devices int
		size    int64
		mkfs    []string
	}{
		{"single", 1, 600 * mib, nil},
		{"mixed", 1, 300 * mib, []string{"--mixed"}},
		{"dup data", 1, 600 * mib, []string{"-d", "dup"}},
		{"raid1 of three", 3, 400 * mib, []string{"-d", "raid1", "-m", "raid1"}},
		{"raid5 of three", 3, 400 * mib, []string{"-d", "raid5", "-m", "raid1"}},
		{"single of two", 2, 400 * mib, []string{"-d", "single", "-m", "raid1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			needFUSE(t)
			images := oracle.MkfsN(t, tc.devices, tc.size, tc.mkfs...)
			m := oracle.Mount(t, "", images...)
			if err := os.WriteFile(m.Dir+"/file", oracle.Noise(1, 20*mib), 0o644); err != nil {
				t.Fatal(err)
			}
			m.Sync()
			var want, got unix.Statfs_t
			if err := unix.Statfs(m.Dir, &want); err != nil {
				t.Fatal(err)
			}
			m.Unmount()
			s := serve(t, "/", Options{}, images...)
			if err := unix.Statfs(s.dir, &got); err != nil {
				t.Fatal(err)
			}
			if err := s.Unmount(); err != nil {
				t.Fatal(err)
			}
			m = oracle.Mount(t, "", images...)
			written := fill(t, m.Dir+"/fill")
			m.Unmount()
			near := func(what string, got, want uint64) {
				if off := int64(got) - int64(want); max(off, -off) > int64(want)/10 {
					t.Errorf("%s: %d MiB, want %d", what, got*4096/mib, want*4096/mib)
				}
			}
			near("available", got.Bavail, written/4096)
			if tc.name != "raid5 of three" { // of which the kernel does not take off the parity
				near("size", got.Blocks, want.Blocks)
				near("free", got.Bfree, want.Bfree)
			}
			if got.Bsize != want.Bsize || got.Namelen != want.Namelen || got.Files != want.Files {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

// fill writes a file until there is no space, and returns its length.
func fill(t *testing.T, path string) (n uint64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for piece := oracle.Noise(9, mib); ; {
		w, err := f.Write(piece)
		n += uint64(w)
		if errors.Is(err, syscall.ENOSPC) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestIoctlsAnswerAsTheKernel(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	img := oracle.Mkfs(t, 256*mib, "-L", "a label")
	m := oracle.Mount(t, "", img)
	oracle.Run(t, "btrfs", "subvolume", "create", m.Dir+"/sub")
	if err := os.MkdirAll(m.Dir+"/sub/dir/deeper", 0o755); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "btrfs", "subvolume", "snapshot", "-r", m.Dir+"/sub", m.Dir+"/snap")
	oracle.Run(t, "chattr", "+d", m.Dir+"/sub/dir")
	m.Unmount()

	type call struct {
		name string
		dir  string
		cmd  uint32
		in   []byte
		// skip are bytes that cannot be the same.
		skip [][2]int
	}
	word := func(n uint64) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(&n)), 8) }
	search := func(tree, minID, maxID uint64, items uint32) []byte {
		b := make([]byte, 104)
		copy(b, word(tree))
		copy(b[8:], word(minID))
		copy(b[16:], word(maxID))
		copy(b[32:], word(1<<64-1)) // offset
		copy(b[48:], word(1<<64-1)) // transaction
		copy(b[60:], word(255)[:4])
		copy(b[64:], word(uint64(items))[:4])
		return b
	}
	calls := []call{
		{name: "label", cmd: iocGetFSLabel},
		{name: "fs info", cmd: iocFSInfo, skip: [][2]int{{44, 80}}}, // filled in for those who ask
		{name: "dev info", cmd: iocDevInfo, in: word(1), skip: [][2]int{{40, 56}, {4096 - 1024, 4096}}},
		{name: "device statistics", cmd: iocGetDevStats, in: slices.Concat(word(1), word(5))},
		{name: "some device statistics", cmd: iocGetDevStats, in: slices.Concat(word(1), word(2))},
		{name: "features", cmd: iocGetFeatures},
		{name: "subvolume flags", dir: "snap", cmd: iocSubvolFlags},
		{name: "subvolume flags", dir: "sub", cmd: iocSubvolFlags},
		{name: "subvolume info", dir: "snap", cmd: iocSubvolInfo},
		{name: "subvolume info", dir: "sub", cmd: iocSubvolInfo},
		{name: "subvolume info", cmd: iocSubvolInfo},
		{name: "subvolume of a directory", dir: "sub/dir", cmd: iocInoLookup, in: slices.Concat(word(0), word(256))},
		{name: "path of an inode", dir: "sub", cmd: iocInoLookup, in: slices.Concat(word(0), word(258)), skip: [][2]int{{40, 4096}}},
		{name: "flags", dir: "sub/dir", cmd: unix.FS_IOC_GETFLAGS},
		{name: "xflags", dir: "sub/dir", cmd: iocFSGetXattr},
		{name: "search own tree", dir: "sub", cmd: iocTreeSearch, in: search(0, 0, 1<<64-1, 1000)},
		{name: "search root tree", cmd: iocTreeSearch, in: search(1, 256, 300, 5)},
		{name: "search chunk tree", cmd: iocTreeSearch, in: search(3, 0, 1<<64-1, 1<<32-1)},
	}
	ask := func(top string, c call) []byte {
		f, err := os.Open(filepath.Join(top, c.dir))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		buf := make([]byte, c.cmd>>16&0x3fff)
		copy(buf, c.in)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(c.cmd), uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
			t.Fatalf("%s in %s: %v", c.name, top, errno)
		}
		for _, s := range c.skip {
			clear(buf[s[0]:s[1]])
		}
		return buf
	}
	m = oracle.Mount(t, "ro", img)
	var want [][]byte
	for _, c := range calls {
		want = append(want, ask(m.Dir, c))
	}
	m.Unmount()
	s := serve(t, "/", Options{}, img)
	for i, c := range calls {
		if got := ask(s.dir, c); !bytes.Equal(got, want[i]) {
			at := 0
			for got[at] == want[i][at] {
				at++
			}
			end := min(at+32, len(got))
			t.Errorf("%s of %q differs at byte %d: %x, the kernel says %x", c.name, c.dir, at, got[at:end], want[i][at:end])
		}
	}
	f, err := os.Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x9407, 0); errno != unix.ENOTTY {
		t.Errorf("an ioctl that changes something: %v, want ENOTTY", errno)
	}
}
