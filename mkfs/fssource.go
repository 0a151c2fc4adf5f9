package mkfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"gobtrfs/disk"
)

// FS is an io/fs filesystem as a source. Files belong to user and group 0. A file
// that is no io.ReaderAt is read from its beginning; that is cheap because
// contents are read forward.
func FS(fsys fs.FS) Source { return fsSource{fsys} }

type fsSource struct{ fsys fs.FS }

func (s fsSource) load(ctx context.Context, t *tree, f *filter) error {
	return Entries(func(yield func(Entry, error) bool) {
		err := fs.WalkDir(s.fsys, ".", func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			e, err := s.entry(p, d)
			if err != nil {
				return err
			}
			if !yield(e, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(Entry{}, err)
		}
	}).load(ctx, t, f)
}

func (s fsSource) entry(p string, d fs.DirEntry) (Entry, error) {
	fi, err := d.Info()
	if err != nil {
		return Entry{}, err
	}
	e := Entry{
		Path: p, Mode: fsMode(fi.Mode()),
		Mtime: disk.Time{Sec: fi.ModTime().Unix(), Nsec: uint32(fi.ModTime().Nanosecond())},
	}
	switch {
	case fi.Mode().IsRegular():
		e.Size = fi.Size()
		e.Open = func() (Content, error) { return s.open(p) }
	case fi.Mode()&fs.ModeSymlink != 0:
		if e.Target, err = fs.ReadLink(s.fsys, p); err != nil {
			return Entry{}, err
		}
	}
	return e, nil
}

func (s fsSource) open(p string) (Content, error) {
	f, err := s.fsys.Open(p)
	if err != nil {
		return nil, err
	}
	if c, ok := f.(Content); ok {
		return c, nil
	}
	return &forwardFile{reopen: func() (fs.File, error) { return s.fsys.Open(p) }, f: f}, nil
}

// forwardFile gives a file that can only be read forward a ReadAt. Going back
// opens it again.
type forwardFile struct {
	reopen func() (fs.File, error)
	f      fs.File
	at     int64
}

func (f *forwardFile) Close() error { return f.f.Close() }

func (f *forwardFile) ReadAt(p []byte, off int64) (int, error) {
	if off < f.at {
		g, err := f.reopen()
		if err != nil {
			return 0, err
		}
		if err := f.f.Close(); err != nil {
			return 0, errors.Join(err, g.Close())
		}
		f.f, f.at = g, 0
	}
	if off > f.at {
		n, err := io.CopyN(io.Discard, f.f, off-f.at)
		f.at += n
		if err != nil {
			return 0, err
		}
	}
	n, err := io.ReadFull(f.f, p)
	f.at += int64(n)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

// Layers puts several sources on top of each other, the first at the bottom.
// Names of the form ".wh.NAME" in archives above the first take NAME away, and
// ".wh..wh..opq" takes away what a directory had below, as in OCI images.
func Layers(sources ...Source) Source {
	if len(sources) == 1 {
		return sources[0]
	}
	return layers(sources)
}

type layers []Source

func (l layers) load(ctx context.Context, t *tree, f *filter) error {
	if len(l) > 255 {
		return fmt.Errorf("%d layers, at most 255", len(l))
	}
	for i, s := range l {
		t.layer = uint8(i)
		if ts, ok := s.(*tarSource); ok && i > 0 {
			ts.whiteouts = true
		}
		if err := s.load(ctx, t, f); err != nil {
			return err
		}
	}
	return nil
}
