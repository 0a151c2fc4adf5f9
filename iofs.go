package btrfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// IOFS is the subvolume as an fs.FS. It implements fs.ReadDirFS, fs.StatFS,
// fs.ReadFileFS and fs.ReadLinkFS; files implement io.ReaderAt and io.Seeker.
// Symbolic links are followed where the io/fs contracts say so, and never
// lead out of the subvolume. The context bounds everything that is read
// through it.
func (s *Subvolume) IOFS(ctx context.Context) fs.FS { return &ioFS{ctx, s} }

// ioFS keeps the context because io/fs has no place for one.
type ioFS struct {
	ctx context.Context
	sub *Subvolume
}

var (
	_ fs.ReadDirFS  = (*ioFS)(nil)
	_ fs.StatFS     = (*ioFS)(nil)
	_ fs.ReadFileFS = (*ioFS)(nil)
	_ fs.ReadLinkFS = (*ioFS)(nil)
)

func (f *ioFS) open(op, name string, follow bool) (*File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	open := f.sub.OpenFollow
	if !follow {
		open = f.openLast
	}
	file, err := open(f.ctx, name)
	if err != nil {
		if p, ok := errors.AsType[*fs.PathError](err); ok {
			err = p.Err
		}
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return file, nil
}

// openLast follows the links of a path, but not one at its end.
func (f *ioFS) openLast(ctx context.Context, name string) (*File, error) {
	dir, base := "", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = name[:i], name[i+1:]
	}
	parent, err := f.sub.OpenFollow(ctx, dir)
	if err != nil || base == "." {
		return parent, err
	}
	return parent.Lookup(ctx, base)
}

func baseName(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// Open implements fs.FS.
func (f *ioFS) Open(name string) (fs.File, error) {
	file, err := f.open("open", name, true)
	if err != nil {
		return nil, err
	}
	info := fileInfo{baseName(name), file}
	if file.Mode().IsDir() {
		return &ioDir{fs: f, info: info, path: name}, nil
	}
	return &ioFile{fs: f, info: info}, nil
}

// Stat implements fs.StatFS.
func (f *ioFS) Stat(name string) (fs.FileInfo, error) {
	file, err := f.open("stat", name, true)
	if err != nil {
		return nil, err
	}
	return fileInfo{baseName(name), file}, nil
}

// Lstat implements fs.ReadLinkFS.
func (f *ioFS) Lstat(name string) (fs.FileInfo, error) {
	file, err := f.open("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return fileInfo{baseName(name), file}, nil
}

// ReadLink implements fs.ReadLinkFS.
func (f *ioFS) ReadLink(name string) (string, error) {
	file, err := f.open("readlink", name, false)
	if err != nil {
		return "", err
	}
	target, err := file.Readlink(f.ctx)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// ReadFile implements fs.ReadFileFS.
func (f *ioFS) ReadFile(name string) ([]byte, error) {
	file, err := f.open("read", name, true)
	if err != nil {
		return nil, err
	}
	data, err := file.ReadAll(f.ctx)
	if err != nil {
		return data, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

// ReadDir implements fs.ReadDirFS; entries are sorted by name.
func (f *ioFS) ReadDir(name string) ([]fs.DirEntry, error) {
	file, err := f.open("readdir", name, true)
	if err != nil {
		return nil, err
	}
	var out []fs.DirEntry
	for e, err := range file.ReadDir(f.ctx, 0) {
		if err != nil {
			return out, &fs.PathError{Op: "readdir", Path: name, Err: err}
		}
		out = append(out, ioEntry{f, file, *e})
	}
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return out, nil
}

// fileInfo is a File under the name it was found by.
type fileInfo struct {
	name string
	file *File
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.file.Size() }
func (i fileInfo) Mode() fs.FileMode  { return i.file.Mode() }
func (i fileInfo) ModTime() time.Time { return i.file.ModTime() }
func (i fileInfo) IsDir() bool        { return i.file.Mode().IsDir() }

// Sys is the *File.
func (i fileInfo) Sys() any { return i.file }

// ioEntry is a directory entry that reads its inode when asked.
type ioEntry struct {
	fs  *ioFS
	dir *File
	ent DirEntry
}

func (e ioEntry) Name() string      { return e.ent.Name }
func (e ioEntry) IsDir() bool       { return e.ent.Type.IsDir() }
func (e ioEntry) Type() fs.FileMode { return e.ent.Type }
func (e ioEntry) String() string    { return fs.FormatDirEntry(e) }

func (e ioEntry) Info() (fs.FileInfo, error) {
	file, err := e.dir.OpenEntry(e.fs.ctx, &e.ent)
	if err != nil {
		return nil, err
	}
	return fileInfo{e.ent.Name, file}, nil
}

// ioFile is an open file that is no directory.
type ioFile struct {
	fs     *ioFS
	info   fileInfo
	off    int64
	closed bool
}

func (f *ioFile) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.info.name, Err: err}
}

func (f *ioFile) Stat() (fs.FileInfo, error) {
	if f.closed {
		return nil, f.fail("stat", fs.ErrClosed)
	}
	return f.info, nil
}

func (f *ioFile) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *ioFile) ReadAt(p []byte, off int64) (int, error) {
	if f.closed {
		return 0, f.fail("read", fs.ErrClosed)
	}
	n, err := f.info.file.ReadAtContext(f.fs.ctx, p, off)
	if err != nil && err != io.EOF {
		err = f.fail("read", err)
	}
	return n, err
}

func (f *ioFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		offset += f.info.Size()
	default:
		return 0, f.fail("seek", fs.ErrInvalid)
	}
	if offset < 0 {
		return 0, f.fail("seek", fs.ErrInvalid)
	}
	f.off = offset
	return offset, nil
}

func (f *ioFile) Close() error {
	if f.closed {
		return f.fail("close", fs.ErrClosed)
	}
	f.closed = true
	return nil
}

// ioDir is an open directory.
type ioDir struct {
	fs      *ioFS
	info    fileInfo
	path    string
	entries []fs.DirEntry
	read    bool
}

func (d *ioDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *ioDir) Close() error               { return nil }

func (d *ioDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: errors.New("is a directory")}
}

// ReadDir implements fs.ReadDirFile.
func (d *ioDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		entries, err := d.fs.ReadDir(d.path)
		if err != nil {
			return nil, err
		}
		d.entries, d.read = entries, true
	}
	if n <= 0 {
		out := d.entries
		d.entries = nil
		return out, nil
	}
	if len(d.entries) == 0 {
		return nil, io.EOF
	}
	out := d.entries[:min(n, len(d.entries))]
	d.entries = d.entries[len(out):]
	return out, nil
}
