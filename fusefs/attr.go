//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
	"gobtrfs/disk"
)

// sectorBytes is the unit of st_blocks.
const sectorBytes = 512

// blocks is st_blocks: what the file takes, in whole sectors of the filesystem
// (btrfs_getattr, Linux 6.18).
func blocks(f *btrfs.File) uint64 {
	sector := uint64(f.Subvolume().FS().Super().SectorSize)
	n := f.Item().NBytes
	return (n/sector + min(n%sector, 1)) * (sector / sectorBytes)
}

// fillAttr is what stat(2) shows.
func fillAttr(a *fuse.Attr, ino uint64, f *btrfs.File) {
	i := f.Item()
	*a = fuse.Attr{
		Ino: ino, Size: uint64(f.Size()), Blocks: blocks(f), Blksize: f.Subvolume().FS().Super().SectorSize,
		Atime: uint64(i.Atime.Sec), Atimensec: i.Atime.Nsec,
		Mtime: uint64(i.Mtime.Sec), Mtimensec: i.Mtime.Nsec,
		Ctime: uint64(i.Ctime.Sec), Ctimensec: i.Ctime.Nsec,
		Mode: i.Mode, Nlink: i.Nlink, Owner: fuse.Owner{Uid: i.UID, Gid: i.GID}, Rdev: rdev(i),
	}
}

// rdev is a device number in the form that the protocol has it: 12 bits of
// major between 8 low and 12 high bits of minor (new_encode_dev, Linux 6.18).
func rdev(i *disk.InodeItem) uint32 {
	switch i.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
	default:
		return 0
	}
	major, minor := disk.SplitRdev(i.Rdev)
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// GetAttr answers stat(2) where the kernel does not remember the answer.
func (s *server) GetAttr(_ <-chan struct{}, input *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	err := s.view(input.NodeId, func(_ context.Context, f *btrfs.File) error {
		out.SetTimeout(forever)
		fillAttr(&out.Attr, s.ino(input.NodeId, f), f)
		return nil
	})
	return s.done("stat", input.NodeId, err)
}

func (s *server) ino(id uint64, f *btrfs.File) uint64 {
	if f.IsStub() {
		return uint64(f.Ino())
	}
	return inoOf(nodeID(id), placeOf(f))
}

// statxFlags are the attributes that btrfs tells (STATX_ATTR_*), by inode flag.
var statxFlags = [...]struct{ inode, statx uint64 }{
	{disk.InodeAppend, unix.STATX_ATTR_APPEND},
	{disk.InodeCompress, unix.STATX_ATTR_COMPRESSED},
	{disk.InodeImmutable, unix.STATX_ATTR_IMMUTABLE},
	{disk.InodeNoDump, unix.STATX_ATTR_NODUMP},
	{disk.InodeROVerity, unix.STATX_ATTR_VERITY},
}

// Statx answers statx(2) when it asks for the time of birth.
func (s *server) Statx(_ <-chan struct{}, input *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	err := s.view(input.NodeId, func(_ context.Context, f *btrfs.File) error {
		s.fillStatx(input.NodeId, f, out)
		return nil
	})
	return s.done("statx", input.NodeId, err)
}

func (s *server) fillStatx(id uint64, f *btrfs.File, out *fuse.StatxOut) {
	var a fuse.Attr
	fillAttr(&a, s.ino(id, f), f)
	i := f.Item()
	out.SetTimeout(forever)
	x := &out.Statx
	x.Mask = unix.STATX_BASIC_STATS
	if !f.IsStub() {
		x.Mask |= unix.STATX_BTIME
		x.Btime = sxTime(i.Otime)
	}
	x.Ino, x.Size, x.Blocks, x.Blksize = a.Ino, a.Size, a.Blocks, a.Blksize
	x.Mode, x.Nlink, x.Uid, x.Gid = uint16(a.Mode), a.Nlink, a.Uid, a.Gid
	x.Atime, x.Mtime, x.Ctime = sxTime(i.Atime), sxTime(i.Mtime), sxTime(i.Ctime)
	if a.Rdev != 0 {
		x.RdevMajor, x.RdevMinor = disk.SplitRdev(i.Rdev)
	}
	for _, fl := range statxFlags {
		x.AttributesMask |= fl.statx
		if i.Flags&fl.inode != 0 {
			x.Attributes |= fl.statx
		}
	}
}

func sxTime(t disk.Time) fuse.SxTime { return fuse.SxTime{Sec: uint64(t.Sec), Nsec: t.Nsec} }
