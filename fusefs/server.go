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
)

// server answers the kernel's requests. It implements fuse.RawFileSystem.
//
// Requests run under the server's context and not under one of their own: a
// signal to the caller, such as the Go runtime sends all the time, becomes an
// INTERRUPT request, and a read(2) that then fails with EINTR breaks programs
// that work on every other filesystem. What is answered here does not wait for
// anything but the device.
type server struct {
	fuse.RawFileSystem // answers all that is not implemented here: changes

	ctx    context.Context // ends when the mount is to be abandoned
	fs     *btrfs.FS
	sub    *btrfs.Subvolume
	top    place
	faults *faults
	advice advice

	table  table
	recent [recentFiles]atomic.Pointer[btrfs.File]

	statfs func() (spaceTotals, error) // computed once
}

// recentFiles is how many inodes are kept at hand. Each holds its attributes
// and at most one decompressed extent of 128 KiB: 64 MiB in the worst case.
const recentFiles = 512

// forever is how long the kernel may believe names and attributes.
const forever = 365 * 24 * time.Hour

func newServer(ctx context.Context, sub *btrfs.Subvolume, log *faults) (*server, error) {
	root, err := sub.Root(ctx)
	if err != nil {
		return nil, err
	}
	s := &server{
		RawFileSystem: readOnly{fuse.NewDefaultRawFileSystem()},
		ctx:           ctx, fs: sub.FS(), sub: sub, top: placeOf(root), faults: log,
	}
	s.advice.wanted()
	s.statfs = sync.OnceValues(func() (spaceTotals, error) { return readTotals(ctx, sub.FS()) })
	return s, nil
}

// String names the server in go-fuse's messages.
func (s *server) String() string { return "gobtrfs" }

// file finds the inode of a node. The error is ESTALE for a node that is none
// any more, which is what holders of an old handle expect.
func (s *server) file(id uint64) (*btrfs.File, error) {
	p, ok := unpack(s.top, nodeID(id))
	if !ok {
		if f := s.table.get(nodeID(id)); f != nil {
			return f, nil
		}
		return nil, syscall.ESTALE
	}
	slot := s.slot(p)
	if f := slot.Load(); f != nil && placeOf(f) == p {
		return f, nil
	}
	f, err := s.inode(p)
	if errors.Is(err, syscall.ENOENT) {
		return nil, syscall.ESTALE
	}
	if err != nil {
		return nil, err
	}
	slot.Store(f)
	return f, nil
}

// slot is where the inode is kept if it is among the recent ones.
func (s *server) slot(p place) *atomic.Pointer[btrfs.File] {
	const golden = 0x9e3779b97f4a7c15 // spreads neighbours of several subvolumes
	return &s.recent[(uint64(p.ino)+uint64(p.subvol)*golden)%recentFiles]
}

func (s *server) inode(p place) (*btrfs.File, error) {
	sub := s.sub
	if p.subvol != sub.ID() {
		var err error
		if sub, err = s.fs.Subvolume(s.ctx, p.subvol); err != nil {
			return nil, err
		}
	}
	f, err := sub.Inode(s.ctx, p.ino)
	if err == nil && f.Item().Nlink == 0 {
		return nil, syscall.ENOENT // deleted while open, and not cleaned up yet
	}
	return f, err
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
	dir, err := s.file(header.NodeId)
	if err != nil {
		return s.fail("lookup", nil, err)
	}
	switch name {
	case ".":
		s.fillKnown(nodeID(header.NodeId), dir, out)
		return fuse.OK
	case "..":
		parent, err := s.parent(dir)
		if err != nil {
			return s.fail("lookup ..", dir, err)
		}
		s.fillEntry(placeOf(dir), name, parent, out)
		return fuse.OK
	}
	f, err := dir.Lookup(s.ctx, name)
	if errors.Is(err, syscall.ENOENT) {
		out.SetEntryTimeout(forever) // node 0: there is no such name, for ever
		return fuse.OK
	}
	if err != nil {
		return s.fail("lookup "+name, dir, err)
	}
	if !f.Mode().IsDir() {
		s.advice.wanted()
	}
	s.fillEntry(placeOf(dir), name, f, out)
	return fuse.OK
}

// fillEntry answers a lookup, which counts.
func (s *server) fillEntry(dir place, name string, f *btrfs.File, out *fuse.EntryOut) {
	id, ino := s.nodeOf(dir, name, f, true)
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
	if nodeID(id)&(nodeForeign|nodeTabled) == nodeTabled {
		s.table.forget(nodeID(id), n)
	}
}

// parent is the directory that a directory is in; the top of the mount is in
// itself.
func (s *server) parent(dir *btrfs.File) (*btrfs.File, error) {
	p := placeOf(dir)
	if p == s.top || dir.IsStub() {
		return dir, nil
	}
	if dir.IsSubvolume() {
		tree, ref, ok, err := s.fs.Store().Parent(s.ctx, p.subvol)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, syscall.ESTALE
		}
		return s.inode(place{tree, ref.DirID})
	}
	names, err := dir.Names(s.ctx)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, syscall.ESTALE
	}
	return s.inode(place{p.subvol, names[0].Parent})
}

// fail turns an error into an answer, and writes damage to the log. f is what
// was worked on, nil if that is not known.
func (s *server) fail(op string, f *btrfs.File, err error) fuse.Status {
	n := errno(err)
	if n == syscall.EIO {
		s.faults.report(s.ctx, op, f, err)
	}
	return fuse.Status(n)
}
