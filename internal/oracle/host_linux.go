//go:build !386 && !arm && !mips && !mipsle

package oracle

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
)

// HostManifest lists a directory tree through the running kernel: statx,
// readlink, listxattr, FS_IOC_GETFLAGS and the contents. What only btrfs has
// (subvol, stubs) appears where the tree is on a btrfs. Access times are left
// alone, so that looking does not change a writable filesystem.
func HostManifest(t testing.TB, dir string, o HostOptions) []manifest.Entry {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	w := hostWalker{o: o, btrfs: fs.Type == unix.BTRFS_SUPER_MAGIC}
	if err := w.visit(dir, ""); err != nil {
		t.Fatalf("list %s: %v", dir, err)
	}
	return w.entries
}

type hostWalker struct {
	o       HostOptions
	btrfs   bool
	entries []manifest.Entry
}

const stubIno = 2 // what btrfs calls the empty-subvolume directory object

// visit adds the entry that the host knows as file, and all below it.
func (w *hostWalker) visit(file, path string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, file, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return fmt.Errorf("statx %s: %w", path, err)
	}
	if w.btrfs && st.Ino == stubIno && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		w.entries = append(w.entries, manifest.NewStub(path))
		return nil
	}
	e := statEntry(path, &st)
	if err := w.fill(&e, file); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	w.entries = append(w.entries, e)
	if e.Type != 'd' {
		return nil
	}
	return w.children(file, path)
}

// children visits a directory's entries by way of its descriptor, so that the
// depth of a tree is not limited by the length of a path.
func (w *hostWalker) children(file, path string) error {
	d, err := os.OpenFile(file, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		sub := name
		if path != "" {
			sub = path + "/" + name
		}
		if err := w.visit(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name), sub); err != nil {
			return err
		}
	}
	return nil
}

func statEntry(path string, st *unix.Statx_t) manifest.Entry {
	e := manifest.Entry{
		Has: manifest.Path | manifest.TypeField | manifest.Mode | manifest.UID | manifest.GID | manifest.Size | manifest.Nlink |
			manifest.Mtime | manifest.Ctime | manifest.Ino,
		Path: path, Mode: uint32(st.Mode) & 0o7777, UID: st.Uid, GID: st.Gid, Size: int64(st.Size), Nlink: st.Nlink,
		Mtime: hostTime(st.Mtime), Ctime: hostTime(st.Ctime), Ino: st.Ino,
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		e.Has |= manifest.Btime
		e.Btime = hostTime(st.Btime)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type = 'f'
	case unix.S_IFDIR:
		e.Type = 'd'
	case unix.S_IFLNK:
		e.Type = 'l'
	case unix.S_IFIFO:
		e.Type = 'p'
	case unix.S_IFSOCK:
		e.Type = 's'
	case unix.S_IFCHR:
		e.Type = 'c'
	case unix.S_IFBLK:
		e.Type = 'b'
	}
	if e.Type == 'c' || e.Type == 'b' {
		e.Has |= manifest.Rdev
		e.RdevMajor, e.RdevMinor = st.Rdev_major, st.Rdev_minor
	}
	return e
}

func hostTime(t unix.StatxTimestamp) disk.Time { return disk.Time{Sec: t.Sec, Nsec: t.Nsec} }

// fill adds what statx does not say.
func (w *hostWalker) fill(e *manifest.Entry, file string) (err error) {
	if e.Xattrs, err = hostXattrs(file); err != nil {
		return err
	}
	if len(e.Xattrs) > 0 {
		e.Has |= manifest.Xattrs
	}
	if e.Type == 'l' {
		e.Has |= manifest.Target
		e.Target, err = os.Readlink(file)
		return err
	}
	if e.Type != 'f' && e.Type != 'd' {
		return nil
	}
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil && !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("get flags: %w", err)
	}
	if e.Flags = flags; flags != 0 {
		e.Has |= manifest.Flags
	}
	if e.Type == 'd' && w.btrfs && e.Ino == uint64(disk.FirstFreeObjectID) {
		e.Has |= manifest.Subvol
		e.Subvol, err = hostSubvol(f)
		return err
	}
	if e.Type == 'f' && !w.o.NoContents {
		return hashContents(e, f)
	}
	return nil
}

func hashContents(e *manifest.Entry, f *os.File) error {
	h := sha256.New()
	_, err := io.Copy(h, f)
	if errors.Is(err, unix.EIO) {
		e.Has |= manifest.ReadError
		e.ReadError = "EIO"
		return nil
	}
	if err != nil {
		return err
	}
	e.Has |= manifest.SHA256
	h.Sum(e.SHA256[:0])
	return nil
}

func hostXattrs(file string) (map[string][]byte, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(file, buf)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("llistxattr: %w", err)
	}
	attrs := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		val := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(file, name, val)
		if err != nil {
			return nil, fmt.Errorf("lgetxattr %s: %w", name, err)
		}
		attrs[name] = val[:n:n]
	}
	return attrs, nil
}

// iocInoLookup is BTRFS_IOC_INO_LOOKUP: with tree 0 it answers with the id of
// the tree that the descriptor is in.
const iocInoLookup = 0xd0009412

func hostSubvol(dir *os.File) (disk.ObjectID, error) {
	var arg [4096]byte
	binary.NativeEndian.PutUint64(arg[8:], uint64(disk.FirstFreeObjectID))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), iocInoLookup, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return 0, os.NewSyscallError("ino_lookup", errno)
	}
	return disk.ObjectID(binary.NativeEndian.Uint64(arg[:])), nil
}

// DataRanges returns where a host file has data, by SEEK_DATA and SEEK_HOLE.
func DataRanges(t testing.TB, file string) []Range {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []Range
	for pos := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return out
		}
		if err != nil {
			t.Fatalf("SEEK_DATA in %s: %v", file, err)
		}
		if pos, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
			t.Fatalf("SEEK_HOLE in %s: %v", file, err)
		}
		out = append(out, Range{start, pos})
	}
}
