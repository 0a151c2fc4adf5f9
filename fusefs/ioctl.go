//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"context"
	"encoding/binary"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	btrfs "gobtrfs"
	"gobtrfs/disk"
)

// Ioctls that answer and change nothing. Of btrfs's own (linux/btrfs.h) only
// those can pass whose data is inside a structure of fixed size: FUSE copies
// what the number of the call says, and follows no pointer. GETFLAGS and
// FSGETXATTR are asked for by the kernel itself, on behalf of lsattr(1) and of
// file_getattr(2).
const (
	iocGetFlags    = 0x6601 // without direction and size, which differ between 32 and 64 bits
	iocGetVersion  = 0x7601
	iocFSGetXattr  = 0x801c581f
	iocFSInfo      = 0x8400941f
	iocDevInfo     = 0xd000941e
	iocGetDevStats = 0xc4089434
	iocGetFSLabel  = 0x81009431
	iocInoLookup   = 0xd0009412
	iocGetFeatures = 0x80189439
	iocSubvolFlags = 0x80089419
	iocSubvolInfo  = 0x81f8943c
	iocTreeSearch  = 0xd0009411

	iocNumberMask = 0xffff
)

// ioctl is one call: in is what the caller passed, out what it gets.
type ioctl func(s *server, ctx context.Context, f *btrfs.File, in, out []byte) error

// ioctls by command. The lengths of in and out are those of the command.
var ioctls = map[uint32]ioctl{
	iocFSGetXattr:  (*server).ioctlFSGetXattr,
	iocFSInfo:      (*server).ioctlFSInfo,
	iocDevInfo:     (*server).ioctlDevInfo,
	iocGetDevStats: (*server).ioctlGetDevStats,
	iocGetFSLabel:  (*server).ioctlGetFSLabel,
	iocInoLookup:   (*server).ioctlInoLookup,
	iocGetFeatures: (*server).ioctlGetFeatures,
	iocSubvolFlags: (*server).ioctlSubvolFlags,
	iocSubvolInfo:  (*server).ioctlSubvolInfo,
	iocTreeSearch:  (*server).ioctlTreeSearch,
}

// rootOnly are the ioctls that show more than the caller may see otherwise. A
// FUSE server learns a caller's user, not its capabilities.
var rootOnly = map[uint32]bool{iocInoLookup: true, iocTreeSearch: true}

// Ioctl answers an ioctl.
func (s *server) Ioctl(_ <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, _ *fuse.IoctlOut, outbuf []byte) fuse.Status {
	clear(outbuf)
	if w, ok := s.RawFileSystem.(*readWrite); ok {
		if status, ok := w.changingIoctl(in, inbuf, outbuf); ok {
			return status
		}
	}
	err := s.view(in.NodeId, func(ctx context.Context, f *btrfs.File) error {
		return s.ioctl(ctx, f, in, inbuf, outbuf)
	})
	return s.done("ioctl", in.NodeId, err)
}

func (s *server) ioctl(ctx context.Context, f *btrfs.File, in *fuse.IoctlIn, inbuf, outbuf []byte) error {
	switch in.Cmd & iocNumberMask {
	case iocGetFlags, iocGetVersion:
		if len(outbuf) < 4 {
			return syscall.EINVAL
		}
		v := f.Flags()
		if in.Cmd&iocNumberMask == iocGetVersion {
			v = uint32(f.Item().Generation)
		}
		binary.NativeEndian.PutUint32(outbuf, v)
		return nil
	}
	call, ok := ioctls[in.Cmd]
	if !ok {
		return syscall.ENOTTY
	}
	if rootOnly[in.Cmd] && in.Uid != 0 {
		return syscall.EPERM
	}
	if !ioctlSizes(in.Cmd, inbuf, outbuf) {
		return syscall.EINVAL
	}
	return call(s, ctx, f, inbuf, outbuf)
}

// ioctlSizes says whether the buffers are as long as the number of the call
// promises.
func ioctlSizes(cmd uint32, in, out []byte) bool {
	size := int(cmd >> 16 & 0x3fff)
	return (cmd>>31&1 == 0 || len(out) >= size) && (cmd>>30&1 == 0 || len(in) >= size)
}

// xflags pairs FS_*_FL with FS_XFLAG_*.
var xflags = [...]struct{ fl, xflag uint32 }{
	{0x8, 0x20}, {0x10, 0x8}, {0x20, 0x10}, {0x40, 0x80}, {0x80, 0x40}, {0x100000, xflagVerity},
}

const xflagVerity = 0x20000 // FS_XFLAG_VERITY

func (s *server) ioctlFSGetXattr(_ context.Context, f *btrfs.File, _, out []byte) error {
	var x uint32
	for _, p := range xflags {
		if f.Flags()&p.fl != 0 {
			x |= p.xflag
		}
	}
	binary.NativeEndian.PutUint32(out, x)
	return nil
}

