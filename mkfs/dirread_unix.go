//go:build linux || darwin || freebsd

package mkfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gobtrfs/disk"
)

// maxPath is how long a path one call gets; longer ones are walked in pieces.
const maxPath = 1000

// retry calls fn again while a signal interrupts it.
func retry(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}

// openUnder opens rel below root. Paths longer than the system takes are walked.
func openUnder(root, rel string, flags int) (fd int, err error) {
	full := filepath.Join(root, rel)
	if len(full) <= maxPath {
		err = retry(func() error { fd, err = unix.Open(full, flags|unix.O_CLOEXEC, 0); return err })
		return fd, pathError("open", full, err)
	}
	const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	err = retry(func() error { fd, err = unix.Open(root, dirFlags, 0); return err })
	if err != nil {
		return -1, pathError("open", root, err)
	}
	parts := strings.Split(rel, "/")
	for i, part := range parts {
		next, fl := 0, dirFlags
		if i == len(parts)-1 {
			fl = flags | unix.O_CLOEXEC
		}
		err = retry(func() error { next, err = unix.Openat(fd, part, fl, 0); return err })
		unix.Close(fd) //nolint:errcheck // opened for reading
		if err != nil {
			return -1, pathError("open", full, err)
		}
		fd = next
	}
	return fd, nil
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// statTop describes the directory that is the source; a symbolic link to it is
// followed.
func statTop(root string) (found, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Stat(root, &st) }); err != nil {
		return found{}, pathError("stat", root, err)
	}
	e := fromStat(&st)
	xs, err := pathXattrs(root, unix.Listxattr, unix.Getxattr)
	e.xattrs = xs
	return e, pathError("listxattr", root, err)
}

// readDir lists and describes a directory's entries.
func readDir(root, rel string, m *mapping) ([]found, error) {
	fd, err := openUnder(root, rel, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if rel == "" {
		fd, err = openUnder(root, rel, unix.O_RDONLY|unix.O_DIRECTORY)
	}
	if err != nil {
		return nil, err
	}
	full := filepath.Join(root, rel)
	dir := os.NewFile(uintptr(fd), full)
	defer dir.Close() //nolint:errcheck // opened for reading
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	out := make([]found, 0, len(names))
	for _, name := range names {
		if m.excluded(joinRel(rel, name)) {
			continue
		}
		e, err := describeAt(fd, full, name)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// describeAt describes one entry of the directory fd, contents excepted.
func describeAt(fd int, dir, name string) (found, error) {
	full := dir + "/" + name
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return found{}, pathError("stat", full, err)
	}
	e := fromStat(&st)
	e.name = name
	switch e.i.mode & modeType {
	case modeRegular:
		if e.i.size > 0 {
			return e, nil // the attributes follow when it is open
		}
	case modeSymlink:
		target, err := readlinkAt(fd, name)
		if err != nil {
			return found{}, pathError("readlink", full, err)
		}
		e.target = target
	}
	where := full
	if len(full) > maxPath {
		where = fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
	}
	xs, err := pathXattrs(where, unix.Llistxattr, unix.Lgetxattr)
	if err != nil {
		return found{}, pathError("listxattr", full, err)
	}
	e.xattrs = xs
	return e, nil
}

func readlinkAt(fd int, name string) (string, error) {
	for size := 256; ; size *= 2 {
		b := make([]byte, size)
		n := 0
		err := retry(func() (err error) { n, err = unix.Readlinkat(fd, name, b); return err })
		if err != nil {
			return "", err
		}
		if n < size {
			return string(b[:n]), nil
		}
	}
}

func fromStat(st *unix.Stat_t) found {
	at := func(t unix.Timespec) disk.Time { return disk.Time{Sec: int64(t.Sec), Nsec: uint32(t.Nsec)} } //nolint:unconvert // 32 bits on some systems
	m := at(st.Mtim)
	e := found{
		i: inode{
			mode: uint32(st.Mode), uid: st.Uid, gid: st.Gid, size: st.Size, sec: m.Sec, nsec: m.Nsec, //nolint:unconvert // 16 bits on some systems
			handle: uint64(st.Ino),
		},
		key: fileKey{uint64(st.Dev), uint64(st.Ino)}, nlink: uint64(st.Nlink), //nolint:unconvert // types differ by system
		times: times{at(st.Atim), at(st.Ctim), m},
	}
	if t := e.i.mode & modeType; t == modeChar || t == modeBlock {
		rdev := uint64(st.Rdev) //nolint:unconvert // types differ by system
		e.i.rdev = disk.JoinRdev(unix.Major(rdev), unix.Minor(rdev))
	}
	if !e.i.isRegular() {
		e.i.size = 0
	}
	return e
}

// keyOf tells a file from all others; the zero key is that of no file.
func keyOf(fi os.FileInfo) fileKey {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileKey{}
	}
	return fileKey{uint64(st.Dev), uint64(st.Ino)} //nolint:unconvert // types differ by system
}

// pathXattrs reads all attributes of a file through the given calls. Filesystems
// without attributes have none.
func pathXattrs(path string, list func(string, []byte) (int, error), get func(string, string, []byte) (int, error)) ([]xattr, error) {
	return readXattrs(
		func(b []byte) (int, error) { return list(path, b) },
		func(name string, b []byte) (int, error) { return get(path, name, b) })
}

func readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]xattr, error) {
	var small [512]byte
	names, err := sized(small[:], list)
	if err != nil || len(names) == 0 {
		if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return nil, err
	}
	var out []xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if !wantXattr(name) {
			continue
		}
		v, err := sized(nil, func(b []byte) (int, error) { return get(name, b) })
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		out = append(out, xattr{name, append([]byte(nil), v...)})
	}
	return out, nil
}

