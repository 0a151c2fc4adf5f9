//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

// serveWritable mounts an image for writing until the test ends, then lets
// btrfs check and the kernel judge what is left.
func serveWritable(t testing.TB, o Options, image string) *served {
	t.Helper()
	needFUSE(t)
	fsys, err := btrfs.Open(t.Context(), image, btrfs.Options{Writable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() }) // after the unmount
	top, err := fsys.TopLevel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &served{dir: t.TempDir(), log: &lockedBuffer{}}
	o.Direct, o.AllowOther, o.Suid, o.Dev, o.Log = true, true, true, true, slog.New(slog.NewTextHandler(s.log, nil))
	if s.Server, err = Mount(context.WithoutCancel(t.Context()), top, s.dir, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
			Unmount(s.dir, true, true)
		}
		if err := s.Err(); err != nil {
			t.Errorf("the last commit: %v", err)
		}
	})
	if err := s.fuse.WaitMount(); err != nil { // see serve
		t.Fatal(err)
	}
	return s
}

// TestPosix runs go-fuse's conformance tests, each on a mount of its own. Not
// beside others: they open files that programs which others start inherit.
func TestPosix(t *testing.T) {
	needFUSE(t)
	for name, test := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			continue // wants a process's lock to be in the way of its own next one: no local filesystem does that
		}
		t.Run(name, func(t *testing.T) {
			image := oracle.Mkfs(t, 256*mib)
			t.Cleanup(func() { oracle.Check(t, image) }) // when all is unmounted
			s := serveWritable(t, Options{}, image)
			test(t, s.dir)
		})
	}
}

// TestWhatIsWrittenIsWhatLinuxReads makes every kind of file on a mount and on
// the kernel's mount of another filesystem: the two must then be the same, and
// the kernel must show of ours what we showed.
func TestWhatIsWrittenIsWhatLinuxReads(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	ours, theirs := oracle.Mkfs(t, 1024*mib), oracle.Mkfs(t, 1024*mib)
	s := serveWritable(t, Options{}, ours)
	populate(t, s.dir)
	shown := oracle.HostManifest(t, s.dir, oracle.HostOptions{})
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	oracle.CheckWith(t, oracle.CheckOptions{Data: true}, ours)
	m := oracle.Mount(t, "", ours)
	got := oracle.HostManifest(t, m.Dir, oracle.HostOptions{})
	oracle.Scrub(t, m.Dir)
	m.Unmount()
	oracle.RequireSame(t, got, shown, manifest.All&^manifest.Subvol)

	k := oracle.Mount(t, "noatime", theirs)
	populate(t, k.Dir)
	want := oracle.HostManifest(t, k.Dir, oracle.HostOptions{})
	k.Unmount()
	const times = manifest.Mtime | manifest.Ctime | manifest.Btime
	oracle.RequireSame(t, want, got, manifest.All&^times)
}

