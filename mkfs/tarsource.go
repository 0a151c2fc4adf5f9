package mkfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"strings"

	"gobtrfs/disk"
	"gobtrfs/internal/compress"
)

// Tar is an archive as a source: any of the forms that archive/tar reads, with
// attributes (SCHILY.xattr, LIBARCHIVE.xattr) and sparse files, plain or
// compressed with gzip, bzip2 or zstd. A file is read in place; anything else, such as
// a pipe or a compressed archive, is kept in a temporary file meanwhile, because
// the canonical order is not the archive's.
//
// Absolute paths, paths with "..", hard links to what is not there, entries that
// come twice (directories excepted) and a truncated archive are errors, and so are
// sparse files of more than 1 TiB together: a hole costs an archive nothing, but
// unpacking it takes time.
func Tar(r io.Reader, name string) Source {
	return &tarSource{r: r, name: name, maxSparse: 1 << 40}
}

type tarSource struct {
	r         io.Reader
	name      string // for messages
	maxSparse int64  // sum of the sizes of sparse files
	whiteouts bool
}

// Prefixes of PAX records.
const (
	paxSchily     = "SCHILY.xattr."
	paxLibarchive = "LIBARCHIVE.xattr."
)

// Names with a meaning in the layers of OCI images.
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// window reads a file forward through a buffer and can skip without reading,
// which archive/tar uses for contents.
type window struct {
	f     io.ReaderAt
	at    int64 // of the next byte
	buf   []byte
	begin int64 // of buf
}

func (w *window) Read(p []byte) (int, error) {
	if w.at < w.begin || w.at >= w.begin+int64(len(w.buf)) {
		n, err := w.f.ReadAt(w.buf[:cap(w.buf)], w.at)
		w.buf, w.begin = w.buf[:n], w.at
		if n == 0 {
			return 0, err
		}
	}
	n := copy(p, w.buf[w.at-w.begin:])
	w.at += int64(n)
	return n, nil
}

// Seek implements io.Seeker for what archive/tar asks.
func (w *window) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
		w.at = off
	case io.SeekCurrent:
		w.at += off
	default:
		return 0, errors.ErrUnsupported
	}
	return w.at, nil
}

func (s *tarSource) load(ctx context.Context, t *tree, f *filter) error {
	t.makeIndex()
	o := &tarOpener{name: s.name}
	t.closers = append(t.closers, o)
	if err := s.spool(ctx, o); err != nil {
		return fmt.Errorf("archive %s: %w", s.name, err)
	}
	from, err := t.addOpener(o)
	if err != nil {
		return err
	}
	l := &tarLoader{placer: placer{t: t, f: f, from: from}, ctx: ctx, o: o, maxSparse: s.maxSparse, whiteouts: s.whiteouts}
	l.in = &window{f: o.file, buf: make([]byte, 0, 64<<10)}
	tr := tar.NewReader(l.in)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return l.checkEnd()
		}
		if err != nil {
			if l.last != "" {
				err = fmt.Errorf("after %q: %w", l.last, err)
			}
			return fmt.Errorf("archive %s: %w: %w", s.name, ErrSource, err)
		}
		if err := l.entry(h, tr); err != nil {
			return fmt.Errorf("archive %s: %w", s.name, err)
		}
		l.last = h.Name
	}
}

// spool makes the plain archive readable anywhere.
func (s *tarSource) spool(ctx context.Context, o *tarOpener) error {
	head := bufio.NewReaderSize(s.r, 64<<10)
	magic, err := head.Peek(4)
	if err != nil && err != io.EOF {
		return err
	}
	var plain io.Reader
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		if plain, err = gzip.NewReader(head); err != nil {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
	case bytes.HasPrefix(magic, []byte("BZh")):
		plain = bzip2.NewReader(head)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := compress.NewZstdReader(head)
		if err != nil {
			return err
		}
		defer z.Close() //nolint:errcheck // opened for reading
		plain = z
	default:
		if file, ok := s.r.(*os.File); ok {
			if fi, err := file.Stat(); err == nil && fi.Mode().IsRegular() {
				o.file = file
				return nil
			}
		}
		plain = head
	}
	tmp, err := tempFile()
	if err != nil {
		return err
	}
	o.file, o.own = tmp, true
	in := &contextReader{ctx, plain, nil}
	if _, err := io.Copy(tmp, in); err != nil {
		if in.err == err && ctx.Err() == nil { // not an error of writing
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
		return err
	}
	return nil
}

// tempFile makes a file that is gone when it is closed.
func tempFile() (*os.File, error) {
	f, err := os.CreateTemp("", "gobtrfs-*")
	if err != nil {
		return nil, err
	}
	// Where an open file cannot be removed, closing removes it: see tarOpener.
	_ = os.Remove(f.Name()) //nolint:errcheck // tried again then
	return f, nil
}

// contextReader ends with its context, and keeps the error that ended it.
type contextReader struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.err = c.ctx.Err(); c.err != nil {
		return 0, c.err
	}
	n, err := c.r.Read(p)
	c.err = err
	return n, err
}

