//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	btrfs "gobtrfs"
	"gobtrfs/disk"
)

// server answers the kernel's requests. It implements fuse.RawFileSystem.
//
// Requests run under the server's context and not under one of their own: a
// signal to the caller, such as the Go runtime sends all the time, becomes an
// INTERRUPT request, and a read(2) that then fails with EINTR breaks programs
// that work on every other filesystem. What is answered here does not wait for
// anything but the devices.
type server struct {
	fuse.RawFileSystem // answers all that is not implemented here: changes

	ctx    context.Context // ends when the mount is to be abandoned
	fs     *btrfs.FS
	sub    *btrfs.Subvolume // of a read-only mount
	top    place
	faults *faults
	advice advice
	kernel *fuse.Server  // for notifications
	dev    atomic.Uint64 // st_dev of the mount; 0: not known yet

	counters counters

	table  table
	known  *known // nil: read-only
	inodes int64  // that the kernel may know
	ahead  ahead  // of a read-only mount

	pruning atomic.Bool
	work    sync.WaitGroup // notifications of the kernel; no more start when it has ended
	recent  [recentFiles]atomic.Pointer[btrfs.File]

	statfs func(context.Context) (spaceTotals, error)
}

// recentFiles is how many inodes a read-only mount keeps at hand. Each holds
// its attributes and at most one decompressed extent of 128 KiB: 64 MiB in the
// worst case.
const recentFiles = 512

// forever is how long the kernel may believe names and attributes. Of a mount
// that is written, too: everything that changes it is a request of the same
// kernel, which knows what it makes out of date; what comes through the control
// socket is told (see changed).
const forever = 365 * 24 * time.Hour

func newServer(ctx context.Context, sub *btrfs.Subvolume, log *faults, o *Options) (*server, error) {
	root, err := sub.Root(ctx)
	if err != nil {
		return nil, err
	}
	s := &server{ctx: ctx, fs: sub.FS(), sub: sub, top: placeOf(root), faults: log, inodes: o.Inodes}
	s.advice.wanted()
	if w := s.fs.Writer(); w != nil {
		s.known = newKnown(o.Inodes, s.prune)
		r := newReadWrite(s, w)
		r.atime, r.noDirAtime = o.Atime, o.NoDirAtime
		s.RawFileSystem = r
		s.statfs = r.totals
		return s, nil
	}
	s.RawFileSystem = readOnly{fuse.NewDefaultRawFileSystem()}
	once := sync.OnceValues(func() (spaceTotals, error) { return readTotals(ctx, sub.FS()) })
	s.statfs = func(context.Context) (spaceTotals, error) { return once() }
	return s, nil
}

// String names the server in go-fuse's messages.
func (s *server) String() string { return "gobtrfs" }

// view calls look with the inode of a node as it is now; look must not keep
// it. The error is ESTALE for a node that is none any more, which is what
// holders of an old handle expect.
func (s *server) view(id uint64, look func(ctx context.Context, f *btrfs.File) error) error {
	p, ok := unpack(s.top, nodeID(id))
	if !ok {
		f := s.table.get(nodeID(id))
		switch {
		case f == nil:
			return syscall.ESTALE
		case f.IsStub() || s.known == nil:
			return look(s.ctx, f)
		}
		p = placeOf(f)
	}
	if s.known == nil {
		f, err := s.committed(p)
		if err != nil {
			return stale(err)
		}
		return look(s.ctx, f)
	}
	found := false
	err := s.fs.View(s.ctx, p.subvol, func(ctx context.Context, sub *btrfs.Subvolume) error {
		f, err := sub.Inode(ctx, p.ino)
		if err != nil {
			return err
		}
		found = true
		return look(ctx, f)
	})
	if !found {
		return stale(err)
	}
	return err
}

// stale says of an inode that is not there that it was once.
func stale(err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return syscall.ESTALE
	}
	return err
}

// place is the inode that a node stands for. ok is false for stubs and for
// nodes that are none any more.
func (s *server) place(id uint64) (p place, ok bool) {
	if p, ok = unpack(s.top, nodeID(id)); ok {
		return p, true
	}
	if f := s.table.get(nodeID(id)); f != nil && !f.IsStub() {
		return placeOf(f), true
	}
	return place{}, false
}

// committed finds an inode of a read-only mount.
func (s *server) committed(p place) (*btrfs.File, error) {
	slot := s.slot(p)
	if f := slot.Load(); f != nil && placeOf(f) == p {
		return f, nil
	}
	sub, err := s.sub.Sibling(s.ctx, p.subvol)
	if err != nil {
		return nil, err
	}
	f, err := sub.Inode(s.ctx, p.ino)
	if err != nil {
		return nil, err
	}
	if f.Item().Nlink == 0 {
		return nil, syscall.ENOENT // deleted while open, and not cleaned up yet
	}
	slot.Store(f)
	return f, nil
}

// slot is where the inode is kept if it is among the recent ones.
func (s *server) slot(p place) *atomic.Pointer[btrfs.File] {
	const golden = 0x9e3779b97f4a7c15 // spreads neighbours of several subvolumes
	return &s.recent[(uint64(p.ino)+uint64(p.subvol)*golden)%recentFiles]
}

