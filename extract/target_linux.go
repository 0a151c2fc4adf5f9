package extract

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"gobtrfs/disk"
)

// dir is an open directory of the destination. All names are looked up in its
// descriptor, one component at a time. Raw descriptors instead of os.File save
// several system calls a file, which is what copying many small files consists
// of.
type dir struct{ fd int }

// file is an open regular file of the destination.
type file struct{ fd int }

// ignoringEINTR repeats a call that a signal interrupted, as Go's preemption
// signals do.
func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func openDirAt(at int, name string, flags int) (*dir, error) {
	d := &dir{fd: -1}
	err := ignoringEINTR(func() (err error) {
		d.fd, err = unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|flags, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return d, nil
}

// openRoot opens the destination's top; the user may name it by a link.
func openRoot(path string, make bool) (*dir, error) {
	if make {
		if err := os.Mkdir(path, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	return openDirAt(unix.AT_FDCWD, path, 0)
}

// openFileTarget says where a single file goes: into dest, if that is a
// directory, else to dest itself.
func openFileTarget(dest, name string) (*dir, string, error) {
	if st, err := os.Stat(dest); err == nil && st.IsDir() {
		d, err := openRoot(dest, false)
		return d, name, err
	}
	d, err := openRoot(filepath.Dir(dest), false)
	return d, filepath.Base(dest), err
}

func (d *dir) close() error { return os.NewSyscallError("close", unix.Close(d.fd)) }

// mkdir makes a directory that only its owner can enter until it is finished.
func (d *dir) mkdir(name string) (*dir, error) {
	if err := unix.Mkdirat(d.fd, name, 0o700); err != nil {
		return nil, os.NewSyscallError("mkdir", err)
	}
	return openDirAt(d.fd, name, unix.O_NOFOLLOW)
}

func (d *dir) create(name string) (*file, error) {
	f := &file{fd: -1}
	err := ignoringEINTR(func() (err error) {
		f.fd, err = unix.Openat(d.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return nil, os.NewSyscallError("create", err)
	}
	return f, nil
}

func (d *dir) symlink(target, name string) error {
	return os.NewSyscallError("symlink", unix.Symlinkat(target, d.fd, name))
}

// link makes another name for the file at path below d, in directory in.
func (d *dir) link(path string, in *dir, name string) error {
	return os.NewSyscallError("link", unix.Linkat(d.fd, path, in.fd, name, 0))
}

func (d *dir) mknod(name string, item *disk.InodeItem) error {
	major, minor := disk.SplitRdev(item.Rdev)
	err := unix.Mknodat(d.fd, name, item.Mode&unix.S_IFMT|0o600, int(unix.Mkdev(major, minor)))
	if errors.Is(err, unix.EPERM) {
		return unkept("special file", err)
	}
	return os.NewSyscallError("mknod", err)
}

func (f *file) close() error { return os.NewSyscallError("close", unix.Close(f.fd)) }

func (f *file) writeAt(b []byte, off int64) error {
	for len(b) > 0 {
		n := 0
		err := ignoringEINTR(func() (err error) {
			n, err = unix.Pwrite(f.fd, b, off)
			return err
		})
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

func (f *file) truncate(size int64) error {
	return os.NewSyscallError("truncate", ignoringEINTR(func() error { return unix.Ftruncate(f.fd, size) }))
}

func (f *file) setAttrs(a *attrs) []error { return setFdAttrs(f.fd, a) }
func (d *dir) setAttrs(a *attrs) []error  { return setFdAttrs(d.fd, a) }

func setFdAttrs(fd int, a *attrs) []error {
	return setAll(a, attrCalls{
		chown:    func(uid, gid int) error { return unix.Fchown(fd, uid, gid) },
		chmod:    func(mode uint32) error { return unix.Fchmod(fd, mode) },
		setxattr: func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) },
		times:    func(ts *[2]unix.Timespec) error { return futimens(fd, ts) },
	})
}

// setAttrsOf is for what cannot be opened: links and special files.
func (d *dir) setAttrsOf(name string, a *attrs) []error {
	calls := attrCalls{
		chown: func(uid, gid int) error { return unix.Fchownat(d.fd, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW) },
		// There is no lsetxattrat before Linux 6.13; the way through /proc is
		// as good: the directory is a descriptor, the last name is not followed.
		setxattr: func(xname string, value []byte) error {
			return unix.Lsetxattr("/proc/self/fd/"+strconv.Itoa(d.fd)+"/"+name, xname, value, 0)
		},
		times: func(ts *[2]unix.Timespec) error {
			return unix.UtimesNanoAt(d.fd, name, ts[:], unix.AT_SYMLINK_NOFOLLOW)
		},
	}
	if a.item.Mode&unix.S_IFMT != unix.S_IFLNK { // a link has no mode of its own
		calls.chmod = func(mode uint32) error { return unix.Fchmodat(d.fd, name, mode, 0) }
	}
	return setAll(a, calls)
}

type attrCalls struct {
	chown    func(uid, gid int) error
	chmod    func(mode uint32) error // nil: nothing to change
	setxattr func(name string, value []byte) error
	times    func(*[2]unix.Timespec) error
}

var euid, egid = uint32(os.Geteuid()), uint32(os.Getegid())

func setAll(a *attrs, c attrCalls) (errs []error) {
	if a.owner && euid == 0 {
		if err := c.chown(int(a.item.UID), int(a.item.GID)); err != nil {
			errs = append(errs, os.NewSyscallError("chown", err))
		}
	} else if a.owner && (a.item.UID != euid || a.item.GID != egid) {
		errs = append(errs, unkept(fmt.Sprintf("owner %d:%d", a.item.UID, a.item.GID), unix.EPERM))
	}
	if c.chmod != nil {
		if err := c.chmod(a.item.Mode & 0o7777); err != nil {
			errs = append(errs, os.NewSyscallError("chmod", err))
		}
	}
	for _, x := range a.xattrs {
		if err := xattrError(x.Name, c.setxattr(x.Name, x.Value)); err != nil {
			errs = append(errs, err)
		}
	}
	ts := [2]unix.Timespec{timespec(a.item.Atime), timespec(a.item.Mtime)}
	if err := c.times(&ts); err != nil {
		errs = append(errs, os.NewSyscallError("utimensat", err))
	}
	return errs
}