// tarLoader enters one archive's entries.
type tarLoader struct {
	placer
	ctx       context.Context // of this one load
	o         *tarOpener
	in        *window
	last      string
	end       int64 // behind the last entry's contents
	maxSparse int64 // what is left
	whiteouts bool
}

// checkEnd fails when no block of zeros follows the last entry, as in an archive
// that was cut off between two entries. archive/tar takes that for an end too.
func (l *tarLoader) checkEnd() error {
	var b [512]byte
	n, err := l.o.file.ReadAt(b[:], l.end)
	if n == len(b) && (err == nil || err == io.EOF) && b == [512]byte{} {
		return l.checkEmpty()
	}
	return fmt.Errorf("archive %s: %w: ends after %q without an end marker", l.o.name, ErrSource, l.last)
}

// checkEmpty fails when an archive has no entries but something behind its end
// marker: many files that are no archives begin with zeros.
func (l *tarLoader) checkEmpty() error {
	if l.last != "" {
		return nil
	}
	head := make([]byte, mib)
	n, err := l.o.file.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	if !isZero(head[:n]) {
		return fmt.Errorf("archive %s: %w: no archive", l.o.name, ErrSource)
	}
	return nil
}

func (l *tarLoader) entry(h *tar.Header, tr *tar.Reader) error {
	l.end = l.in.at
	if !isSparse(h) {
		l.end += (h.Size + 511) &^ 511
	}
	if l.whiteouts {
		if done, err := l.whiteout(h); done || err != nil {
			return err
		}
	}
	e := Entry{
		Path: h.Name, Mode: uint32(h.Mode) & modePerm, UID: uint32(h.Uid), GID: uint32(h.Gid), //nolint:gosec // negative ids cannot be on disk either
		Mtime: onDisk(h.ModTime),
	}
	if l.f.mapping.keepTimes() {
		if !h.AccessTime.IsZero() {
			e.Atime = new(onDisk(h.AccessTime))
		}
		if !h.ChangeTime.IsZero() {
			e.Ctime = new(onDisk(h.ChangeTime))
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, '7':
		e.Mode |= modeRegular
		e.Size = h.Size
	case tar.TypeDir:
		e.Mode |= modeDir
	case tar.TypeSymlink:
		e.Mode |= modeSymlink
		e.Target = h.Linkname
	case tar.TypeLink:
		e.Link = h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		e.Mode |= modeChar
		if h.Typeflag == tar.TypeBlock {
			e.Mode = e.Mode&modePerm | modeBlock
		}
		e.Rdev = disk.JoinRdev(uint32(h.Devmajor), uint32(h.Devminor)) //nolint:gosec // cut to what fits
	case tar.TypeFifo:
		e.Mode |= modeFifo
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("%w: %q: entry of unknown type %q", ErrSource, h.Name, h.Typeflag)
	}
	var err error
	if e.Xattrs, err = paxXattrs(h); err != nil {
		return err
	}
	handle, err := l.contents(h, tr, &e)
	if err != nil {
		return err
	}
	return l.place(&e, handle)
}

// contents finds out where a regular file's bytes are. Those of sparse files are
// unpacked into a temporary file, holes left out.
func (l *tarLoader) contents(h *tar.Header, tr *tar.Reader, e *Entry) (uint64, error) {
	if e.Mode&modeType != modeRegular || e.Size == 0 {
		return 0, nil
	}
	if !isSparse(h) {
		end, err := l.o.file.ReadAt(make([]byte, 1), l.in.at+e.Size-1)
		if end != 1 {
			return 0, fmt.Errorf("%w: %q: archive ends within its contents: %w", ErrSource, h.Name, err)
		}
		return uint64(l.in.at) << 1, nil
	}
	if l.o.sparse == nil {
		var err error
		if l.o.sparse, err = tempFile(); err != nil {
			return 0, err
		}
	}
	if l.maxSparse -= e.Size; l.maxSparse < 0 {
		return 0, fmt.Errorf("%w: %q: sparse file of %d bytes: too much", ErrSource, h.Name, e.Size)
	}
	at := l.o.sparseEnd
	buf := make([]byte, 64<<10)
	for done := int64(0); done < e.Size; {
		// The claimed size is not bounded by the archive's: only holes follow.
		if err := l.ctx.Err(); err != nil {
			return 0, err
		}
		n, err := io.ReadFull(tr, buf[:min(int64(len(buf)), e.Size-done)])
		if err != nil {
			return 0, fmt.Errorf("%w: %q: %w", ErrSource, h.Name, err)
		}
		if !isZero(buf[:n]) {
			if _, err := l.o.sparse.WriteAt(buf[:n], at+done); err != nil {
				return 0, err
			}
		}
		done += int64(n)
	}
	l.end = (l.in.at + 511) &^ 511
	l.o.sparseEnd += e.Size
	if err := l.o.sparse.Truncate(l.o.sparseEnd); err != nil {
		return 0, err
	}
	return uint64(at)<<1 | 1, nil
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func paxXattrs(h *tar.Header) (map[string][]byte, error) {
	var out map[string][]byte
	set := func(k string, v []byte) {
		if out == nil {
			out = map[string][]byte{}
		}
		out[k] = v
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, paxSchily); ok && wantXattr(name) {
			set(name, []byte(v))
		}
	}
	for k, v := range h.PAXRecords {
		esc, ok := strings.CutPrefix(k, paxLibarchive)
		if !ok {
			continue
		}
		name, err := url.PathUnescape(esc)
		if err != nil {
			return nil, fmt.Errorf("%w: %q: attribute %q: %w", ErrSource, h.Name, esc, err)
		}
		if _, done := out[name]; done || !wantXattr(name) {
			continue
		}
		b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(v, "="))
		if err != nil {
			return nil, fmt.Errorf("%w: %q: attribute %q: %w", ErrSource, h.Name, name, err)
		}
		set(name, b)
	}
	return out, nil
}

