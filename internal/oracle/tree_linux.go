//go:build !386 && !arm && !mips && !mipsle

package oracle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Populate fills a directory on a mounted btrfs with one of everything that can
// stand in a file tree: sizes around every limit, holes, preallocation, shared
// extents, names of all kinds, hard links beyond one item, special files,
// xattrs, ACLs, capabilities, flags, odd times and owners, subvolumes,
// snapshots and stubs. It takes a few MiB. nodeSize is the filesystem's.
func Populate(t testing.TB, dir string, nodeSize int) {
	t.Helper()
	p := &planter{t: t, dir: dir}
	p.contents()
	p.layouts()
	p.names()
	p.links(nodeSize)
	p.specials()
	p.attributes(nodeSize)
	p.owners()
	p.flags()
	p.subvolumes()
	p.times() // last: what comes after would change a directory's times again
}

// planter makes things below dir and fails the test where that fails.
type planter struct {
	t   testing.TB
	dir string
}

func (p *planter) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *planter) path(name string) string { return filepath.Join(p.dir, name) }

func (p *planter) mkdir(name string) { p.t.Helper(); p.must(os.MkdirAll(p.path(name), 0o755)) }

func (p *planter) file(name string, content []byte) {
	p.t.Helper()
	p.must(os.WriteFile(p.path(name), content, 0o644))
}

// with opens a file for writing, made if need be, and lets f work on it.
func (p *planter) with(name string, f func(*os.File) error) {
	p.t.Helper()
	file, err := os.OpenFile(p.path(name), os.O_RDWR|os.O_CREATE, 0o644)
	p.must(err)
	err = f(file)
	p.must(errors.Join(err, file.Close()))
}

