package report

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"syscall"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
)

// Manifest lists top and everything below it, depth first, names in byte
// order. It reads and hashes contents if sel has manifest.SHA256; contents
// that cannot be read become a read error of their entry. Other errors end the
// walk.
func Manifest(ctx context.Context, top *btrfs.File, sel manifest.Fields) iter.Seq2[manifest.Entry, error] {
	return func(yield func(manifest.Entry, error) bool) {
		w := manifestWalk{ctx: ctx, sel: sel, yield: yield, buf: make([]byte, 1<<20)}
		w.visit(top, "")
	}
}

type manifestWalk struct {
	ctx   context.Context
	sel   manifest.Fields
	yield func(manifest.Entry, error) bool
	buf   []byte
}

// visit yields f and all below it, and says whether to go on.
func (w *manifestWalk) visit(f *btrfs.File, path string) bool {
	e, err := w.entry(f, path)
	if err != nil {
		w.yield(manifest.Entry{}, &fs.PathError{Op: "manifest", Path: path, Err: err})
		return false
	}
	if !w.yield(e, nil) {
		return false
	}
	if !f.Mode().IsDir() {
		return true
	}
	var entries []btrfs.DirEntry
	for d, err := range f.ReadDir(w.ctx, 0) {
		if err != nil {
			w.yield(manifest.Entry{}, &fs.PathError{Op: "read directory", Path: path, Err: err})
			return false
		}
		entries = append(entries, *d)
	}
	slices.SortFunc(entries, func(a, b btrfs.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	for i := range entries {
		sub := entries[i].Name
		if path != "" {
			sub = path + "/" + sub
		}
		child, err := f.OpenEntry(w.ctx, &entries[i])
		if err != nil {
			w.yield(manifest.Entry{}, &fs.PathError{Op: "open", Path: sub, Err: err})
			return false
		}
		if !w.visit(child, sub) {
			return false
		}
	}
	return true
}

// entry is what stat, readlink, listxattr and the contents say of f.
func (w *manifestWalk) entry(f *btrfs.File, path string) (manifest.Entry, error) {
	if f.IsStub() {
		return manifest.NewStub(path), nil
	}
	item := f.Item()
	e := manifest.Entry{
		Has: manifest.Path | manifest.TypeField | manifest.Mode | manifest.UID | manifest.GID | manifest.Size | manifest.Nlink |
			manifest.Mtime | manifest.Ctime | manifest.Btime | manifest.Ino,
		Path: path, Type: typeLetter(f.Mode()), Mode: item.Mode & 0o7777, UID: item.UID, GID: item.GID,
		Size: f.Size(), Nlink: item.Nlink, Mtime: item.Mtime, Ctime: item.Ctime, Btime: item.Otime, Ino: uint64(f.Ino()),
	}
	if e.Type == 'c' || e.Type == 'b' {
		e.Has |= manifest.Rdev
		e.RdevMajor, e.RdevMinor = disk.SplitRdev(item.Rdev)
	}
	if f.IsSubvolume() {
		e.Has |= manifest.Subvol
		e.Subvol = f.Subvolume().ID()
	}
	// The ioctl that tells flags needs an open file, so the kernel shows them
	// for files and directories only.
	if e.Type == 'f' || e.Type == 'd' {
		if e.Flags = f.Flags(); e.Flags != 0 {
			e.Has |= manifest.Flags
		}
	}
	if w.sel&manifest.Xattrs != 0 {
		xattrs, err := f.Xattrs(w.ctx)
		if err != nil {
			return e, err
		}
		for _, x := range xattrs {
			if e.Xattrs == nil {
				e.Has |= manifest.Xattrs
				e.Xattrs = make(map[string][]byte, len(xattrs))
			}
			e.Xattrs[x.Name] = x.Value
		}
	}
	switch {
	case e.Type == 'l':
		e.Has |= manifest.Target
		var err error
		if e.Target, err = f.Readlink(w.ctx); err != nil {
			return e, err
		}
	case e.Type == 'f' && w.sel&manifest.SHA256 != 0:
		return e, w.hash(f, &e)
	}
	return e, nil
}

func (w *manifestWalk) hash(f *btrfs.File, e *manifest.Entry) error {
	h := sha256.New()
	for off := int64(0); ; {
		n, err := f.ReadAtContext(w.ctx, w.buf, off)
		h.Write(w.buf[:n])
		off += int64(n)
		switch {
		case err == io.EOF:
			e.Has |= manifest.SHA256
			h.Sum(e.SHA256[:0])
			return nil
		case errors.Is(err, syscall.EIO):
			e.Has |= manifest.ReadError
			e.ReadError = "EIO"
			return nil
		case err != nil:
			return err
		}
	}
}

func typeLetter(m fs.FileMode) byte {
	switch m.Type() {
	case fs.ModeDir:
		return 'd'
	case fs.ModeSymlink:
		return 'l'
	case fs.ModeDevice | fs.ModeCharDevice:
		return 'c'
	case fs.ModeDevice:
		return 'b'
	case fs.ModeNamedPipe:
		return 'p'
	case fs.ModeSocket:
		return 's'
	}
	return 'f'
}