// whiteout handles the names that take something away from lower layers.
func (l *tarLoader) whiteout(h *tar.Header) (bool, error) {
	dir, base := path.Split(strings.TrimSuffix(h.Name, "/"))
	name, ok := strings.CutPrefix(base, whiteoutPrefix)
	if !ok {
		return false, nil
	}
	parts, err := splitPath(dir)
	if err != nil {
		return true, err
	}
	id, _, ok := l.t.find(strings.Join(parts, "/"))
	if !ok {
		return true, nil // nothing below, nothing to take away
	}
	if base == whiteoutOpaque {
		for n := l.t.inodes[id].kids; n != 0; n = l.t.names[n].next {
			l.removeBelow(n)
		}
		return true, nil
	}
	if n, ok := l.t.lookup(id, name); ok {
		l.removeBelow(n)
	}
	return true, nil
}

// removeBelow takes away what lower layers put under a name. A directory that
// this layer described as well stays, without what the others had in it.
func (l *tarLoader) removeBelow(n nameID) {
	e := &l.t.names[n]
	if e.dead {
		return
	}
	id := e.inode
	if e.layer != l.t.layer && l.t.inodes[id].layer != l.t.layer {
		l.t.remove(n)
		return
	}
	if e.layer != l.t.layer || l.t.inodes[id].isDir() {
		for k := l.t.inodes[id].kids; k != 0; k = l.t.names[k].next {
			l.removeBelow(k)
		}
	}
}

// tarOpener reads files at their places: handle is the offset times two, plus one
// for those in the file of sparse contents.
type tarOpener struct {
	name      string
	file      *os.File
	own       bool
	sparse    *os.File
	sparseEnd int64
}

// Close closes what the opener made.
func (o *tarOpener) Close() (err error) {
	for _, f := range []*os.File{o.sparse, o.file} {
		if f == nil || (f == o.file && !o.own) {
			continue
		}
		err = errors.Join(err, f.Close())
		_ = os.Remove(f.Name()) //nolint:errcheck // is gone already where the system lets it
	}
	return err
}

func (o *tarOpener) session() session { return tarSession{o} }

type tarSession struct{ o *tarOpener }

func (tarSession) close() error { return nil }

func (s tarSession) open(t *tree, id inodeID) (content, error) {
	i := &t.inodes[id]
	f := s.o.file
	if i.handle&1 != 0 {
		f = s.o.sparse
	}
	begin := int64(i.handle >> 1)
	return tarContent{io.NewSectionReader(f, begin, i.size), f, begin}, nil
}

type tarContent struct {
	*io.SectionReader
	f     *os.File
	begin int64
}

func (c tarContent) dataFrom(at int64) int64 { return seekData(int(c.f.Fd()), c.begin+at) - c.begin }

func (tarContent) Close() error             { return nil }
func (tarContent) xattrs() ([]xattr, error) { return nil, nil }
func (tarContent) check(int64) error        { return nil }
