//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"gobtrfs/internal/clock"
)

// counted is a server whose requests are counted. What it has no method for is
// answered by the server alone.
type counted struct {
	*server
	clock clock.Clock
}

// end counts a request when it is answered.
func (c counted) end(o op, start time.Time, status *fuse.Status) {
	c.counters.count(o, c.clock.Now().Sub(start), *status != fuse.OK)
}

// Read counts.
func (c counted) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (r fuse.ReadResult, status fuse.Status) {
	defer c.end(opRead, c.clock.Now(), &status)
	if r, status = c.server.Read(cancel, in, buf); status == fuse.OK {
		c.counters.bytesRead.Add(uint64(r.Size()))
	}
	return r, status
}

// Write counts.
func (c counted) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (n uint32, status fuse.Status) {
	defer c.end(opWrite, c.clock.Now(), &status)
	n, status = c.server.Write(cancel, in, data)
	c.counters.bytesWritten.Add(uint64(n))
	return n, status
}

// Lookup counts.
func (c counted) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) (status fuse.Status) {
	defer c.end(opLookup, c.clock.Now(), &status)
	return c.server.Lookup(cancel, header, name, out)
}

// GetAttr counts.
func (c counted) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) (status fuse.Status) {
	defer c.end(opGetattr, c.clock.Now(), &status)
	return c.server.GetAttr(cancel, in, out)
}

// Statx counts.
func (c counted) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) (status fuse.Status) {
	defer c.end(opGetattr, c.clock.Now(), &status)
	return c.server.Statx(cancel, in, out)
}

// SetAttr counts.
func (c counted) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) (status fuse.Status) {
	defer c.end(opSetattr, c.clock.Now(), &status)
	return c.server.SetAttr(cancel, in, out)
}

// Mknod counts.
func (c counted) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) (status fuse.Status) {
	defer c.end(opCreate, c.clock.Now(), &status)
	return c.server.Mknod(cancel, in, name, out)
}

// Mkdir counts.
func (c counted) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) (status fuse.Status) {
	defer c.end(opCreate, c.clock.Now(), &status)
	return c.server.Mkdir(cancel, in, name, out)
}

// Symlink counts.
func (c counted) Symlink(cancel <-chan struct{}, header *fuse.InHeader, target, name string, out *fuse.EntryOut) (status fuse.Status) {
	defer c.end(opCreate, c.clock.Now(), &status)
	return c.server.Symlink(cancel, header, target, name, out)
}

// Link counts.
func (c counted) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) (status fuse.Status) {
	defer c.end(opCreate, c.clock.Now(), &status)
	return c.server.Link(cancel, in, name, out)
}

// Tmpfile counts.
func (c counted) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) (status fuse.Status) {
	defer c.end(opCreate, c.clock.Now(), &status)
	return c.server.Tmpfile(cancel, in, out)
}

// Unlink counts.
func (c counted) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) (status fuse.Status) {
	defer c.end(opRemove, c.clock.Now(), &status)
	return c.server.Unlink(cancel, header, name)
}

// Rmdir counts.
func (c counted) Rmdir(cancel <-chan struct{}, header *fuse.InHeader, name string) (status fuse.Status) {
	defer c.end(opRemove, c.clock.Now(), &status)
	return c.server.Rmdir(cancel, header, name)
}

// Rename counts.
func (c counted) Rename(cancel <-chan struct{}, in *fuse.RenameIn, name, newName string) (status fuse.Status) {
	defer c.end(opRename, c.clock.Now(), &status)
	return c.server.Rename(cancel, in, name, newName)
}

// Readlink counts.
func (c counted) Readlink(cancel <-chan struct{}, header *fuse.InHeader) (out []byte, status fuse.Status) {
	defer c.end(opOther, c.clock.Now(), &status)
	return c.server.Readlink(cancel, header)
}

// GetXAttr counts.
func (c counted) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (n uint32, status fuse.Status) {
	defer c.end(opXattr, c.clock.Now(), &status)
	return c.server.GetXAttr(cancel, header, attr, dest)
}

// ListXAttr counts.
func (c counted) ListXAttr(cancel <-chan struct{}, header *fuse.InHeader, dest []byte) (n uint32, status fuse.Status) {
	defer c.end(opXattr, c.clock.Now(), &status)
	return c.server.ListXAttr(cancel, header, dest)
}

// SetXAttr counts.
func (c counted) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) (status fuse.Status) {
	defer c.end(opXattr, c.clock.Now(), &status)
	return c.server.SetXAttr(cancel, in, attr, data)
}

// RemoveXAttr counts.
func (c counted) RemoveXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string) (status fuse.Status) {
	defer c.end(opXattr, c.clock.Now(), &status)
	return c.server.RemoveXAttr(cancel, header, attr)
}

// Fsync counts.
func (c counted) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) (status fuse.Status) {
	defer c.end(opFsync, c.clock.Now(), &status)
	return c.server.Fsync(cancel, in)
}

// FsyncDir counts.
func (c counted) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) (status fuse.Status) {
	defer c.end(opFsync, c.clock.Now(), &status)
	return c.server.FsyncDir(cancel, in)
}

// Fallocate counts.
func (c counted) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) (status fuse.Status) {
	defer c.end(opAllocate, c.clock.Now(), &status)
	return c.server.Fallocate(cancel, in)
}

// CopyFileRange counts.
func (c counted) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (n uint32, status fuse.Status) {
	defer c.end(opWrite, c.clock.Now(), &status)
	return c.server.CopyFileRange(cancel, in)
}

// ReadDir counts.
func (c counted) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) (status fuse.Status) {
	defer c.end(opReaddir, c.clock.Now(), &status)
	return c.server.ReadDir(cancel, in, out)
}

// ReadDirPlus counts.
func (c counted) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) (status fuse.Status) {
	defer c.end(opReaddir, c.clock.Now(), &status)
	return c.server.ReadDirPlus(cancel, in, out)
}

// Lseek counts.
func (c counted) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) (status fuse.Status) {
	defer c.end(opOther, c.clock.Now(), &status)
	return c.server.Lseek(cancel, in, out)
}

// Ioctl counts.
func (c counted) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) (status fuse.Status) {
	defer c.end(opOther, c.clock.Now(), &status)
	return c.server.Ioctl(cancel, in, inbuf, out, outbuf)
}

// StatFs counts.
func (c counted) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) (status fuse.Status) {
	defer c.end(opOther, c.clock.Now(), &status)
	return c.server.StatFs(cancel, in, out)
}