// sized calls fn with a buffer that is large enough. An empty buffer asks for the
// size.
func sized(b []byte, fn func([]byte) (int, error)) ([]byte, error) {
	for {
		n := 0
		err := retry(func() (err error) { n, err = fn(b); return err })
		switch {
		case err == unix.ERANGE:
			b = nil
		case err != nil:
			return nil, err
		case len(b) > 0 || n == 0:
			return b[:n], nil
		default:
			b = make([]byte, n)
		}
	}
}

// dirOpener opens files below a directory.
type dirOpener struct{ root string }

func (o *dirOpener) session() session { return &dirSession{root: o.root, fd: -1} }

// dirSession keeps the last directory open: files come directory by directory.
type dirSession struct {
	root string
	dir  inodeID
	fd   int
}

func (s *dirSession) close() error {
	if s.fd < 0 {
		return nil
	}
	err := unix.Close(s.fd)
	s.fd = -1
	return err
}

func (s *dirSession) open(t *tree, id inodeID) (content, error) {
	var first nameID
	t.namesOf(id, func(n nameID) { first = n })
	n := &t.names[first]
	if s.fd < 0 || s.dir != n.parent {
		if err := s.close(); err != nil {
			return nil, err
		}
		fd, err := openUnder(s.root, t.pathOf(n.parent), unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		s.fd, s.dir = fd, n.parent
	}
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat(s.fd, n.text, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, pathError("open", filepath.Join(s.root, t.pathOf(id)), err)
	}
	i := &t.inodes[id]
	return &fdContent{fd: fd, ino: i.handle, mtime: disk.Time{Sec: i.sec, Nsec: i.nsec}}, nil
}

// fdContent is an open file. It stays off the runtime's poller, which costs two
// more system calls for each file.
type fdContent struct {
	fd    int
	ino   uint64
	mtime disk.Time // when it was listed
}

func (c *fdContent) Close() error { return unix.Close(c.fd) }

func (c *fdContent) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n := 0
		err := retry(func() (err error) { n, err = unix.Pread(c.fd, p[done:], off+int64(done)); return err })
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

func (c *fdContent) dataFrom(at int64) int64 { return seekData(c.fd, at) }

func (c *fdContent) check(size int64) error {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(c.fd, &st) }); err != nil {
		return err
	}
	if uint32(st.Mode)&modeType != modeRegular || uint64(st.Ino) != c.ino { //nolint:unconvert // types differ by system
		return fmt.Errorf("%w: it is another file now", ErrChanged)
	}
	if st.Size != size {
		return fmt.Errorf("%w: it had %d bytes and has %d", ErrChanged, size, st.Size)
	}
	if e := fromStat(&st); e.i.sec != c.mtime.Sec || e.i.nsec != c.mtime.Nsec {
		return fmt.Errorf("%w: it was written to", ErrChanged)
	}
	return nil
}

func (c *fdContent) xattrs() ([]xattr, error) {
	return readXattrs(
		func(b []byte) (int, error) { return unix.Flistxattr(c.fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(c.fd, name, b) })
}
