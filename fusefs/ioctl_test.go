//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

// ioctlOn makes an ioctl on a file or directory.
func ioctlOn(t *testing.T, path string, cmd uint32, data []byte) error {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, cmd>>16&0x3fff)
	copy(buf, data)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(cmd), uintptr(unsafe.Pointer(&buf[0])))
	copy(data, buf)
	if errno != 0 {
		return errno
	}
	return nil
}

// volumeArgs fills both structures for subvolumes; source is the path of a
// descriptor that goes along, "" for none. It is then among open.
func volumeArgs(t *testing.T, open *[]*os.File, source string, second bool, flags uint64, name string) []byte {
	b := make([]byte, 4096)
	fd := -1
	if source != "" {
		f, err := os.Open(source)
		if err != nil {
			t.Fatal(err)
		}
		*open = append(*open, f)
		fd = int(f.Fd())
	}
	binary.NativeEndian.PutUint64(b, uint64(fd))
	if !second {
		copy(b[volNameOff:], name)
		return b
	}
	binary.NativeEndian.PutUint64(b[volFlagsOff:], flags)
	copy(b[volName2Off:], name)
	return b
}

// TestIoctlsChangeWhatTheKernelChanges makes the same calls on a mount and on
// the kernel's mount of another filesystem. Errors and what is then there must
// be the same.
func TestIoctlsChangeWhatTheKernelChanges(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	type call struct {
		name string
		dir  string // below the mount
		cmd  uint32
		args func(top string) []byte
	}
	var open []*os.File
	vol := func(source string, second bool, flags uint64, name string) func(string) []byte {
		return func(top string) []byte {
			if source != "" && !filepath.IsAbs(source) {
				return volumeArgs(t, &open, filepath.Join(top, source), second, flags, name)
			}
			return volumeArgs(t, &open, source, second, flags, name)
		}
	}
	xattr := func(flags, extSize, project uint32) func(string) []byte {
		return func(string) []byte {
			b := make([]byte, 28)
			binary.NativeEndian.PutUint32(b, flags)
			binary.NativeEndian.PutUint32(b[4:], extSize)
			binary.NativeEndian.PutUint32(b[12:], project)
			return b
		}
	}
	label := func(s string) func(string) []byte { return func(string) []byte { return []byte(s) } }
	byID := func(id uint64) func(string) []byte {
		return func(string) []byte {
			b := volumeArgs(t, &open, "", true, volByID, "")
			binary.NativeEndian.PutUint64(b[volName2Off:], id)
			return b
		}
	}
	trim := func(start, length uint64) func(string) []byte {
		return func(string) []byte {
			b := make([]byte, 24)
			binary.NativeEndian.PutUint64(b, start)
			binary.NativeEndian.PutUint64(b[8:], length)
			return b
		}
	}
	const noAtime, appendOnly, immutable = 0x40, 0x10, 0x8
	calls := []call{
		{"create", "", iocSubvolCreate, vol("", false, 0, "one")},
		{"create what is there", "", iocSubvolCreate, vol("", false, 0, "one")},
		{"create, second form", "one", iocSubvolCreate2, vol("", true, 0, "inner")},
		{"snapshot", "", iocSnapCreate, vol("one", false, 0, "snap1")},
		{"snapshot, second form", "", iocSnapCreate2, vol("one", true, 0, "snap2")},
		{"read-only snapshot", "", iocSnapCreate2, vol("one", true, volReadOnly, "snap3")},
		{"snapshot of the top", "", iocSnapCreate2, vol(".", true, volReadOnly, "snap4")},
		{"snapshot of a directory", "", iocSnapCreate, vol("d", false, 0, "snap5")},
		{"snapshot of another filesystem", "", iocSnapCreate, vol("/proc/self", false, 0, "snap5")},
		{"snapshot of nothing", "", iocSnapCreate, vol("", false, 0, "snap5")},
		{"destroy", "", iocSnapDestroy, vol("", false, 0, "snap1")},
		{"destroy what is none", "", iocSnapDestroy, vol("", false, 0, "nothing")},
		{"destroy, second form", "", iocSnapDestroy2, vol("", true, 0, "snap2")},
		{"destroy by number", "", iocSnapDestroy2, byID(257)},
		{"destroy a number that is none", "", iocSnapDestroy2, byID(999)},
		{"xflags", "d", iocFSSetXattr, xattr(noAtime, 0, 0)},
		{"more xflags", "f", iocFSSetXattr, xattr(noAtime|appendOnly, 0, 0)},
		{"an extent size", "f", iocFSSetXattr, xattr(0, 4096, 0)},
		{"a project", "f", iocFSSetXattr, xattr(0, 0, 5)},
		{"other xflags", "f", iocFSSetXattr, xattr(immutable, 0, 0)},
		{"trim of nothing", "", iocTrim, trim(0, 0)},
		{"trim of less than a sector", "", iocTrim, trim(0, 4095)},
		{"trim of a sector", "", iocTrim, trim(0, 4096)},
		{"trim behind the end", "", iocTrim, trim(1<<40, 1<<20)},
		{"trim behind the end, all", "", iocTrim, trim(1<<40, 1<<64-1)},
		{"trim of a range that overflows", "", iocTrim, trim(1<<63, 1<<63+1)},
		{"trim that ends at the last address", "", iocTrim, trim(1<<64-8192, 8191)},
		{"trim of the last address but one", "", iocTrim, trim(1<<64-2, 1<<64-1)},
		{"trim of the last address", "", iocTrim, trim(1<<64-1, 1<<64-1)},
		{"a label", "", iocSetFSLabel, label("from an ioctl")},
	}
	run := func(top string) (errs []error) {
		if err := errors.Join(os.Mkdir(top+"/d", 0o755), os.WriteFile(top+"/f", []byte("f"), 0o644)); err != nil {
			t.Fatal(err)
		}
		for _, flags := range []string{"+dA", "-d", "+S", "+c", "-c"} {
			oracle.Run(t, "chattr", flags, top+"/d", top+"/f")
		}
		for _, c := range calls {
			errs = append(errs, ioctlOn(t, filepath.Join(top, c.dir), c.cmd, c.args(top)))
		}
		for _, f := range open {
			f.Close()
		}
		open = nil
		return errs
	}
	ours, theirs := oracle.Mkfs(t, 256*mib), oracle.Mkfs(t, 256*mib)
	k := oracle.Mount(t, "", theirs)
	want := run(k.Dir)
	wantLabel := make([]byte, 256)
	if err := ioctlOn(t, k.Dir, iocGetFSLabel, wantLabel); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "chattr", "-i", k.Dir+"/f")
	wantEntries := oracle.HostManifest(t, k.Dir, oracle.HostOptions{})
	s := serveWritable(t, Options{}, ours)
	got := run(s.dir)
	gotLabel := make([]byte, 256)
	if err := ioctlOn(t, s.dir, iocGetFSLabel, gotLabel); err != nil {
		t.Fatal(err)
	}
	for i, c := range calls {
		if got[i] != want[i] {
			t.Errorf("%s: %v, the kernel says %v", c.name, got[i], want[i])
		}
	}
	if string(gotLabel) != string(wantLabel) {
		t.Errorf("label %q, the kernel has %q", gotLabel, wantLabel)
	}
	oracle.Run(t, "chattr", "-i", s.dir+"/f")
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	oracle.Check(t, ours)
	m := oracle.Mount(t, "", ours)
	const times = manifest.Mtime | manifest.Ctime | manifest.Btime
	oracle.RequireSame(t, wantEntries, oracle.HostManifest(t, m.Dir, oracle.HostOptions{}), manifest.All&^times)
}

