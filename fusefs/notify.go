//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	btrfs "gobtrfs"
)

// Init is told of the server by go-fuse before the first request.
func (s *server) Init(f *fuse.Server) { s.kernel = f }

// node is the node of an inode, if the kernel can know it.
func (s *server) node(p place) (nodeID, bool) {
	if id, ok := pack(s.top, p); ok {
		return id, true
	}
	return s.table.find(tableKey{place: p})
}

// changed tells the kernel that a name in a directory, and with it the
// directory, was changed by somebody else than the kernel. It must not be
// called from within a request that the kernel sent for that directory's names:
// the kernel holds its lock then. (An ioctl holds none.)
func (s *server) changed(dir place, name string) {
	id, ok := s.node(dir)
	if !ok {
		return
	}
	// ENOENT: the kernel does not know the name, or the directory.
	s.kernel.EntryNotify(uint64(id), name)
	s.kernel.InodeNotify(uint64(id), 0, 0)
}

// maxTouched bounds what is remembered of one batch of edits; beyond it the
// kernel is told at once.
const maxTouched = 4096

// Watch follows an Editor that changes the filesystem beside the kernel. When
// tell is called the kernel learns what may have changed.
func (s *Server) Watch(e *btrfs.Editor) (tell func()) {
	seen := map[btrfs.Touched]struct{}{}
	tell = func() {
		for t := range seen {
			s.server.touched(t)
		}
		clear(seen)
	}
	e.Watch(func(t btrfs.Touched) {
		if seen[t] = struct{}{}; len(seen) > maxTouched {
			tell()
		}
	})
	return tell
}

// touched tells the kernel of a change of a name and of what had it.
func (s *server) touched(t btrfs.Touched) {
	if t.Dir != 0 {
		s.changed(place{t.Sub, t.Dir}, t.Name)
	}
	if id, ok := s.node(place{t.FileSub, t.File}); ok && t.File != 0 {
		s.kernel.InodeNotify(uint64(id), 0, 0)
	}
}