func (p *planter) contents() {
	p.mkdir("contents")
	for _, n := range []int{0, 1, 100, 2047, 2048, 2049, 4095, 4096, 4097, 5000, 65536, 131071, 131072, 131073, 300_001, 2 << 20} {
		p.file(fmt.Sprintf("contents/text-%d", n), Text(uint64(n), n))
		p.file(fmt.Sprintf("contents/noise-%d", n), Noise(uint64(n), min(n, 400_000)))
	}
	p.file("contents/zeros", make([]byte, 1<<20))
	// Compressible and not by turns: extents of both kinds in one file.
	p.with("contents/mixed", func(f *os.File) error {
		for i := range int64(8) {
			piece := Text(uint64(i), 131072)
			if i%2 == 1 {
				piece = Noise(uint64(i), 131072)
			}
			if _, err := f.WriteAt(piece, i*131072); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *planter) layouts() {
	p.mkdir("layouts")
	p.with("layouts/holes", func(f *os.File) error {
		for _, off := range []int64{0, 40960, 1 << 20, 3<<20 + 5} {
			if _, err := f.WriteAt(Text(uint64(off), 9000), off); err != nil {
				return err
			}
		}
		return f.Truncate(5 << 20)
	})
	p.with("layouts/only-hole", func(f *os.File) error { return f.Truncate(40<<20 + 1) })
	p.with("layouts/prealloc", func(f *os.File) error {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, 1<<20); err != nil {
			return err
		}
		_, err := f.WriteAt(Text(7, 10_000), 300_000)
		return err
	})
	p.with("layouts/prealloc-beyond-size", func(f *os.File) error {
		if _, err := f.Write(Text(8, 5000)); err != nil {
			return err
		}
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20)
	})
	p.with("layouts/punched", func(f *os.File) error {
		if _, err := f.Write(Text(9, 600_000)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil { // so that the extent is on disk before it is split
			return err
		}
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 100_000, 200_000)
	})
	p.with("layouts/overwritten", func(f *os.File) error {
		if _, err := f.Write(Text(10, 500_000)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		_, err := f.WriteAt(Noise(11, 30_000), 200_001)
		return err
	})
	p.with("layouts/cut", func(f *os.File) error {
		if _, err := f.Write(Text(12, 500_000)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		return f.Truncate(123_457)
	})
	// An inline extent may be grown past by a hole.
	p.with("layouts/inline-then-hole", func(f *os.File) error {
		if _, err := f.Write(Text(13, 50)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		return f.Truncate(200_000)
	})
	p.clone("layouts/clone", "layouts/overwritten", unix.FileCloneRange{})
	p.clone("layouts/clone-part", "layouts/overwritten", unix.FileCloneRange{Src_offset: 65536, Src_length: 131072, Dest_offset: 8192})
	p.clone("layouts/clone-twice", "layouts/clone-part", unix.FileCloneRange{Src_offset: 4096, Src_length: 65536, Dest_offset: 0})
}

func (p *planter) clone(dst, src string, r unix.FileCloneRange) {
	p.t.Helper()
	from, err := os.Open(p.path(src))
	p.must(err)
	defer from.Close()
	p.must(from.Sync())
	r.Src_fd = int64(from.Fd())
	p.with(dst, func(f *os.File) error { return unix.IoctlFileCloneRange(int(f.Fd()), &r) })
}

func (p *planter) names() {
	p.mkdir("names")
	for i, name := range []string{
		"with space", "100%", "ünïcode", "日本語", "new\nline", "tab\t", "quote\"", "back\\slash", "\x01control", "\xff\xfe\x80",
		"half\xc3", "trailing.", "-dash", strings.Repeat("n", 255), strings.Repeat("ü", 127), "<html>&", "zwj\u200d", "nbsp\u00a0",
	} {
		p.file("names/"+name, Text(uint64(i), 20))
	}
	p.mkdir("names/\xffdir/ü")
	p.file("names/\xffdir/ü/file", nil)
	p.mkdir("collisions")
	for _, pair := range Collisions(3) {
		p.file("collisions/"+pair[0], []byte(pair[0]))
		p.file("collisions/"+pair[1], []byte(pair[1]))
		p.must(unix.Setxattr(p.path("collisions"), "user."+pair[0], []byte("one"), 0))
		p.must(unix.Setxattr(p.path("collisions"), "user."+pair[1], []byte("two"), 0))
	}
	p.mkdir("many")
	for i := range 400 {
		p.file(fmt.Sprintf("many/file-%04d", i), fmt.Appendf(nil, "%d", i))
	}
	for i := range 100 { // holes in the sequence of directory indexes
		p.must(os.Remove(p.path(fmt.Sprintf("many/file-%04d", i*3))))
	}
	p.mkdir("deep" + strings.Repeat("/d", 60))
}

func (p *planter) links(nodeSize int) {
	p.mkdir("links/other")
	p.file("links/0", []byte("linked"))
	// One INODE_REF item holds the names in one directory and cannot outgrow a
	// node; what does not fit becomes INODE_EXTREF.
	n := nodeSize/200 + 20
	for i := range n {
		name := fmt.Sprintf("links/%03d-%s", i, strings.Repeat("x", 200))
		if err := os.Link(p.path("links/0"), p.path(name)); errors.Is(err, unix.EMLINK) {
			break // without extended refs an item is the limit
		} else {
			p.must(err)
		}
	}
	p.must(os.Link(p.path("links/0"), p.path("links/other/0")))
}

func (p *planter) specials() {
	p.mkdir("special")
	p.must(os.Symlink("contents/text-100", p.path("special/link")))
	p.must(os.Symlink("/absolute/\xff%", p.path("special/odd-link")))
	p.must(os.Symlink(strings.Repeat("t", 3000), p.path("special/long-link")))
	p.must(unix.Mkfifo(p.path("special/fifo"), 0o640))
	p.must(unix.Mknod(p.path("special/socket"), unix.S_IFSOCK|0o600, 0))
	p.must(unix.Mknod(p.path("special/char"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	p.must(unix.Mknod(p.path("special/block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	p.must(unix.Mknod(p.path("special/whiteout"), unix.S_IFCHR, 0))
	p.must(unix.Lsetxattr(p.path("special/link"), "trusted.on-a-link", []byte("x"), 0))
}

func (p *planter) attributes(nodeSize int) {
	p.mkdir("attributes/dir")
	p.file("attributes/file", []byte("x"))
	set := func(name, attr string, value []byte) {
		p.t.Helper()
		p.must(unix.Lsetxattr(p.path(name), attr, value, 0))
	}
	set("attributes/file", "user.empty", nil)
	set("attributes/file", "user.ünï%", []byte{0, 0xff, '\n'})
	set("attributes/file", "user."+strings.Repeat("n", 200), []byte("long name"))
	set("attributes/file", "user.big", Noise(1, min(nodeSize, 16384)-500))
	set("attributes/file", "trusted.overlay.opaque", []byte("y"))
	set("attributes/file", "security.capability", []byte{1, 0, 0, 2, 0x00, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for i := range 40 {
		set("attributes/dir", fmt.Sprintf("user.many-%d", i), Text(uint64(i), 100))
	}
	set("attributes/file", "system.posix_acl_access", acl([]aclEntry{{1, 6, ^uint32(0)}, {2, 7, 1000}, {4, 4, ^uint32(0)}, {8, 5, 100}, {16, 7, ^uint32(0)}, {32, 4, ^uint32(0)}}))
	set("attributes/dir", "system.posix_acl_default", acl([]aclEntry{{1, 7, ^uint32(0)}, {2, 7, 1000}, {4, 5, ^uint32(0)}, {16, 7, ^uint32(0)}, {32, 0, ^uint32(0)}}))
	p.file("attributes/dir/inherits", nil)
	p.file("attributes/compressed", nil)
	err := unix.Lsetxattr(p.path("attributes/compressed"), "btrfs.compression", []byte("zstd"), 0)
	if !errors.Is(err, unix.EINVAL) { // on a nodatacow mount no file can be compressed
		p.must(err)
	}
	p.file("attributes/compressed", Text(3, 100_000))
}

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// acl encodes a POSIX ACL as the xattr system calls take it.
func acl(entries []aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

func (p *planter) owners() {
	p.mkdir("owners/sticky")
	for _, o := range []struct {
		name     string
		uid, gid int
		mode     uint32
	}{{"suid", 1000, 1000, 0o4755}, {"sgid", 0, 4294967294, 0o2711}, {"none", 65534, 65534, 0}, {"all", 4294967294, 1, 0o7777}} {
		p.file("owners/"+o.name, nil)
		p.must(unix.Chown(p.path("owners/"+o.name), o.uid, o.gid))
		p.must(unix.Chmod(p.path("owners/"+o.name), o.mode))
	}
	p.must(unix.Chmod(p.path("owners/sticky"), 0o1777))
}

// The FS_*_FL bits that btrfs keeps.
var plantedFlags = map[string]int{
	"sync": 0x8, "immutable": 0x10, "append": 0x20, "nodump": 0x40, "noatime": 0x80, "compress": 0x4, "nocompress": 0x400, "nocow": 0x800000,
}

func (p *planter) flags() {
	p.mkdir("flags/dirsync")
	for name, bits := range plantedFlags {
		p.with("flags/"+name, func(f *os.File) error {
			if bits == 0x800000 { // only an empty file can become nocow
				if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, bits); err != nil {
					return err
				}
			}
			if _, err := f.Write(Text(uint64(bits), 20_000)); err != nil {
				return err
			}
			err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, bits)
			if errors.Is(err, unix.EINVAL) && strings.HasSuffix(name, "compress") {
				return nil // on a nodatacow mount a file has no compression flags
			}
			return err
		})
	}
	d, err := os.Open(p.path("flags/dirsync"))
	p.must(err)
	p.must(unix.IoctlSetPointerInt(int(d.Fd()), unix.FS_IOC_SETFLAGS, 0x10000))
	p.must(d.Close())
	p.verity()
}

// verity makes a file verity-protected where the kernel can.
func (p *planter) verity() {
	p.file("flags/verity", Text(5, 50_000))
	f, err := os.Open(p.path("flags/verity"))
	p.must(err)
	defer f.Close()
	var arg [128]byte // struct fsverity_enable_arg
	binary.NativeEndian.PutUint32(arg[0:], 1)
	binary.NativeEndian.PutUint32(arg[4:], 1)
	binary.NativeEndian.PutUint32(arg[8:], 4096)
	const enableVerity = 0x40806685
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), enableVerity, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		p.t.Logf("no fs-verity file: %v", errno)
	}
}

func (p *planter) subvolumes() {
	btrfs := func(args ...string) { p.t.Helper(); Run(p.t, "btrfs", append([]string{"subvolume"}, args...)...) }
	btrfs("create", p.path("sub"))
	p.file("sub/file", Text(20, 30_000))
	btrfs("create", p.path("sub/nested"))
	p.file("sub/nested/file", Text(21, 3000))
	btrfs("create", p.path("sub/nested/deeper"))
	p.file("sub/nested/deeper/file", Text(22, 300))
	btrfs("snapshot", p.path("sub"), p.path("snapshot"))
	btrfs("snapshot", "-r", p.path("sub"), p.path("snapshot-ro"))
	p.file("snapshot/file", Text(23, 40_000)) // parts from the origin
	p.file("sub/later", Text(24, 10))
	btrfs("create", p.path("gone"))
	p.file("gone/file", Text(25, 100_000))
	btrfs("delete", p.path("gone"))
	btrfs("create", p.path("sub/renamed-from"))
	p.must(os.Rename(p.path("sub/renamed-from"), p.path("sub/renamed")))
}

func (p *planter) times() {
	p.mkdir("times")
	for name, ts := range map[string]time.Time{
		"epoch": time.Unix(0, 1), "before-1970": time.Unix(-1234567890, 123456789), "far": time.Unix(1<<40, 999999999),
		"year-10000": time.Unix(253402300800, 0),
	} {
		p.file("times/"+name, nil)
		spec := []unix.Timespec{{Sec: ts.Unix(), Nsec: int64(ts.Nanosecond())}, {Sec: ts.Unix(), Nsec: int64(ts.Nanosecond())}}
		p.must(unix.UtimesNanoAt(unix.AT_FDCWD, p.path("times/"+name), spec, 0))
	}
}
