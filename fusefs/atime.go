//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
	"gobtrfs/internal/fstree"
)

// reading is an inode that a request reads, and whether its time of access is
// then due. Reads that the kernel answers from its memory are not seen here.
type reading struct {
	place
	due bool
}

// read is called with an inode that a request reads.
func (s *server) read(f *btrfs.File) (v reading) {
	r, ok := s.RawFileSystem.(*readWrite)
	if !ok || r.atime == AtimeNever || f.IsStub() || r.noDirAtime && f.Mode().IsDir() {
		return v
	}
	return reading{placeOf(f), fstree.AtimeDue(f.Item(), r.w.Txn().Now(), r.atime == AtimeRelative)}
}

// accessed writes the time of access of an inode that was read; flags are those
// of the open file. It happens before the answer, after which the kernel asks
// for the attributes anew. That it cannot be written, because there is no space,
// is no reason for a read to fail.
func (s *server) accessed(v reading, flags uint32) {
	if !v.due || flags&unix.O_NOATIME != 0 {
		return
	}
	r := s.RawFileSystem.(*readWrite)
	if err := r.w.Accessed(s.ctx, v.subvol, v.ino, r.atime == AtimeRelative); err != nil {
		s.faults.log.Debug("time of access not written", "subvol", uint64(v.subvol), "ino", uint64(v.ino), "err", err)
	}
}