// TestFlagsChangeCtime: both ioctls that set flags change ctime, also of a file
// whose attributes the kernel remembers.
func TestFlagsChangeCtime(t *testing.T) {
	t.Parallel()
	s := serveWritable(t, Options{}, oracle.Mkfs(t, 256*mib))
	path := s.dir + "/f"
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctime := func() time.Time {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return time.Unix(st.Ctim.Unix())
	}
	noAtime := binary.NativeEndian.AppendUint32(nil, 0x40) // FS_XFLAG_NOATIME
	for _, set := range []struct {
		name string
		call func()
	}{
		{"FSSETXATTR", func() {
			if err := ioctlOn(t, path, iocFSSetXattr, noAtime); err != nil {
				t.Fatal(err)
			}
		}},
		{"SETFLAGS", func() { oracle.Run(t, "chattr", "-A", path) }},
	} {
		before := ctime()
		set.call()
		if now := ctime(); !now.After(before) {
			t.Errorf("%s: ctime %v, before it %v", set.name, now, before)
		}
	}
}

// TestTrim: FITRIM makes an image sparse where a removed file was.
func TestTrim(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	image := oracle.Mkfs(t, 512*mib)
	size := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(image, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	s := serveWritable(t, Options{}, image)
	if err := os.WriteFile(s.dir+"/f", oracle.Noise(1, 64*mib), 0o644); err != nil {
		t.Fatal(err)
	}
	full := make([]byte, 24)
	binary.NativeEndian.PutUint64(full[8:], 1<<64-1)
	trim := func() uint64 {
		data := append([]byte(nil), full...)
		if err := ioctlOn(t, s.dir, iocTrim, data); err != nil {
			t.Fatal(err)
		}
		return binary.NativeEndian.Uint64(data[8:])
	}
	trim()
	before := size()
	if err := os.Remove(s.dir + "/f"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); before-size() < 60*mib; time.Sleep(20 * time.Millisecond) {
		if n := trim(); n == 0 || time.Now().After(end) {
			t.Fatalf("%d bytes discarded; the image has %d bytes, %d before", n, size(), before)
		}
	}
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	oracle.Check(t, image)
}