// populate makes files of every kind and changes them in every way.
func populate(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	ok := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	ok(os.Mkdir(at("d"), 0o750), os.MkdirAll(at("d/sub/deep"), 0o755), os.Mkdir(at("sticky"), 0o777), os.Chmod(at("sticky"), 0o1777|os.ModeSticky))
	for i, size := range []int{0, 1, 100, 2047, 2048, 2049, 4096, 5000, 131072, 3 * mib} {
		ok(os.WriteFile(at("d/"+string(rune('a'+i))), oracle.Noise(uint64(i), size), 0o644))
	}
	ok(os.Symlink("d/a", at("link")), os.Link(at("d/b"), at("hard")), os.Rename(at("d/c"), at("d/sub/moved")))
	ok(os.Rename(at("d/d"), at("d/sub/moved"))) // over another
	ok(unix.Mknod(at("fifo"), unix.S_IFIFO|0o600, 0), unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	ok(unix.Renameat2(unix.AT_FDCWD, at("d/sub/moved"), unix.AT_FDCWD, at("link"), unix.RENAME_EXCHANGE))
	ok(os.Remove(at("d/f")), os.Chown(at("hard"), 1000, 1001), os.Chmod(at("d/g"), 0o4711|os.ModeSetuid))
	ok(unix.Setxattr(at("d/sub"), "user.name", []byte("value"), 0), unix.Setxattr(at("d/h"), "trusted.x", nil, 0))
	ok(os.Truncate(at("d/i"), 70_000), os.Truncate(at("d/a"), 1<<20))

	f, err := os.OpenFile(at("holes"), os.O_RDWR|os.O_CREATE, 0o600)
	ok(err)
	defer f.Close()
	_, err = f.WriteAt(oracle.Noise(9, mib), 2*mib)
	ok(err)
	ok(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 2*mib+5000, 100_000))
	ok(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, 2*mib+500_000, 64<<10), unix.Fallocate(int(f.Fd()), 0, 0, 4*mib))
	tmp, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	ok(err)
	defer unix.Close(tmp)
	_, err = unix.Write(tmp, []byte("had no name"))
	ok(err)
	ok(unix.Linkat(tmp, "", unix.AT_FDCWD, at("named"), unix.AT_EMPTY_PATH))
}

