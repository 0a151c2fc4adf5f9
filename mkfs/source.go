package mkfs

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"

	"gobtrfs/disk"
)

// Source is a tree of files to put into a filesystem: see Dir, Tar, FS, Entries
// and Layers.
type Source interface {
	// load adds everything to the tree.
	load(ctx context.Context, t *tree, f *filter) error
}

// filter is what the loading of sources needs to know of the options.
type filter struct {
	mapping *mapping
	workers int
	own     map[fileKey]bool // targets, which are not part of the source
}

// Entry is one file for Entries. Files come in any order as long as a hard link
// comes after its target; missing directories are made with mode 0755, owner 0
// and the time of creation.
type Entry struct {
	Path     string // slash-separated, relative to the top; "." or "" is the top itself
	Mode     uint32 // st_mode: type and permissions
	UID, GID uint32
	Size     int64     // of a regular file
	Mtime    disk.Time // also used for the times that are nil
	Atime    *disk.Time
	Ctime    *disk.Time
	Btime    *disk.Time
	Rdev     uint64            // of a device: see disk.JoinRdev
	Target   string            // of a symbolic link
	Link     string            // makes the entry a further name of an earlier path
	Xattrs   map[string][]byte // full names
	// Open opens the contents of a regular file with Size above 0. It is called
	// once, perhaps long afterwards and by another goroutine.
	Open func() (Content, error)
}

// Content is the contents of a regular file.
type Content interface {
	io.ReaderAt
	io.Closer
}

// Entries is a source that a program makes up. An error that the sequence yields
// ends the work.
func Entries(seq iter.Seq2[Entry, error]) Source { return entriesSource{seq} }

type entriesSource struct{ seq iter.Seq2[Entry, error] }

func (s entriesSource) load(ctx context.Context, t *tree, f *filter) error {
	t.makeIndex()
	o := &entryOpener{}
	from, err := t.addOpener(o)
	if err != nil {
		return err
	}
	p := &placer{t: t, f: f, from: from}
	for e, err := range s.seq {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Mode&modeType == modeRegular && e.Link == "" && e.Size > 0 {
			if e.Open == nil {
				return fmt.Errorf("%w: %s: no way to open it", ErrSource, e.Path)
			}
			o.open = append(o.open, e.Open)
		}
		if err := p.place(&e, uint64(len(o.open))); err != nil {
			return err
		}
	}
	return nil
}

// entryOpener opens by handle: handle n is open[n-1].
type entryOpener struct{ open []func() (Content, error) }

func (o *entryOpener) session() session { return entrySession{o} }

type entrySession struct{ o *entryOpener }

func (s entrySession) close() error { return nil }

func (s entrySession) open(t *tree, id inodeID) (content, error) {
	c, err := s.o.open[t.inodes[id].handle-1]()
	if err != nil {
		return nil, err
	}
	return plainContent{c}, nil
}

// plainContent is a Content whose attributes are in the tree already. Whether it
// is as long as it claimed shows when it is read.
type plainContent struct{ Content }

func (plainContent) xattrs() ([]xattr, error) { return nil, nil }

func (c plainContent) check(size int64) error {
	var b [1]byte
	if n, err := c.ReadAt(b[:], size); n != 0 || (err != nil && err != io.EOF) {
		return fmt.Errorf("%w: longer than %d bytes", ErrChanged, size)
	}
	return nil
}

// addOpener makes an opener known.
func (t *tree) addOpener(o opener) (uint8, error) {
	if len(t.openers) == 255 {
		return 0, fmt.Errorf("more than 255 sources")
	}
	t.openers = append(t.openers, o)
	return uint8(len(t.openers) - 1), nil
}

// placer puts entries with paths into the tree, for sources that do not come as
// directories. Later layers replace what earlier ones had.
type placer struct {
	t    *tree
	f    *filter
	from uint8
}

