//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// readOnly refuses every change, and answers ENOSYS to all that reading does
// not need. The kernel asks for no change on a mount that is read-only; the
// refusals hold if it should all the same.
//
// The requests that may change something are together here because they come
// and go together: who mounts for writing puts in something that carries them
// out in this one's place.
type readOnly struct{ fuse.RawFileSystem }

const erofs = fuse.Status(syscall.EROFS)

func (readOnly) SetAttr(<-chan struct{}, *fuse.SetAttrIn, *fuse.AttrOut) fuse.Status { return erofs }

func (readOnly) Mknod(<-chan struct{}, *fuse.MknodIn, string, *fuse.EntryOut) fuse.Status {
	return erofs
}

func (readOnly) Mkdir(<-chan struct{}, *fuse.MkdirIn, string, *fuse.EntryOut) fuse.Status {
	return erofs
}

func (readOnly) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return erofs }

func (readOnly) Rmdir(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return erofs }

func (readOnly) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status { return erofs }

func (readOnly) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status { return erofs }

func (readOnly) Symlink(<-chan struct{}, *fuse.InHeader, string, string, *fuse.EntryOut) fuse.Status {
	return erofs
}

func (readOnly) SetXAttr(<-chan struct{}, *fuse.SetXAttrIn, string, []byte) fuse.Status { return erofs }

func (readOnly) RemoveXAttr(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return erofs }

func (readOnly) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return erofs
}

func (readOnly) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status { return erofs }

func (readOnly) Write(<-chan struct{}, *fuse.WriteIn, []byte) (uint32, fuse.Status) { return 0, erofs }

func (readOnly) CopyFileRange(<-chan struct{}, *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, erofs
}

func (readOnly) Fallocate(<-chan struct{}, *fuse.FallocateIn) fuse.Status { return erofs }

// Fsync has nothing to write.
func (readOnly) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// FsyncDir has nothing to write.
func (readOnly) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }
