package btrfs

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
)

// Subvolume is a tree of files.
type Subvolume struct {
	fs  *FS
	sub *fstree.Subvol
}

// ID is the subvolume's id.
func (s *Subvolume) ID() disk.ObjectID { return s.sub.ID() }

// FS is the filesystem that the subvolume belongs to.
func (s *Subvolume) FS() *FS { return s.fs }

// Sibling opens another subvolume in the state of this one, which FS.Subvolume
// need not do.
func (s *Subvolume) Sibling(ctx context.Context, id disk.ObjectID) (*Subvolume, error) {
	if id == s.ID() {
		return s, nil
	}
	sub, err := s.sub.Store().Subvol(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("btrfs: %w", err)
	}
	return &Subvolume{fs: s.fs, sub: sub}, nil
}

// Parent says in which directory the subvolume hangs. ok is false for the top
// level and for a subvolume without a name.
func (s *Subvolume) Parent(ctx context.Context) (sub, dir disk.ObjectID, name string, ok bool, err error) {
	sub, ref, ok, err := s.sub.Store().Parent(ctx, s.ID())
	if err != nil {
		return 0, 0, "", false, fmt.Errorf("btrfs: %w", err)
	}
	return sub, ref.DirID, string(ref.Name), ok, nil
}

// Root opens the top directory.
func (s *Subvolume) Root(ctx context.Context) (*File, error) {
	return s.Inode(ctx, s.sub.RootDir())
}

// Inode opens an inode by its number. The error matches fs.ErrNotExist if
// there is none.
func (s *Subvolume) Inode(ctx context.Context, ino disk.ObjectID) (*File, error) {
	item, err := s.sub.Inode(ctx, ino)
	if err != nil {
		return nil, fmt.Errorf("btrfs: %w", err)
	}
	return newFile(s, ino, item), nil
}

// Open opens the file at a path from the subvolume's top directory. Nested
// subvolumes are entered; symbolic links are not followed: a link at the end
// is opened itself, one before it is an error (ENOTDIR). The empty path and
// "/" are the top directory.
func (s *Subvolume) Open(ctx context.Context, name string) (*File, error) {
	f, err := s.Root(ctx)
	for part := range strings.SplitSeq(name, "/") {
		if err != nil {
			break
		}
		switch part {
		case "", ".":
			continue
		}
		f, err = f.Lookup(ctx, part)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return f, nil
}

// maxLinks is how many symbolic links one path may lead through, as in Linux.
const maxLinks = 40

// OpenFollow is Open, with symbolic links followed wherever they stand, also
// at the end. Absolute targets start at the subvolume's top directory.
func (s *Subvolume) OpenFollow(ctx context.Context, name string) (*File, error) {
	fail := func(err error) (*File, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	root, err := s.Root(ctx)
	if err != nil {
		return fail(err)
	}
	trail := []*File{root} // the directories passed through, for ".."
	parts := strings.Split(name, "/")
	for links := 0; len(parts) > 0; {
		part := parts[0]
		parts = parts[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		f, err := trail[len(trail)-1].Lookup(ctx, part)
		if err != nil {
			return fail(err)
		}
		if f.Mode()&fs.ModeSymlink == 0 {
			trail = append(trail, f)
			continue
		}
		if links++; links > maxLinks {
			return fail(syscall.ELOOP)
		}
		target, err := f.Readlink(ctx)
		if err != nil {
			return fail(err)
		}
		if path.IsAbs(target) {
			trail = trail[:1]
		}
		parts = append(strings.Split(target, "/"), parts...)
	}
	return trail[len(trail)-1], nil
}

// File is an inode: a regular file, a directory or anything else. Its
// attributes are those at the time it was opened.
type File struct {
	sub    *Subvolume
	ino    disk.ObjectID
	item   disk.InodeItem
	stub   bool
	reader *fstree.Reader
}

func newFile(s *Subvolume, ino disk.ObjectID, item disk.InodeItem) *File {
	f := &File{sub: s, ino: ino, item: item}
	if f.Mode().IsRegular() {
		f.reader = s.sub.Reader(ino, &f.item)
	}
	return f
}

// stubItem is what stat shows for the directory that stands for a subvolume
// which a snapshot did not take along (new_simple_dir, Linux 6.18).
func stubItem() disk.InodeItem {
	return disk.InodeItem{Nlink: 1, Mode: 0o040755}
}

// Ino is the inode number, unique within the subvolume.
func (f *File) Ino() disk.ObjectID { return f.ino }

// Subvolume is the subvolume that the inode belongs to.
func (f *File) Subvolume() *Subvolume { return f.sub }

// IsStub says that this directory only stands for a subvolume which a snapshot
// did not take along. It is empty and has no attributes of its own.
func (f *File) IsStub() bool { return f.stub }

// IsSubvolume says whether this is the top directory of a subvolume.
func (f *File) IsSubvolume() bool { return !f.stub && f.ino == f.sub.sub.RootDir() }

// Item is the inode item as it stands on disk.
func (f *File) Item() *disk.InodeItem { return &f.item }

// Size is st_size, in bytes.
func (f *File) Size() int64 { return int64(min(f.item.Size, math.MaxInt64)) }

// Mode is the file's type and permissions.
func (f *File) Mode() fs.FileMode { return fileMode(f.item.Mode) }

// ModTime is the time of the last change of the contents.
func (f *File) ModTime() time.Time { return fileTime(f.item.Mtime) }

func fileTime(t disk.Time) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

// fileMode translates st_mode.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & 0o170000 {
	case 0o040000:
		m |= fs.ModeDir
	case 0o120000:
		m |= fs.ModeSymlink
	case 0o020000:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case 0o060000:
		m |= fs.ModeDevice
	case 0o010000:
		m |= fs.ModeNamedPipe
	case 0o140000:
		m |= fs.ModeSocket
	case 0o100000:
	default:
		m |= fs.ModeIrregular
	}
	if mode&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if mode&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// ReadAtContext reads len(p) bytes from offset off, as io.ReaderAt does. Bytes
// that fail their checksum are never returned: the error is a *CorruptError.
func (f *File) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	if f.reader == nil {
		if f.Mode().IsDir() {
			return 0, syscall.EISDIR
		}
		return 0, syscall.EINVAL
	}
	return f.reader.ReadAt(ctx, p, uint64(off))
}

// ReadAt is ReadAtContext without a way to cancel it.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	return f.ReadAtContext(context.Background(), p, off)
}