// splitPath cuts a path into its parts. It refuses everything that could mean a
// place outside.
func splitPath(p string) ([]string, error) {
	if strings.HasPrefix(p, "/") {
		return nil, fmt.Errorf("%w: %q: absolute path", ErrSource, p)
	}
	var parts []string
	for part := range strings.SplitSeq(p, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return nil, fmt.Errorf("%w: %q: path leads upwards", ErrSource, p)
		case len(part) > disk.MaxNameLen:
			return nil, fmt.Errorf("%w: %q: name of %d bytes, at most %d", ErrSource, p, len(part), disk.MaxNameLen)
		case strings.ContainsRune(part, 0):
			return nil, fmt.Errorf("%w: %q: name with a zero byte", ErrSource, p)
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// parent walks to the directory that holds the last part, making what is
// missing.
func (p *placer) parent(parts []string, whole string) (inodeID, error) {
	dir := inodeID(0)
	for _, part := range parts[:len(parts)-1] {
		n, ok := p.t.lookup(dir, part)
		if !ok {
			id, err := p.addInode(inode{mode: modeDir | 0o755, sec: noTime})
			if err != nil {
				return 0, err
			}
			if n, err = p.t.addName(dir, part, id); err != nil {
				return 0, err
			}
		}
		dir = p.t.names[n].inode
		if !p.t.inodes[dir].isDir() {
			return 0, fmt.Errorf("%w: %q: %q is not a directory", ErrSource, whole, p.t.pathOf(dir))
		}
	}
	return dir, nil
}

// noTime marks a directory that no source described; it gets the time of
// creation.
const noTime = -1 << 63

func (p *placer) addInode(i inode) (inodeID, error) {
	i.layer, i.from = p.t.layer, p.from
	return p.t.addInode(i)
}

// place enters e. The handle is for the opener.
func (p *placer) place(e *Entry, handle uint64) error {
	parts, err := splitPath(e.Path)
	if err != nil {
		return err
	}
	if p.f.mapping.excluded(strings.Join(parts, "/")) {
		return nil
	}
	i, err := entryInode(e, handle)
	if err != nil {
		return err
	}
	p.f.mapping.apply(&i)
	i.from, i.layer = p.from, p.t.layer
	if len(parts) == 0 {
		if !i.isDir() || e.Link != "" {
			return fmt.Errorf("%w: the top is not a directory", ErrSource)
		}
		return p.describe(0, i, e)
	}
	dir, err := p.parent(parts, e.Path)
	if err != nil {
		return err
	}
	last := parts[len(parts)-1]
	if n, ok := p.t.lookup(dir, last); ok {
		old := p.t.names[n].inode
		if i.isDir() && e.Link == "" && p.t.inodes[old].isDir() {
			return p.describe(old, i, e)
		}
		if p.t.names[n].layer == p.t.layer {
			return fmt.Errorf("%w: %q: entry is there twice", ErrSource, e.Path)
		}
		p.t.remove(n)
	}
	if e.Link != "" {
		return p.link(dir, last, e)
	}
	id, err := p.addInode(i)
	if err != nil {
		return err
	}
	if _, err := p.t.addName(dir, last, id); err != nil {
		return err
	}
	return p.describe(id, i, e)
}

// describe sets what an inode has beside its name.
func (p *placer) describe(id inodeID, i inode, e *Entry) error {
	t := p.t
	old := &t.inodes[id]
	i.names, i.kids = old.names, old.kids
	*old = i
	delete(t.xattrs, id)
	delete(t.times, id)
	if e.Target != "" {
		t.target[id] = e.Target
	}
	if len(e.Xattrs) > 0 {
		xs := make([]xattr, 0, len(e.Xattrs))
		for k, v := range e.Xattrs {
			xs = append(xs, xattr{k, v})
		}
		t.xattrs[id] = sortXattrs(xs)
	}
	if e.Atime != nil || e.Ctime != nil || e.Btime != nil {
		v := times{e.Mtime, e.Mtime, e.Mtime}
		for _, s := range []struct{ from, to *disk.Time }{{e.Atime, &v.atime}, {e.Ctime, &v.ctime}, {e.Btime, &v.otime}} {
			if s.from != nil {
				*s.to = *s.from
			}
		}
		t.times[id] = v
	}
	return nil
}

// link makes a further name for what an earlier entry named.
func (p *placer) link(dir inodeID, last string, e *Entry) error {
	parts, err := splitPath(e.Link)
	if err != nil {
		return fmt.Errorf("%w: %q: hard link: %w", ErrSource, e.Path, err)
	}
	id, n, ok := p.t.find(strings.Join(parts, "/"))
	if !ok || n == 0 {
		return fmt.Errorf("%w: %q: hard link to %q, which is not there", ErrSource, e.Path, e.Link)
	}
	if p.t.inodes[id].isDir() {
		return fmt.Errorf("%w: %q: hard link to the directory %q", ErrSource, e.Path, e.Link)
	}
	_, err = p.t.addName(dir, last, id)
	return err
}

// entryInode checks an entry on its own.
func entryInode(e *Entry, handle uint64) (inode, error) {
	i := inode{
		mode: e.Mode, uid: e.UID, gid: e.GID, sec: e.Mtime.Sec, nsec: e.Mtime.Nsec,
	}
	if e.Link != "" {
		return i, nil
	}
	if e.Mtime.Nsec >= 1e9 {
		return i, fmt.Errorf("%w: %q: %d nanoseconds", ErrSource, e.Path, e.Mtime.Nsec)
	}
	switch e.Mode & modeType {
	case modeRegular:
		if e.Size < 0 {
			return i, fmt.Errorf("%w: %q: size %d", ErrSource, e.Path, e.Size)
		}
		i.size, i.handle = e.Size, handle
	case modeSymlink:
		if e.Target == "" || strings.ContainsRune(e.Target, 0) {
			return i, fmt.Errorf("%w: %q: symbolic link to %q", ErrSource, e.Path, e.Target)
		}
		i.mode = modeSymlink | 0o777
	case modeChar, modeBlock:
		i.rdev = e.Rdev
	case modeDir, modeFifo, modeSocket:
	default:
		return i, fmt.Errorf("%w: %q: mode %#o has no known type", ErrSource, e.Path, e.Mode)
	}
	return i, nil
}
