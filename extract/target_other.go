//go:build !linux

package extract

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"gobtrfs/disk"
)

// dir is an open directory of the destination; os.Root sees to it that nothing
// outside is reached.
type dir struct{ root *os.Root }

// file is an open regular file of the destination.
type file struct{ f *os.File }

func openRoot(path string, make bool) (*dir, error) {
	if make {
		if err := os.Mkdir(path, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	r, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &dir{r}, nil
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

func (d *dir) close() error { return d.root.Close() }

func (d *dir) mkdir(name string) (*dir, error) {
	if err := d.root.Mkdir(name, 0o700); err != nil {
		return nil, err
	}
	r, err := d.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &dir{r}, nil
}

func (d *dir) create(name string) (*file, error) {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &file{f}, nil
}

func (d *dir) symlink(target, name string) error { return d.root.Symlink(target, name) }

// link makes another name for the file at path below d, in directory in.
func (d *dir) link(path string, in *dir, name string) error {
	rel, err := filepath.Rel(d.root.Name(), filepath.Join(in.root.Name(), name))
	if err != nil {
		return err
	}
	return d.root.Link(filepath.FromSlash(path), rel)
}

func (d *dir) mknod(string, *disk.InodeItem) error {
	return unkept("special file", errors.ErrUnsupported)
}

func (f *file) close() error { return f.f.Close() }

func (f *file) writeAt(b []byte, off int64) error {
	_, err := f.f.WriteAt(b, off)
	return err
}

func (f *file) truncate(size int64) error { return f.f.Truncate(size) }

func (f *file) setAttrs(a *attrs) []error {
	return setAll(a, func(uid, gid int) error { return f.f.Chown(uid, gid) }, func(m fs.FileMode) error { return f.f.Chmod(m) },
		func(at, mt time.Time) error { return os.Chtimes(f.f.Name(), at, mt) })
}

func (d *dir) setAttrs(a *attrs) []error { return d.setAttrsOf(".", a) }

// setAttrsOf is for directories and links. A link's times and mode are its
// target's here: they are left alone.
func (d *dir) setAttrsOf(name string, a *attrs) []error {
	chown := func(uid, gid int) error { return d.root.Lchown(name, uid, gid) }
	if a.item.Mode&0o170000 == 0o120000 {
		return setAll(a, chown, func(fs.FileMode) error { return nil }, func(time.Time, time.Time) error { return nil })
	}
	return setAll(a, chown, func(m fs.FileMode) error { return d.root.Chmod(name, m) },
		func(at, mt time.Time) error { return d.root.Chtimes(name, at, mt) })
}

func setAll(a *attrs, chown func(uid, gid int) error, chmod func(fs.FileMode) error, times func(at, mt time.Time) error) (errs []error) {
	if a.owner {
		err := errors.ErrUnsupported
		if os.Geteuid() == 0 {
			err = chown(int(a.item.UID), int(a.item.GID))
		}
		if err != nil {
			errs = append(errs, unkept("owner", err))
		}
	}
	mode := fs.FileMode(a.item.Mode & 0o777)
	for bit, m := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if a.item.Mode&bit != 0 {
			mode |= m
		}
	}
	if err := chmod(mode); err != nil {
		errs = append(errs, err)
	}
	for _, x := range a.xattrs {
		if err := xattrError(x.Name, syscall.EPERM); err != nil {
			errs = append(errs, err)
		}
	}
	at, mt := time.Unix(a.item.Atime.Sec, int64(a.item.Atime.Nsec)), time.Unix(a.item.Mtime.Sec, int64(a.item.Mtime.Nsec))
	if err := times(at, mt); err != nil {
		errs = append(errs, err)
	}
	return errs
}