// ReadAll reads the whole contents.
func (f *File) ReadAll(ctx context.Context) ([]byte, error) {
	// The size may lie: do not take memory for more than the next read gives.
	const step = 1 << 20
	var out []byte
	for off := int64(0); ; {
		out = slices.Grow(out, int(min(max(1, f.Size()-off), step)))
		n, err := f.ReadAtContext(ctx, out[len(out):cap(out)], off)
		out, off = out[:len(out)+n], off+int64(n)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

// Extent is a range of a regular file.
type Extent = fstree.Extent

// Extents walks the file from offset off to its end: extents and holes without
// gaps between them. Errors end the walk.
func (f *File) Extents(ctx context.Context, off int64) iter.Seq2[*Extent, error] {
	return func(yield func(*Extent, error) bool) {
		it := f.sub.sub.Extents(ctx, f.ino, f.item.Size, uint64(max(0, off)))
		for it.Next() {
			if !yield(it.Extent(), nil) {
				return
			}
		}
		if err := it.Err(); err != nil {
			yield(nil, err)
		}
	}
}

// SeekData is the offset of the next byte of data at or behind off
// (SEEK_DATA). The error is ENXIO if only holes follow, or off is not below
// the size. Preallocated ranges count as holes, as in Linux.
func (f *File) SeekData(ctx context.Context, off int64) (int64, error) {
	return f.seek(ctx, off, true)
}

// SeekHole is the offset of the next hole at or behind off (SEEK_HOLE); the
// end of the file counts as one. The error is ENXIO if off is not below the
// size.
func (f *File) SeekHole(ctx context.Context, off int64) (int64, error) {
	return f.seek(ctx, off, false)
}

func (f *File) seek(ctx context.Context, off int64, data bool) (int64, error) {
	if off < 0 || off >= f.Size() {
		return 0, syscall.ENXIO
	}
	for e, err := range f.Extents(ctx, off) {
		if err != nil {
			return 0, err
		}
		if e.IsData() == data {
			return max(off, int64(e.Start)), nil
		}
	}
	if data {
		return 0, syscall.ENXIO
	}
	return f.Size(), nil
}

// Readlink is the target of a symbolic link.
func (f *File) Readlink(ctx context.Context) (string, error) {
	if f.Mode()&fs.ModeSymlink == 0 {
		return "", syscall.EINVAL
	}
	target, err := f.sub.sub.Readlink(ctx, f.ino)
	return string(target), err
}

// Xattr is an extended attribute with its full name.
type Xattr struct {
	Name  string
	Value []byte
}

// Xattrs lists the extended attributes, ACLs ("system.posix_acl_access") and
// capabilities ("security.capability") among them, in the order of their
// names.
func (f *File) Xattrs(ctx context.Context) ([]Xattr, error) {
	if f.stub {
		return nil, nil
	}
	raw, err := f.sub.sub.Xattrs(ctx, f.ino)
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	out := make([]Xattr, len(raw))
	for i, x := range raw {
		out[i] = Xattr{string(x.Name), slices.Clone(x.Value)}
	}
	slices.SortFunc(out, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Xattr reads one extended attribute by its full name. The error is
// ErrNoAttribute if there is none.
func (f *File) Xattr(ctx context.Context, name string) ([]byte, error) {
	if f.stub {
		return nil, ErrNoAttribute
	}
	v, err := f.sub.sub.Xattr(ctx, f.ino, []byte(name))
	return slices.Clone(v), err
}

// DirEntry is a name in a directory.
type DirEntry struct {
	Name  string
	Type  fs.FileMode // type bits alone
	Index uint64      // position: entries sort by it
	Ino   disk.ObjectID
	ent   fstree.DirEntry
}

// entryType translates a directory entry's type.
func entryType(t uint8) fs.FileMode {
	switch t &^ disk.FtEncrypted {
	case disk.FtRegFile:
		return 0
	case disk.FtDir:
		return fs.ModeDir
	case disk.FtChrdev:
		return fs.ModeDevice | fs.ModeCharDevice
	case disk.FtBlkdev:
		return fs.ModeDevice
	case disk.FtFifo:
		return fs.ModeNamedPipe
	case disk.FtSock:
		return fs.ModeSocket
	case disk.FtSymlink:
		return fs.ModeSymlink
	}
	return fs.ModeIrregular
}

// ReadDir walks the entries of a directory in the order in which they were
// made, from behind the entry with index after; 0 starts at the first. Errors
// end the walk.
func (f *File) ReadDir(ctx context.Context, after uint64) iter.Seq2[*DirEntry, error] {
	return func(yield func(*DirEntry, error) bool) {
		if f.stub {
			return
		}
		if !f.Mode().IsDir() {
			yield(nil, syscall.ENOTDIR)
			return
		}
		it := f.sub.sub.ReadDir(ctx, f.ino, after)
		for it.Next() {
			e := it.Entry()
			d := &DirEntry{
				Name: string(e.Name), Type: entryType(e.Type), Index: e.Index, Ino: e.Location.ObjectID, ent: *e,
			}
			if e.IsSubvol() {
				d.Ino = disk.RootDirObjectID
			}
			if !yield(d, nil) {
				return
			}
		}
		if err := it.Err(); err != nil {
			yield(nil, err)
		}
	}
}

// Lookup opens the file called name in a directory. The error matches
// fs.ErrNotExist if there is none. The names "." and ".." mean nothing here.
func (f *File) Lookup(ctx context.Context, name string) (*File, error) {
	if !f.Mode().IsDir() {
		return nil, syscall.ENOTDIR
	}
	if f.stub {
		return nil, syscall.ENOENT
	}
	e, err := f.sub.sub.Lookup(ctx, f.ino, []byte(name))
	if err != nil {
		return nil, err
	}
	return f.child(ctx, &e)
}

// OpenEntry opens what an entry of this directory names.
func (f *File) OpenEntry(ctx context.Context, e *DirEntry) (*File, error) {
	return f.child(ctx, &e.ent)
}

func (f *File) child(ctx context.Context, e *fstree.DirEntry) (*File, error) {
	sub, ino, stub, err := f.sub.sub.Child(ctx, f.ino, e)
	if err != nil {
		return nil, err
	}
	if stub {
		return &File{sub: f.sub, ino: ino, item: stubItem(), stub: true}, nil
	}
	owner := f.sub
	if sub != f.sub.sub {
		owner = &Subvolume{fs: f.sub.fs, sub: sub}
	}
	item, err := sub.Inode(ctx, ino)
	if err != nil {
		return nil, err
	}
	return newFile(owner, ino, item), nil
}

// Name is one of a file's names.
type Name struct {
	Parent disk.ObjectID // the directory's inode number
	Index  uint64        // as DirEntry has it
	Name   string
}

// Names lists all names of the inode within its subvolume.
func (f *File) Names(ctx context.Context) ([]Name, error) {
	raw, err := f.sub.sub.Names(ctx, f.ino)
	out := make([]Name, len(raw))
	for i, n := range raw {
		out[i] = Name{n.Parent, n.Index, string(n.Name)}
	}
	return out, err
}

// Flags is the file's flags as lsattr(1) shows them: the FS_*_FL bits of
// ioctl FS_IOC_GETFLAGS.
func (f *File) Flags() uint32 { return fstree.FileFlags(&f.item) }
