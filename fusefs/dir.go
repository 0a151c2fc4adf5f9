//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"context"
	"io/fs"
	"math"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
	"gobtrfs/disk"
)

// The position in a directory (telldir) is that of an entry's DIR_INDEX item
// plus one, 1 behind "." and 2 behind "..": it stays true whatever is made or
// deleted meanwhile. Linux gives the first entry of a directory index 2.
const (
	behindDot    = 1
	behindDotDot = 2
)

// entry is one line of a directory listing.
type entry struct {
	fuse.DirEntry
	file *btrfs.File // nil if it cannot be read, or was not asked for
}

// OpenDir says that directories are not opened: see the package comment.
func (s *server) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

// ReadDir lists names.
func (s *server) ReadDir(_ <-chan struct{}, input *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	nothing := func(*btrfs.DirEntry) bool { return false }
	return s.list(input, nothing, func(_ place, e entry) bool { return out.AddDirEntry(e.DirEntry) })
}

// ReadDirPlus lists names and attributes: a lookup of each in one request, or,
// for those whose attributes nobody seems to want, only the name.
func (s *server) ReadDirPlus(_ <-chan struct{}, input *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	full := s.advice.listing(input.Offset < behindDotDot)
	wanted := func(e *btrfs.DirEntry) bool { return full || e.Type.IsDir() }
	return s.list(input, wanted, func(dir place, e entry) bool {
		slot := out.AddDirLookupEntry(e.DirEntry)
		if slot == nil {
			return false
		}
		if e.file != nil { // else node 0: no attributes, and no lookup to forget
			s.fillEntry(dir, e.Name, e.file, slot)
		}
		return true
	})
}

// advice says whether listings shall give the attributes of files that are no
// directories. They cost the kernel more than the server, which is half of the
// time of find(1), which looks at names and types only; whereas without them
// tar(1) and ls -l make a request for each file. So the next fullListings
// directories are listed with attributes, then one without; whoever wants them
// looks files up in it, which starts the count again. It is advice: a race
// between its users changes nothing but speed.
type advice struct{ left atomic.Int32 }

const fullListings = 16

// wanted says that somebody looked up a file.
func (a *advice) wanted() {
	if a.left.Load() != fullListings { // many readers, seldom a change
		a.left.Store(fullListings)
	}
}

// listing says whether a listing gives attributes. first says that it starts
// a directory.
func (a *advice) listing(first bool) bool {
	if a.left.Load() <= 0 {
		return false
	}
	if first {
		a.left.Add(-1)
	}
	return true
}

// list calls add with each entry behind the position, until add says that the
// answer is full. plus says which entries come with their inode.
func (s *server) list(input *fuse.ReadIn, plus func(*btrfs.DirEntry) bool, add func(dir place, e entry) bool) fuse.Status {
	var bad []trouble
	var read reading
	err := s.view(input.NodeId, func(ctx context.Context, dir *btrfs.File) error {
		if !dir.Mode().IsDir() {
			return syscall.ENOTDIR
		}
		at := placeOf(dir)
		if input.Offset < behindDot {
			read = s.read(dir)
		}
		if input.Offset < behindDotDot && !s.listDots(ctx, input, dir, add) {
			return nil
		}
		after := max(input.Offset, behindDotDot) - 1
		for e, err := range dir.ReadDir(ctx, after) {
			if err != nil {
				return err
			}
			if e.Index >= math.MaxInt64 {
				break // no position says this; nobody makes 2⁶³ files
			}
			if !validName(e.Name) {
				err := &btrfs.CorruptError{Tree: at.subvol, Key: disk.Key{ObjectID: at.ino, Type: disk.KeyDirIndex, Offset: e.Index}, What: "name"}
				bad = append(bad, trouble{"readdir", err})
				continue // the kernel would refuse the whole listing
			}
			line, err := s.listed(ctx, dir, e, plus(e))
			if err != nil {
				bad = append(bad, trouble{"lookup " + e.Name, err})
			}
			if !add(at, line) {
				break
			}
		}
		return nil
	})
	s.accessed(read, input.Flags)
	for _, b := range bad {
		s.done(b.op, input.NodeId, b.err)
	}
	return s.done("readdir", input.NodeId, err)
}

// trouble is what was found wrong with an entry; it does not spoil the others.
type trouble struct {
	op  string
	err error
}

// listDots lists "." and ".." and says whether there is room for more.
func (s *server) listDots(ctx context.Context, input *fuse.ReadIn, dir *btrfs.File, add func(place, entry) bool) bool {
	at := placeOf(dir)
	if input.Offset < behindDot {
		dot := fuse.DirEntry{Name: ".", Mode: unix.S_IFDIR, Ino: s.ino(input.NodeId, dir), Off: behindDot}
		if !add(at, entry{DirEntry: dot}) {
			return false
		}
	}
	up := fuse.DirEntry{Name: "..", Mode: unix.S_IFDIR, Off: behindDotDot}
	// Without a parent, in a damaged tree, it is a number that means "unknown".
	if parent, err := s.parent(ctx, dir); err == nil {
		_, up.Ino = s.nodeOf(at, "..", parent, false)
	}
	return add(at, entry{DirEntry: up})
}

// listed says what the listing shows of an entry. One whose inode cannot be
// read still has its name: the others in the directory are worth having, and
// a lookup of this one says what is wrong.
func (s *server) listed(ctx context.Context, dir *btrfs.File, e *btrfs.DirEntry, plus bool) (entry, error) {
	at := placeOf(dir)
	out := entry{DirEntry: fuse.DirEntry{Name: e.Name, Mode: typeBits(e.Type), Off: e.Index + 1}}
	// An inode's number is known without reading it, a subvolume's is not.
	simple := e.Ino != disk.RootDirObjectID
	if simple && !plus {
		if id, ok := pack(s.top, place{at.subvol, e.Ino}); ok {
			out.Ino = inoOf(id, place{at.subvol, e.Ino})
			return out, nil
		}
	}
	f, err := dir.OpenEntry(ctx, e)
	if err != nil {
		return out, err
	}
	_, out.Ino = s.nodeOf(at, e.Name, f, false)
	if plus {
		out.file = f
	}
	return out, nil
}

// validName says whether a name can be a directory entry at all.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= disk.MaxNameLen && !strings.ContainsAny(name, "/\x00")
}

// typeBits is a type as st_mode has it.
func typeBits(t fs.FileMode) uint32 {
	switch {
	case t == 0:
		return unix.S_IFREG
	case t&fs.ModeDir != 0:
		return unix.S_IFDIR
	case t&fs.ModeSymlink != 0:
		return unix.S_IFLNK
	case t&fs.ModeCharDevice != 0:
		return unix.S_IFCHR
	case t&fs.ModeDevice != 0:
		return unix.S_IFBLK
	case t&fs.ModeNamedPipe != 0:
		return unix.S_IFIFO
	case t&fs.ModeSocket != 0:
		return unix.S_IFSOCK
	}
	return 0
}

// Readlink reads a symbolic link.
func (s *server) Readlink(_ <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	var target string
	var read reading
	err := s.view(header.NodeId, func(ctx context.Context, f *btrfs.File) (err error) {
		read = s.read(f)
		target, err = f.Readlink(ctx)
		if err == nil && (target == "" || len(target) >= unix.PathMax) {
			err = syscall.EIO
		}
		return err
	})
	s.accessed(read, 0)
	return []byte(target), s.done("readlink", header.NodeId, err)
}