// fsInfoAll says that checksum type, generation and metadata UUID are filled
// in. Linux does so for callers that ask by a bit; here the question does not
// arrive, because by its number the call passes nothing in.
const fsInfoAll = 1<<0 | 1<<1 | 1<<2

func (s *server) ioctlFSInfo(_ context.Context, _ *btrfs.File, _, out []byte) error {
	sb := s.fs.Super()
	devs := s.fs.Store().Volume().Devices()
	var last uint64
	for _, d := range devs {
		last = max(last, uint64(d.ID))
	}
	le := binary.NativeEndian
	le.PutUint64(out, last)
	le.PutUint64(out[8:], uint64(len(devs)))
	copy(out[16:], sb.FSID[:])
	le.PutUint32(out[32:], sb.NodeSize)
	le.PutUint32(out[36:], sb.SectorSize)
	le.PutUint32(out[40:], sb.SectorSize) // clone alignment
	le.PutUint16(out[44:], uint16(sb.CsumType))
	le.PutUint16(out[46:], uint16(sb.CsumType.Size()))
	le.PutUint64(out[48:], fsInfoAll)
	le.PutUint64(out[56:], uint64(sb.Generation))
	metadata := sb.NodeFSID()
	copy(out[64:], metadata[:])
	return nil
}

func (s *server) ioctlDevInfo(_ context.Context, _ *btrfs.File, in, out []byte) error {
	le := binary.NativeEndian
	id, uuid := le.Uint64(in), disk.UUID(in[8:24])
	for _, d := range s.fs.Store().Volume().Devices() {
		if uint64(d.ID) != id || uuid != (disk.UUID{}) && uuid != d.Item.UUID {
			continue
		}
		le.PutUint64(out, uint64(d.ID))
		copy(out[8:], d.Item.UUID[:])
		le.PutUint64(out[24:], d.Item.BytesUsed)
		le.PutUint64(out[32:], d.Item.TotalBytes)
		copy(out[40:], d.Item.FSID[:])
		if !d.Missing {
			copy(out[4096-1024:4095], d.Name)
		}
		return nil
	}
	return syscall.ENODEV
}

// ioctlGetDevStats tells the errors that a device has had. They are not reset
// here: that is for a verb.
func (s *server) ioctlGetDevStats(ctx context.Context, _ *btrfs.File, in, out []byte) error {
	ne := binary.NativeEndian
	id, room, flags := ne.Uint64(in), ne.Uint64(in[8:]), ne.Uint64(in[16:])
	if flags != 0 {
		return syscall.EOPNOTSUPP
	}
	devs, err := s.fs.DeviceStats(ctx)
	if err != nil {
		return err
	}
	for i := range devs {
		d := &devs[i]
		if uint64(d.ID) != id {
			continue
		}
		values := []uint64{d.WriteErrs, d.ReadErrs, d.FlushErrs, d.CorruptionErrs, d.GenerationErrs}
		values = values[:min(room, uint64(len(values)))]
		copy(out, in)
		ne.PutUint64(out[8:], uint64(len(values)))
		for n, v := range values {
			ne.PutUint64(out[24+8*n:], v)
		}
		return nil
	}
	return syscall.ENODEV
}

func (s *server) ioctlGetFSLabel(_ context.Context, _ *btrfs.File, _, out []byte) error {
	copy(out[:255], s.fs.Label())
	return nil
}

// ioctlInoLookup gives the subvolume of the file (tree 0), and the path of a
// directory below it.
func (s *server) ioctlInoLookup(ctx context.Context, f *btrfs.File, in, out []byte) error {
	le := binary.NativeEndian
	tree, ino := disk.ObjectID(le.Uint64(in)), disk.ObjectID(le.Uint64(in[8:]))
	if tree == 0 {
		tree = f.Subvolume().ID()
	}
	sub, err := f.Subvolume().Sibling(ctx, tree)
	if err != nil {
		return err
	}
	path := ""
	for depth := 0; ino != disk.FirstFreeObjectID; depth++ {
		dir, err := sub.Inode(ctx, ino)
		if err != nil {
			return err
		}
		names, err := dir.Names(ctx)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return syscall.ENOENT
		}
		path = names[0].Name + "/" + path
		if ino = names[0].Parent; len(path) > 4079 || depth > maxDepth {
			return syscall.ENAMETOOLONG
		}
	}
	le.PutUint64(out, uint64(tree))
	copy(out[8:], in[8:16])
	copy(out[16:4095], path)
	return nil
}

func (s *server) ioctlGetFeatures(_ context.Context, _ *btrfs.File, _, out []byte) error {
	sb := s.fs.Super()
	for i, v := range []uint64{sb.CompatFlags, sb.CompatROFlags, sb.IncompatFlags} {
		binary.NativeEndian.PutUint64(out[i*8:], v)
	}
	return nil
}

func (s *server) ioctlSubvolFlags(ctx context.Context, f *btrfs.File, _, out []byte) error {
	info, err := f.Subvolume().Info(ctx)
	if err != nil {
		return err
	}
	if !f.IsSubvolume() {
		return syscall.EINVAL
	}
	if info.ReadOnly() {
		binary.NativeEndian.PutUint64(out, 1<<1) // BTRFS_SUBVOL_RDONLY
	}
	return nil
}

// ioctlSubvolInfo fills struct btrfs_ioctl_get_subvol_info_args.
func (s *server) ioctlSubvolInfo(ctx context.Context, f *btrfs.File, _, out []byte) error {
	id := f.Subvolume().ID()
	info, err := f.Subvolume().Info(ctx)
	if err != nil {
		return err
	}
	le := binary.NativeEndian
	le.PutUint64(out, uint64(id))
	tree, dir, name, ok, err := f.Subvolume().Parent(ctx)
	if err != nil {
		return err
	}
	if ok {
		copy(out[8:8+disk.MaxNameLen], name)
		le.PutUint64(out[264:], uint64(tree))
		le.PutUint64(out[272:], uint64(dir))
	}
	r := &info.Item
	le.PutUint64(out[280:], uint64(r.Generation))
	le.PutUint64(out[288:], r.Flags)
	copy(out[296:], r.UUID[:])
	copy(out[312:], r.ParentUUID[:])
	copy(out[328:], r.ReceivedUUID[:])
	for i, t := range []disk.TransID{r.CTransID, r.OTransID, r.STransID, r.RTransID} {
		le.PutUint64(out[344+i*8:], uint64(t))
	}
	for i, t := range []disk.Time{r.Ctime, r.Otime, r.Stime, r.Rtime} {
		le.PutUint64(out[376+i*16:], uint64(t.Sec))
		le.PutUint32(out[384+i*16:], t.Nsec)
	}
	return nil
}

// The layout of struct btrfs_ioctl_search_args: a key of 104 bytes, then items,
// each behind a header of 32.
const (
	searchKeyBytes    = 104
	searchHeaderBytes = 32
)

// ioctlTreeSearch copies items of a tree between two keys.
func (s *server) ioctlTreeSearch(ctx context.Context, f *btrfs.File, in, out []byte) error {
	le := binary.NativeEndian
	word := func(i int) uint64 { return le.Uint64(in[i*8:]) }
	id := disk.ObjectID(word(0))
	if id == 0 {
		id = f.Subvolume().ID()
	}
	tree, _, err := s.fs.Store().Tree(ctx, id)
	if err != nil {
		return err
	}
	from := disk.Key{ObjectID: disk.ObjectID(word(1)), Type: disk.KeyType(le.Uint32(in[56:])), Offset: word(3)}
	to := disk.Key{ObjectID: disk.ObjectID(word(2)), Type: disk.KeyType(le.Uint32(in[60:])), Offset: word(4)}
	minTrans, maxTrans, limit := disk.TransID(word(5)), disk.TransID(word(6)), le.Uint32(in[64:])
	copy(out, in[:searchKeyBytes])
	pos, found := searchKeyBytes, uint32(0)
	it := tree.Seek(ctx, from)
	for ; found < limit && it.Valid() && it.Key().Compare(to) <= 0; it.Next() {
		node, _ := it.Node()
		if g := node.Generation(); g < minTrans || g > maxTrans {
			continue
		}
		k, data := it.Key(), it.Data()
		if len(data) > len(out)-pos-searchHeaderBytes {
			if found == 0 {
				return syscall.EOVERFLOW
			}
			break
		}
		le.PutUint64(out[pos:], uint64(node.Generation()))
		le.PutUint64(out[pos+8:], uint64(k.ObjectID))
		le.PutUint64(out[pos+16:], k.Offset)
		le.PutUint32(out[pos+24:], uint32(k.Type))
		le.PutUint32(out[pos+28:], uint32(len(data)))
		pos += searchHeaderBytes + copy(out[pos+searchHeaderBytes:], data)
		found++
	}
	le.PutUint32(out[64:], found)
	return it.Err()
}

// StatFs tells what there is and what can be had. A filesystem whose block
// groups cannot be read is shown as full.
func (s *server) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	sb := s.fs.Super()
	t, err := s.statfs(s.ctx)
	if err != nil {
		s.done("statfs", uint64(rootNode), errors.Join(err, syscall.EIO))
		t = spaceTotals{size: sb.TotalBytes}
	}
	block := uint64(sb.SectorSize)
	out.Bsize, out.Frsize, out.NameLen = sb.SectorSize, sb.SectorSize, disk.MaxNameLen
	out.Blocks, out.Bfree, out.Bavail = t.size/block, t.free/block, t.avail/block
	return fuse.OK
}