// nodeOf is the node of a file that was found as name in a directory, and its
// inode number. With known set the kernel is told of the node: a lookup that it
// takes back with FORGET.
func (s *server) nodeOf(dir place, name string, f *btrfs.File, known bool) (id nodeID, ino uint64) {
	p := placeOf(f)
	if f.IsStub() {
		// All stubs are inode 2, as in Linux. Each has a node of its own, or the
		// kernel would take them for one directory in several places.
		if known {
			id = s.table.add(tableKey{dir, name}, f)
		}
		return id, uint64(p.ino)
	}
	id, ok := pack(s.top, p)
	if !ok {
		id = s.table.add(tableKey{place: p}, f)
		if !known {
			s.table.forget(id, 1)
		}
	}
	return id, inoOf(id, p)
}

// inoOf is st_ino.
func inoOf(id nodeID, p place) uint64 {
	if id == rootNode {
		return uint64(p.ino)
	}
	return uint64(id)
}

// Lookup finds a name in a directory. "." and ".." are asked for by holders of
// file handles only (CAP_EXPORT_SUPPORT), of nodes that the kernel has
// forgotten.
func (s *server) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	err := s.view(header.NodeId, func(ctx context.Context, dir *btrfs.File) error {
		switch {
		case len(name) > disk.MaxNameLen:
			return syscall.ENAMETOOLONG // the kernel lets through what fits FUSE
		case name == ".":
			if dir.Item().Nlink == 0 && s.known != nil && !s.known.has(nodeID(header.NodeId)) {
				return syscall.ESTALE
			}
			s.fillKnown(nodeID(header.NodeId), dir, out)
			return nil
		case name == "..":
			parent, err := s.parent(ctx, dir)
			if err == nil {
				s.fillEntry(placeOf(dir), name, parent, out)
			}
			return err
		}
		f, err := dir.Lookup(ctx, name)
		if errors.Is(err, syscall.ENOENT) {
			out.SetEntryTimeout(forever) // node 0: there is no such name
			return nil
		}
		if err != nil {
			return err
		}
		if !f.Mode().IsDir() {
			s.advice.wanted()
		}
		s.fillEntry(placeOf(dir), name, f, out)
		return nil
	})
	return s.done("lookup "+name, header.NodeId, err)
}

// fillEntry answers a lookup, which counts.
func (s *server) fillEntry(dir place, name string, f *btrfs.File, out *fuse.EntryOut) {
	id, ino := s.nodeOf(dir, name, f, true)
	s.known.add(id)
	s.fillNode(id, ino, f, out)
}

// fillKnown answers a lookup of "." for a node that the asker holds already.
func (s *server) fillKnown(id nodeID, f *btrfs.File, out *fuse.EntryOut) {
	ino := inoOf(id, placeOf(f))
	if f.IsStub() {
		ino = uint64(f.Ino())
	}
	if id&(nodeForeign|nodeTabled) == nodeTabled {
		s.table.again(id)
	}
	s.known.add(id)
	s.fillNode(id, ino, f, out)
}

func (s *server) fillNode(id nodeID, ino uint64, f *btrfs.File, out *fuse.EntryOut) {
	out.NodeId = uint64(id)
	out.Generation = uint64(f.Item().Generation)
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	fillAttr(&out.Attr, ino, f)
}

// Forget takes lookups of a node back.
func (s *server) Forget(id, n uint64) {
	if s.known != nil {
		p, ok := s.place(id)
		if last := s.known.forget(nodeID(id), n); last && ok {
			s.RawFileSystem.(*readWrite).forgotten(p)
		}
	}
	if nodeID(id)&(nodeForeign|nodeTabled) == nodeTabled {
		s.table.forget(nodeID(id), n)
	}
}

// parent is the directory that a directory is in; the top of the mount is in
// itself.
func (s *server) parent(ctx context.Context, dir *btrfs.File) (*btrfs.File, error) {
	if placeOf(dir) == s.top || dir.IsStub() {
		return dir, nil
	}
	sub := dir.Subvolume()
	if dir.IsSubvolume() {
		id, ino, _, ok, err := sub.Parent(ctx)
		if err == nil && !ok {
			err = syscall.ESTALE
		}
		if err != nil {
			return nil, err
		}
		up, err := sub.Sibling(ctx, id)
		if err != nil {
			return nil, stale(err)
		}
		return up.Inode(ctx, ino)
	}
	names, err := dir.Names(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, syscall.ESTALE
	}
	return sub.Inode(ctx, names[0].Parent)
}

// done turns the outcome of an operation on a node into an answer, and writes
// damage to the log.
func (s *server) done(op string, id uint64, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	n := errno(err)
	if n == syscall.EIO {
		s.faults.report(op, id, err, s.path)
	}
	return fuse.Status(n)
}

// path is where a node is, for the log.
func (s *server) path(id uint64) (path string, p place) {
	path = "?"
	p, _ = s.place(id)
	// What cannot be read is "?", so the error adds nothing.
	_ = s.view(id, func(ctx context.Context, f *btrfs.File) error {
		path = pathOf(ctx, f)
		return nil
	})
	return path, p
}