// TestRemovedFilesLiveUntilTheyAreClosed uses files after their last name has
// gone, and looks for their space after they are closed.
func TestRemovedFilesLiveUntilTheyAreClosed(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	image := oracle.Mkfs(t, 256*mib)
	t.Cleanup(func() { oracle.Check(t, image) })
	s := serveWritable(t, Options{}, image)
	want := oracle.Noise(1, 20*mib)
	name := s.dir + "/file"
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(want[:10*mib]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.dir+"/other", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(s.dir+"/other", name), f.Sync()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(want[10*mib:]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		t.Log("the page cache answers:", err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a removed file has other contents, %v", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink != 0 || st.Size != int64(len(want)) {
		t.Errorf("a removed file: %+v, %v", st, err)
	}
	// A directory, too: nothing can be made in it any more.
	if err := os.Mkdir(s.dir+"/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(s.dir + "/dir")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.Remove(s.dir + "/dir"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkdirat(int(d.Fd()), "x", 0o755); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("mkdir in a removed directory: %v, want ENOENT", err)
	}
	if err := unix.Fstat(int(d.Fd()), &st); err != nil || st.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("a removed directory: %+v, %v", st, err)
	}
}

// TestSyncMakesDurable copies the image of a mount, as a power cut would leave
// it: what was synced is there.

func TestSyncMakesDurable(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	image := oracle.Mkfs(t, 256*mib)
	s := serveWritable(t, Options{}, image)
	f, err := os.Create(s.dir + "/synced")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := oracle.Noise(1, 300_000)
	if _, err := f.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.dir+"/later", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	crashed := oracle.CopyUnclean(t, image)
	oracle.Check(t, crashed)
	m := oracle.Mount(t, "ro", crashed)
	defer m.Unmount()
	if got, err := os.ReadFile(m.Dir + "/synced"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was synced: %d bytes, %v", len(got), err)
	}
}

// TestListingsAreStableUnderChange removes and adds names while a directory is
// listed: those that stay are listed once.
func TestListingsAreStableUnderChange(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	s := serveWritable(t, Options{}, oracle.Mkfs(t, 256*mib))
	name := func(i int) string { return filepath.Join(s.dir, "file-"+string(rune('a'+i%26))+string(rune('a'+i/26))) }
	const n = 600
	for i := range n {
		if err := os.WriteFile(name(i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d, err := os.Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var seen []string
	for i := 0; ; i++ {
		names, err := d.Readdirnames(10)
		seen = append(seen, names...)
		if err != nil {
			break
		}
		if i < n/10 { // a name of each ten goes, and one comes
			if err := errors.Join(os.Remove(name(i*10)), os.WriteFile(name(i*10)+"-new", nil, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Sort(seen)
	if len(slices.Compact(slices.Clone(seen))) != len(seen) {
		t.Error("a name is listed twice")
	}
	for i := range n {
		if _, ok := slices.BinarySearch(seen, filepath.Base(name(i))); !ok && i%10 != 0 {
			t.Errorf("%s is not listed", filepath.Base(name(i)))
		}
	}
}

// TestCopiesShareTheirExtents copies with copy_file_range(2), as cp(1) does: it
// takes no space, and what is not whole sectors arrives as well.
func TestCopiesShareTheirExtents(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	image := oracle.Mkfs(t, 256*mib)
	t.Cleanup(func() { oracle.CheckWith(t, oracle.CheckOptions{Data: true}, image) })
	s := serveWritable(t, Options{}, image)
	want := oracle.Noise(1, 60*mib+1234)
	if err := os.WriteFile(s.dir+"/from", want, 0o644); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "sync", s.dir+"/from")
	var before, after unix.Statfs_t
	if err := unix.Statfs(s.dir, &before); err != nil {
		t.Fatal(err)
	}
	for i := range 5 { // 300 MiB would not fit
		oracle.Run(t, "cp", s.dir+"/from", fmt.Sprintf("%s/to-%d", s.dir, i))
	}
	oracle.Run(t, "sync", s.dir+"/from")
	if err := unix.Statfs(s.dir, &after); err != nil {
		t.Fatal(err)
	}
	if used := int64(before.Bfree-after.Bfree) * int64(after.Bsize); used > 5*mib {
		t.Errorf("five copies take %d bytes", used)
	}
	for i := range 5 {
		if got, err := os.ReadFile(fmt.Sprintf("%s/to-%d", s.dir, i)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("copy %d: %d bytes, %v", i, len(got), err)
		}
	}
	// Parts that no extent can be cut for.
	from, err := os.Open(s.dir + "/from")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(s.dir+"/to-0", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	for _, c := range []struct{ in, out, n int64 }{{4096, 8192, 5000}, {100, 200, 70_000}, {0, mib, 3 * mib}} {
		in, out := c.in, c.out
		for left := c.n; left > 0; {
			n, err := unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), &out, int(left), 0)
			if err != nil || n == 0 {
				t.Fatalf("copy_file_range: %d, %v", n, err)
			}
			left -= int64(n)
		}
		got := make([]byte, c.n)
		if _, err := to.ReadAt(got, c.out); err != nil || !bytes.Equal(got, want[c.in:c.in+c.n]) {
			t.Errorf("%d bytes from %d to %d are others, %v", c.n, c.in, c.out, err)
		}
	}
}

// TestWritersLosePrivileges has an ordinary user write to a set-uid file, also
// directly, and set an ACL on a set-gid file of a group that is not theirs.
func TestWritersLosePrivileges(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	s := serveWritable(t, Options{}, oracle.Mkfs(t, 256*mib))
	const nobody = 65534
	asNobody := []string{"--reuid=65534", "--regid=65534", "--clear-groups"}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(s.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"buffered": {"dd", "if=/dev/zero", "bs=4096", "count=1", "conv=notrunc", "status=none", "of="},
		"direct":   {"dd", "if=/dev/zero", "bs=4096", "count=1", "conv=notrunc", "oflag=direct", "status=none", "of="},
		"truncate": {"truncate", "-s", "0", ""},
		"allocate": {"fallocate", "-l", "8192", ""},
		"zero":     {"fallocate", "-z", "-l", "4096", ""},
		"punch":    {"fallocate", "-p", "-l", "4096", ""},
		"sgid":     {"fallocate", "-l", "8192", ""},
		"acl":      {"setfacl", "-m", "u:0:rwx", ""},
	} {
		path := filepath.Join(s.dir, name)
		mode, want := uint32(0o6777), uint32(0o777)
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if name == "acl" {
			if err := os.Chown(path, nobody, 0); err != nil {
				t.Fatal(err)
			}
			mode = 0o2777
		}
		if name == "sgid" { // which the group cannot run
			mode, want = 0o2666, 0o666
		}
		if err := unix.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		args[len(args)-1] += path
		oracle.Run(t, "setpriv", append(slices.Clone(asNobody), args...)...)
		// As stat(1) asks: for the mode alone, which the kernel may know.
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MODE, &st); err != nil || uint32(st.Mode)&0o7777 != want {
			t.Errorf("%s: mode %o, %v, want %o", name, st.Mode&0o7777, err, want)
		}
	}
}

// TestHolesAndDataThatIsNotWrittenYet looks for holes from every sector of a
// preallocated file in whose middle something was just written.
func TestHolesAndDataThatIsNotWrittenYet(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	s := serveWritable(t, Options{}, oracle.Mkfs(t, 256*mib))
	f, err := os.Create(s.dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const from, to, size = 172032, 229376, mib
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(oracle.Noise(1, to-from), from); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < size; off += 4096 {
		wantHole, wantData := off, max(off, from)
		if off >= from && off < to {
			wantHole = to
		}
		hole, err := unix.Seek(int(f.Fd()), off, unix.SEEK_HOLE)
		if err != nil || hole != wantHole {
			t.Errorf("hole behind %d at %d, %v, want %d", off, hole, err, wantHole)
		}
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if off >= to {
			if !errors.Is(err, syscall.ENXIO) {
				t.Errorf("data behind %d at %d, %v, want none", off, data, err)
			}
		} else if err != nil || data != wantData {
			t.Errorf("data behind %d at %d, %v, want %d", off, data, err, wantData)
		}
	}
}

// TestBlocksOfContentsThatWait: what is written over what is there, or into
// what was preallocated, takes no further space, whether it waits or not.
func TestBlocksOfContentsThatWait(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	const sector = 4096
	image := oracle.Mkfs(t, 256*mib)
	s := serveWritable(t, Options{}, image)
	f, err := os.Create(s.dir + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512 / sector
	}
	for _, step := range []struct {
		name string
		do   func() error
		want int64
	}{
		{"preallocate across a border", func() error { return unix.Fallocate(int(f.Fd()), 0, sector-1, 2) }, 2},
		{"write there", func() error { _, err := f.WriteAt([]byte("ab"), sector-1); return err }, 2},
		{"write behind a hole", func() error { _, err := f.WriteAt(make([]byte, sector), 4*sector); return err }, 3},
		{"write over all", func() error { _, err := f.WriteAt(make([]byte, 6*sector), 0); return err }, 6},
		{"sync", f.Sync, 6},
		{"write over it again", func() error { _, err := f.WriteAt(make([]byte, 2*sector), sector/2); return err }, 6},
	} {
		if err := step.do(); err != nil {
			t.Fatal(step.name, err)
		}
		if got := blocks(); got != step.want {
			t.Errorf("%s: %d sectors, want %d", step.name, got, step.want)
		}
	}
	f.Close()
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	oracle.Check(t, image)
}

// TestRemovedFilesAreFreeSpace: df after rm shows what the file had.
func TestRemovedFilesAreFreeSpace(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	s := serveWritable(t, Options{}, oracle.Mkfs(t, 512*mib))
	available := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(s.dir, &st); err != nil {
			t.Fatal(err)
		}
		return st.Bavail * uint64(st.Bsize)
	}
	before := available()
	const size = 100 * mib
	if err := os.WriteFile(s.dir+"/f", make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := available(); got > before-size {
		t.Errorf("%d bytes are available with the file, %d without", got, before)
	}
	if err := os.Remove(s.dir + "/f"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); available() < before-mib; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes are available after the removal, %d before", available(), before)
		}
	}
}
