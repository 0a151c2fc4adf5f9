//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"errors"
	"io"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
)

// Open says that files are not opened: see the package comment.
func (s *server) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// Flush has nothing to flush; the kernel does not ask again.
func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Fsync has nothing to write.
func (s *server) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// FsyncDir has nothing to write.
func (s *server) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// Access is the kernel's to decide (default_permissions).
func (s *server) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

// Read reads contents. It is all or nothing: a short answer means end of file
// to the kernel, so bytes before a damaged sector are not given. The kernel then
// asks again, page by page, and gets the good ones.
func (s *server) Read(_ <-chan struct{}, input *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f, err := s.file(input.NodeId)
	if err != nil {
		return nil, s.fail("read", nil, err)
	}
	n, err := f.ReadAtContext(s.ctx, buf[:min(int(input.Size), len(buf))], int64(input.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, s.fail("read", f, err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Lseek finds data and holes. All other forms of lseek(2) are the kernel's.
func (s *server) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	f, err := s.file(in.NodeId)
	if err != nil {
		return s.fail("lseek", nil, err)
	}
	var pos int64
	switch in.Whence {
	case unix.SEEK_DATA:
		pos, err = f.SeekData(s.ctx, int64(in.Offset))
	case unix.SEEK_HOLE:
		pos, err = f.SeekHole(s.ctx, int64(in.Offset))
	default:
		return fuse.EINVAL
	}
	if err != nil {
		return s.fail("lseek", f, err)
	}
	out.Offset = uint64(pos)
	return fuse.OK
}

// GetXAttr reads an extended attribute; ACLs too, which btrfs stores in the
// form in which the kernel exchanges them.
func (s *server) GetXAttr(_ <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	f, err := s.file(header.NodeId)
	if err != nil {
		return 0, s.fail("getxattr", nil, err)
	}
	value, err := f.Xattr(s.ctx, attr)
	if errors.Is(err, btrfs.ErrNoAttribute) {
		return 0, fuse.ENODATA
	}
	if err != nil {
		return 0, s.fail("getxattr "+attr, f, err)
	}
	return fit(dest, value)
}

// ListXAttr lists the names of the extended attributes.
func (s *server) ListXAttr(_ <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	f, err := s.file(header.NodeId)
	if err != nil {
		return 0, s.fail("listxattr", nil, err)
	}
	attrs, err := f.Xattrs(s.ctx)
	if err != nil {
		return 0, s.fail("listxattr", f, err)
	}
	var names []byte
	for _, x := range attrs {
		if x.Name != "" && !strings.Contains(x.Name, "\x00") { // else the kernel refuses the whole list
			names = append(append(names, x.Name...), 0)
		}
	}
	return fit(dest, names)
}

// fit copies a value; one that is too long is ERANGE with the length it needs.
func fit(dest, value []byte) (uint32, fuse.Status) {
	if len(value) > len(dest) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}
