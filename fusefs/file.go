//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"context"
	"errors"
	"io"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
)

// Open says that files are not opened: see the package comment.
func (s *server) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// Flush has nothing to flush; the kernel does not ask again.
func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Access is the kernel's to decide (default_permissions).
func (s *server) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

// Read reads contents. It is all or nothing: a short answer means end of file
// to the kernel, so bytes before a damaged sector are not given. The kernel then
// asks again, page by page, and gets the good ones.
func (s *server) Read(_ <-chan struct{}, input *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n := 0
	var read reading
	err := s.view(input.NodeId, func(ctx context.Context, f *btrfs.File) (err error) {
		read = s.read(f)
		n, err = f.ReadAtContext(ctx, buf[:min(int(input.Size), len(buf))], int64(input.Offset))
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if err == nil && s.known == nil && input.Offset == 0 {
			s.storeAhead(f)
		}
		return err
	})
	if err != nil {
		return nil, s.done("read", input.NodeId, err)
	}
	s.accessed(read, input.Flags)
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Lseek finds data and holes. All other forms of lseek(2) are the kernel's.
func (s *server) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	err := s.view(in.NodeId, func(ctx context.Context, f *btrfs.File) (err error) {
		var pos int64
		switch in.Whence {
		case unix.SEEK_DATA:
			pos, err = f.SeekData(ctx, int64(in.Offset))
		case unix.SEEK_HOLE:
			pos, err = f.SeekHole(ctx, int64(in.Offset))
		default:
			err = syscall.EINVAL
		}
		out.Offset = uint64(pos)
		return err
	})
	return s.done("lseek", in.NodeId, err)
}

// GetXAttr reads an extended attribute; ACLs too, which btrfs stores in the
// form in which the kernel exchanges them.
func (s *server) GetXAttr(_ <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	var value []byte
	err := s.view(header.NodeId, func(ctx context.Context, f *btrfs.File) (err error) {
		value, err = f.Xattr(ctx, attr)
		return err
	})
	if errors.Is(err, btrfs.ErrNoAttribute) {
		return 0, fuse.ENODATA
	}
	if err != nil {
		return 0, s.done("getxattr "+attr, header.NodeId, err)
	}
	return fit(dest, value)
}

// ListXAttr lists the names of the extended attributes.
func (s *server) ListXAttr(_ <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	var names []byte
	err := s.view(header.NodeId, func(ctx context.Context, f *btrfs.File) error {
		attrs, err := f.Xattrs(ctx)
		for _, x := range attrs {
			if x.Name != "" && !strings.Contains(x.Name, "\x00") { // else the kernel refuses the whole list
				names = append(append(names, x.Name...), 0)
			}
		}
		return err
	})
	if err != nil {
		return 0, s.done("listxattr", header.NodeId, err)
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
