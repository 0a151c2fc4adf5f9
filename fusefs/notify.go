//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import "github.com/hanwen/go-fuse/v2/fuse"

// Init is told of the server by go-fuse before the first request.
func (s *server) Init(f *fuse.Server) { s.kernel = f }

// changed tells the kernel that a name in a directory, and with it the
// directory, was changed by somebody else than the kernel. It must not be
// called from within a request that the kernel sent for that directory's names:
// the kernel holds its lock then. (An ioctl holds none.)
func (s *server) changed(dir place, name string) {
	id, ok := pack(s.top, dir)
	if !ok {
		if id, ok = s.table.find(tableKey{place: dir}); !ok {
			return // the kernel does not know it
		}
	}
	// ENOENT: the kernel does not know the name, or the directory.
	s.kernel.EntryNotify(uint64(id), name)
	s.kernel.InodeNotify(uint64(id), 0, 0)
}
