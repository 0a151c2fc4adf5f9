package report

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"iter"
	"runtime"
	"sync"
	"syscall"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/ordered"
)

// Manifest lists top and everything below it, depth first, names in byte order.
// It reads and hashes contents if sel has manifest.SHA256, several files at a
// time; contents that cannot be read become a read error of their entry. Other
// errors come with the path they are about; the list goes on after them if the
// caller does.
func Manifest(ctx context.Context, top *btrfs.File, sel manifest.Fields) iter.Seq2[manifest.Entry, error] {
	return func(yield func(manifest.Entry, error) bool) {
		m := describer{ctx: ctx, sel: sel}
		m.bufs.New = func() any { return new([hashBuffer]byte) }
		type result struct {
			e   manifest.Entry
			err error
		}
		stopped := errors.New("stopped")
		err := ordered.Run(ctx, max(2, runtime.GOMAXPROCS(0)), manifestAhead, func(submit func(func() result) bool) error {
			for n, err := range Walk(ctx, top) {
				job := func() result {
					if err != nil {
						return result{manifest.Entry{Path: n.Path}, err}
					}
					e, err := m.entry(n.File, n.Path)
					if err != nil {
						err = &fs.PathError{Op: "manifest", Path: n.Path, Err: err}
					}
					return result{e, err}
				}
				if !submit(job) {
					break
				}
			}
			return nil
		}, func(r result) error {
			if !yield(r.e, r.err) {
				return stopped
			}
			return nil
		})
		if err != nil && err != stopped {
			yield(manifest.Entry{}, err)
		}
	}
}

const (
	hashBuffer    = 1 << 20
	manifestAhead = 256
)

// Describe is the manifest's entry of one file under the given path.
func Describe(ctx context.Context, f *btrfs.File, path string, sel manifest.Fields) (manifest.Entry, error) {
	m := describer{ctx: ctx, sel: sel}
	m.bufs.New = func() any { return new([hashBuffer]byte) }
	return m.entry(f, path)
}

// describer makes entries; it is safe for concurrent use.
type describer struct {
	ctx  context.Context
	sel  manifest.Fields
	bufs sync.Pool // of *[hashBuffer]byte
}

// entry is what stat, readlink, listxattr and the contents say of f.
func (w *describer) entry(f *btrfs.File, path string) (manifest.Entry, error) {
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
		applyProperty(&e)
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

// applyProperty shows the flag that goes with the property of compression: Linux
// gives it to an inode that it reads, whatever the inode says. What says nothing
// are the top directories of subvolumes that inherited the property.
func applyProperty(e *manifest.Entry) {
	const compressed, not = 0x4, 0x400 // FS_COMPR_FL, FS_NOCOMP_FL
	value := string(e.Xattrs["btrfs.compression"])
	if value == "" || e.Type != 'f' && e.Type != 'd' {
		return
	}
	e.Has |= manifest.Flags
	if e.Flags &^= compressed | not; value == "no" || value == "none" {
		e.Flags |= not
	} else {
		e.Flags |= compressed
	}
}

func (w *describer) hash(f *btrfs.File, e *manifest.Entry) error {
	h := sha256.New()
	buf := w.bufs.Get().(*[hashBuffer]byte)
	defer w.bufs.Put(buf)
	for off := int64(0); ; {
		n, err := f.ReadAtContext(w.ctx, buf[:], off)
		h.Write(buf[:n])
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
