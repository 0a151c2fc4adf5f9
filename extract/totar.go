package extract

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/ordered"
	"gobtrfs/report"
)

// tarAhead is how many pieces of at most bufSize may be read ahead of the
// writer: it bounds the memory.
const tarAhead = 32

// ToTar writes top and what is below it to w as a tar stream in the PAX format,
// which keeps nanoseconds and xattrs. Directories come before what is in them,
// names in byte order. Holes are written as zeros; sockets are left out, tar has
// no place for them. If top is no directory, its name in the tar is name.
//
// The bytes of a damaged file that cannot be read are zeros: its size stands in
// the stream before them.
func ToTar(ctx context.Context, top *btrfs.File, name string, w io.Writer, o Options) (Result, error) {
	o = o.withDefaults()
	t := &taker{ctx: ctx, o: o, links: map[inode]string{}, w: tar.NewWriter(w)}
	t.bufs.New = func() any { return new([bufSize]byte) }
	err := ordered.Run(ctx, o.Workers, tarAhead, func(submit func(func() tarPiece) bool) error {
		t.submit = submit
		for n, err := range report.Walk(ctx, top) {
			path := n.Path
			if path == "" && !top.Mode().IsDir() {
				path = name
			}
			if err != nil {
				if !submit(func() tarPiece { return tarPiece{path: path, errs: []error{err}} }) {
					break
				}
			} else if !t.visit(n.File, path) {
				break
			}
		}
		return nil
	}, t.write)
	if err == nil {
		err = t.w.Close()
	}
	return t.r, err
}

// tarPiece is what stands next in the stream: a header, or some contents, or
// what went wrong.
type tarPiece struct {
	path   string
	header *tar.Header
	buf    *[bufSize]byte // nil: no contents
	n      int            // bytes of it
	errs   []error        // of reading
	unkept error
}

type taker struct {
	problems
	ctx    context.Context
	o      Options
	submit func(func() tarPiece) bool
	bufs   sync.Pool // of *[bufSize]byte

	// The producer's.
	links map[inode]string

	w *tar.Writer // the consumer's
}

// write takes the pieces in their order.
func (t *taker) write(p tarPiece) error {
	for _, err := range p.errs {
		if !isDamage(err) {
			return fmt.Errorf("extract %q: %w", p.path, err)
		}
		t.damaged(p.path, err)
		if !t.o.KeepGoing {
			return fmt.Errorf("extract %q: %w", p.path, err)
		}
	}
	if p.unkept != nil {
		t.problems.unkept(p.path, p.unkept)
	}
	if p.header != nil {
		if err := t.w.WriteHeader(p.header); err != nil {
			return fmt.Errorf("tar %q: %w", p.path, err)
		}
		t.o.Progress.Files.Add(1)
	}
	if p.buf != nil {
		if _, err := t.w.Write(p.buf[:p.n]); err != nil {
			return fmt.Errorf("tar %q: %w", p.path, err)
		}
		t.o.Progress.Bytes.Add(int64(p.n))
		t.bufs.Put(p.buf)
	}
	return nil
}

// visit gives the jobs for one file, and says whether to go on.
func (t *taker) visit(f *btrfs.File, path string) bool {
	if first, ok := t.links[inodeOf(f)]; ok && !f.IsStub() {
		h := &tar.Header{Typeflag: tar.TypeLink, Name: path, Linkname: first, Format: tar.FormatPAX}
		return t.submit(func() tarPiece { return tarPiece{path: path, header: h} })
	}
	if !t.submit(func() tarPiece { return t.header(f, path) }) {
		return false
	}
	if !f.Mode().IsDir() && f.Item().Nlink > 1 {
		t.links[inodeOf(f)] = path
	}
	if f.Mode().IsRegular() {
		for off := int64(0); off < f.Size(); off += bufSize {
			n := min(bufSize, f.Size()-off)
			if !t.submit(func() tarPiece { return t.contents(f, path, off, int(n)) }) {
				return false
			}
		}
	}
	return true
}

// tarTypes are the types with a letter of their own in tar.
var tarTypes = map[fs.FileMode]byte{
	0: tar.TypeReg, fs.ModeDir: tar.TypeDir, fs.ModeSymlink: tar.TypeSymlink, fs.ModeNamedPipe: tar.TypeFifo,
	fs.ModeDevice: tar.TypeBlock, fs.ModeDevice | fs.ModeCharDevice: tar.TypeChar,
}

var errSocket = errors.New("tar cannot hold sockets")

func (t *taker) header(f *btrfs.File, path string) tarPiece {
	p := tarPiece{path: path}
	kind, ok := tarTypes[f.Mode().Type()]
	if !ok {
		p.unkept = errSocket
		return p
	}
	item := f.Item()
	h := &tar.Header{
		Typeflag: kind, Name: path, Mode: int64(item.Mode & 0o7777), Uid: int(item.UID), Gid: int(item.GID),
		ModTime: tarTime(item.Mtime), Format: tar.FormatPAX,
	}
	switch kind {
	case tar.TypeDir:
		h.Name += "/"
		if path == "" {
			h.Name = "./"
		}
	case tar.TypeReg:
		h.Size = f.Size()
	case tar.TypeSymlink:
		var err error
		if h.Linkname, err = f.Readlink(t.ctx); err != nil {
			p.errs = append(p.errs, err)
			return p
		}
	case tar.TypeBlock, tar.TypeChar:
		major, minor := disk.SplitRdev(item.Rdev)
		h.Devmajor, h.Devminor = int64(major), int64(minor)
	}
	xattrs, err := f.Xattrs(t.ctx)
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("read xattrs: %w", err))
	}
	for _, x := range xattrs {
		if strings.HasPrefix(x.Name, "btrfs.") {
			continue // a setting of btrfs, not a property of the file
		}
		if strings.ContainsAny(x.Name, "=\x00") {
			p.unkept = fmt.Errorf("xattr %q: tar cannot hold the name", x.Name)
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+x.Name] = string(x.Value)
	}
	p.header = h
	return p
}

// tarTime keeps the nanoseconds within a second, whatever the disk says.
func tarTime(t disk.Time) time.Time { return time.Unix(t.Sec, int64(min(t.Nsec, 999_999_999))) }

// contents reads n bytes; those that cannot be read are zeros.
func (t *taker) contents(f *btrfs.File, path string, off int64, n int) tarPiece {
	p := tarPiece{path: path, buf: t.bufs.Get().(*[bufSize]byte), n: n}
	got, err := read(t.ctx, f, p.buf[:n], off, t.o.KeepGoing)
	if err != nil {
		p.errs = append(p.errs, err)
	}
	clear(p.buf[got:n]) // the header has promised n bytes
	return p
}
