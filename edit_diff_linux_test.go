package btrfs_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

var (
	editSeed   = flag.Uint64("edit.seed", 1, "seed of the edits made beside a kernel mount")
	editRounds = flag.Int("edit.rounds", 4, "rounds of edits made beside a kernel mount")
	editOps    = flag.Int("edit.ops", 250, "edits in a round")
	editEach   = flag.Bool("edit.each", false, "compare the file after every edit, to find the one that went wrong")
	editMkfs   = flag.String("edit.mkfs", "", "arguments of mkfs.btrfs for the edits; default: varies with the seed")
)

// fileOp is one operation that both a mounted filesystem and an Editor can do.
type fileOp struct {
	kind        string
	path, path2 string
	off, n      int64
	perm        uint32
	data        []byte
}

func (o fileOp) String() string {
	return fmt.Sprintf("%s %s %s off=%d n=%d perm=%o data=%d", o.kind, o.path, o.path2, o.off, o.n, o.perm, len(o.data))
}

// inSubvol says whether the operation leads through a subvolume. It may then
// be one that a snapshot did not take along, or read-only, which either side
// may find out before or after what else is wrong.
func (o fileOp) inSubvol() bool { return strings.Contains(o.path+o.path2, "/s") }

// opMaker makes random operations on few names, so that they meet.
type opMaker struct {
	rnd *rand.Rand
	// holes: the filesystem keeps holes as items. Linux 6.18 itself then loses
	// sizes of files that were preallocated behind their end, in snapshots and
	// at unmount, and puts preallocation behind inline extents, which the
	// low-memory mode of btrfs check calls a gap.
	holes bool
}

func (m opMaker) path(kinds string) string {
	var b strings.Builder
	for range m.rnd.IntN(4) {
		fmt.Fprintf(&b, "/%c%d", "ddds"[m.rnd.IntN(4)], m.rnd.IntN(3))
	}
	fmt.Fprintf(&b, "/%c%d", kinds[m.rnd.IntN(len(kinds))], m.rnd.IntN(6))
	if m.rnd.IntN(20) == 0 {
		b.WriteString(strings.Repeat("x", m.rnd.IntN(250)))
	}
	return b.String()
}

func (m opMaker) size() int64 {
	switch m.rnd.IntN(6) {
	case 0:
		return int64(m.rnd.IntN(100))
	case 1:
		return int64(m.rnd.IntN(4)+1) * 4096
	case 2:
		return 2040 + int64(m.rnd.IntN(16))
	case 3:
		return int64(m.rnd.IntN(5000))
	}
	return int64(m.rnd.IntN(300000))
}

func (m opMaker) next() fileOp {
	kinds := []string{
		"create", "create", "mkdir", "mkdir", "write", "write", "write", "write", "truncate", "truncate", "remove", "remove",
		"rename", "rename", "rename", "noreplace", "link", "link", "symlink", "fifo", "chmod", "chown", "setxattr", "setxattr", "removexattr",
		"allocate", "allocatekeep", "punch", "punch", "chtimes",
		"subvol", "subvol", "snapshot", "snapshot", "snapshotro", "subdelete",
	}
	if m.holes {
		kinds = slices.DeleteFunc(kinds, func(k string) bool { return strings.HasPrefix(k, "snapshot") || k == "allocatekeep" })
	}
	o := fileOp{kind: kinds[m.rnd.IntN(len(kinds))], path: m.path("fffd"), perm: uint32(m.rnd.IntN(0o10000))}
	switch o.kind {
	case "mkdir":
		o.path = m.path("d")
	case "subvol", "subdelete":
		o.path = m.path("s")
	case "snapshot", "snapshotro":
		o.path, o.path2 = m.path("s"), m.path("s")
		if m.rnd.IntN(8) == 0 {
			o.path = "/"
		}
	case "remove":
		o.path = m.path("fffdlp")
	case "symlink":
		o.path, o.path2 = m.path("l"), "target"+strings.Repeat("y", m.rnd.IntN(200))
	case "fifo":
		o.path = m.path("p")
	case "rename", "noreplace", "link":
		k := "fffddlp"[m.rnd.IntN(7):][:1]
		o.path, o.path2 = m.path(k), m.path(k)
	case "write":
		o.off, o.data = m.size(), make([]byte, max(1, m.size()))
		if m.rnd.IntN(2) == 0 {
			o.off = 0
		}
		for i := range o.data {
			o.data[i] = byte(m.rnd.Uint32())
		}
	case "truncate":
		o.n = m.size()
	case "allocate", "allocatekeep", "punch":
		o.off, o.n = m.size(), m.size()+1
	case "setxattr", "removexattr":
		o.path2 = fmt.Sprintf("user.a%d", m.rnd.IntN(4))
		o.data = bytes.Repeat([]byte{byte(m.rnd.IntN(256))}, m.rnd.IntN(300))
	case "chtimes":
		o.n = m.rnd.Int64N(1 << 40)
	}
	return o
}

// onKernel does the operation below a mounted directory.
func (o fileOp) onKernel(top string) error {
	p := top + o.path
	switch o.kind {
	case "create":
		f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(f.Close(), unix.Chmod(p, o.perm))
	case "mkdir":
		if err := unix.Mkdir(p, 0o700); err != nil {
			return err
		}
		return unix.Chmod(p, o.perm)
	case "write", "allocate", "allocatekeep", "punch":
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		switch o.kind {
		case "write":
			_, err = f.WriteAt(o.data, o.off)
		case "allocate":
			err = unix.Fallocate(int(f.Fd()), 0, o.off, o.n)
		case "allocatekeep":
			err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, o.off, o.n)
		case "punch":
			err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, o.off, o.n)
		}
		return err
	case "truncate":
		return unix.Truncate(p, o.n)
	case "remove":
		return os.Remove(p)
	case "rename":
		return unix.Rename(p, top+o.path2)
	case "noreplace":
		return unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, top+o.path2, unix.RENAME_NOREPLACE)
	case "link":
		return unix.Link(p, top+o.path2)
	case "symlink":
		return unix.Symlink(o.path2, p)
	case "fifo":
		if err := unix.Mkfifo(p, 0o600); err != nil {
			return err
		}
		return unix.Chmod(p, o.perm)
	case "chmod":
		return unix.Chmod(p, o.perm)
	case "chown":
		return unix.Chown(p, int(o.perm&0xff), int(o.perm>>4))
	case "setxattr":
		return unix.Lsetxattr(p, o.path2, o.data, 0)
	case "removexattr":
		return unix.Lremovexattr(p, o.path2)
	case "subvol":
		return volIoctl(filepath.Dir(p), ioctlSubvolCreate, -1, 0, filepath.Base(p), true)
	case "subdelete":
		return volIoctl(filepath.Dir(p), ioctlSnapDestroy, -1, 0, filepath.Base(p), false)
	case "snapshot", "snapshotro":
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		// Else it may show sizes of files that are older than its contents.
		if err := unix.Syncfs(int(f.Fd())); err != nil {
			return err
		}
		q := top + o.path2
		return volIoctl(filepath.Dir(q), ioctlSnapCreateV2, int64(f.Fd()), map[string]uint64{"snapshotro": 2}[o.kind], filepath.Base(q), false)
	case "chtimes":
		return os.Chtimes(p, time.Unix(o.n, 5), time.Unix(o.n, 7))
	}
	panic(o.kind)
}

// Requests of btrfs, see linux/btrfs.h.
const (
	ioctlSubvolCreate = 0x5000940e
	ioctlSnapDestroy  = 0x5000940f
	ioctlSnapCreateV2 = 0x50009417
)

// volIoctl sends a request about a name in a directory.
func volIoctl(dir string, request uint, fd int64, flags uint64, name string, setMode bool) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	var arg [4096]byte
	binary.LittleEndian.PutUint64(arg[:], uint64(fd))
	at := 8
	if request == ioctlSnapCreateV2 {
		binary.LittleEndian.PutUint64(arg[16:], flags)
		at = 56
	}
	copy(arg[at:], name)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), uintptr(request), uintptr(unsafe.Pointer(&arg))); e != 0 {
		return e
	}
	if setMode {
		return unix.Chmod(filepath.Join(dir, name), 0o755)
	}
	return nil
}

// modeOf is the fs.FileMode of permission bits.
func modeOf(perm uint32) fs.FileMode {
	m := fs.FileMode(perm & 0o777)
	for bit, mode := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if perm&bit != 0 {
			m |= mode
		}
	}
	return m
}

// onOurs does the operation with an Editor.
func (o fileOp) onOurs(ctx context.Context, e *btrfs.Editor) error {
	// The kernel's side sets permissions afterwards, past what a setgid
	// directory hands down.
	made := func(err error) error {
		if err != nil {
			return err
		}
		return e.Chmod(ctx, o.path, modeOf(o.perm))
	}
	switch o.kind {
	case "create":
		return made(e.Create(ctx, o.path, btrfs.Attr{Perm: 0o600}))
	case "mkdir":
		return made(e.Mkdir(ctx, o.path, btrfs.Attr{Perm: 0o700}))
	case "write":
		_, err := e.WriteAt(ctx, o.path, o.data, o.off)
		return err
	case "allocate", "allocatekeep":
		return e.Allocate(ctx, o.path, o.off, o.n, o.kind == "allocatekeep")
	case "punch":
		return e.PunchHole(ctx, o.path, o.off, o.n)
	case "truncate":
		return e.Truncate(ctx, o.path, o.n)
	case "remove":
		return e.Remove(ctx, o.path)
	case "rename", "noreplace":
		return e.Rename(ctx, o.path, o.path2, o.kind == "noreplace")
	case "link":
		return e.Link(ctx, o.path, o.path2)
	case "symlink":
		return e.Symlink(ctx, o.path2, o.path, 0, 0)
	case "fifo":
		return made(e.Mknod(ctx, o.path, fs.ModeNamedPipe, 0, 0, btrfs.Attr{Perm: 0o600}))
	case "chmod":
		return e.Chmod(ctx, o.path, modeOf(o.perm))
	case "chown":
		uid, gid := o.perm&0xff, o.perm>>4
		return e.Chown(ctx, o.path, &uid, &gid)
	case "setxattr":
		return e.SetXattr(ctx, o.path, o.path2, o.data)
	case "removexattr":
		return e.RemoveXattr(ctx, o.path, o.path2)
	case "subvol":
		_, err := e.CreateSubvolume(ctx, o.path, btrfs.Attr{Perm: 0o755})
		return err
	case "subdelete":
		return e.DeleteSubvolume(ctx, o.path)
	case "snapshot", "snapshotro":
		_, err := e.Snapshot(ctx, o.path, o.path2, o.kind == "snapshotro")
		return err
	case "chtimes":
		a, m := time.Unix(o.n, 5), time.Unix(o.n, 7)
		return e.Chtimes(ctx, o.path, &a, &m)
	}
	panic(o.kind)
}

// errno is the error number in an error, 0 for none.
func errno(err error) syscall.Errno {
	var n syscall.Errno
	if err != nil && !errors.As(err, &n) {
		n = syscall.EIO
	}
	return n
}

// diffFields is what must be equal on both sides. Times and inode numbers are
// not: each side has its own clock, and Linux does not use numbers again that
// it gave out since the mount.
const diffFields = manifest.All &^ (manifest.Ino | manifest.Mtime | manifest.Ctime | manifest.Btime |
	manifest.Subvol)

// TestEditsBesideKernel does the same random operations on an image through a
// mount and on another through an Editor. Errors must be the same; after each
// round both hold the same files, and ours passes every judge. Then they swap:
// the kernel goes on with our image and we with its.
func TestEditsBesideKernel(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	t.Logf("-edit.seed=%d", *editSeed)
	args := strings.Fields(*editMkfs)
	if len(args) == 0 {
		args = [][]string{
			{}, {"-n", "4096"}, {"-O", "^no-holes"}, {"-n", "8192", "-m", "dup"}, {"-R", "^free-space-tree"}, {"-M"},
			{"--csum", "xxhash", "-m", "single"}, {"-n", "65536"}, {"-O", "^skinny-metadata,^extref"},
		}[*editSeed%9]
	}
	t.Log("mkfs.btrfs ", args)
	ours, theirs := oracle.Mkfs(t, 512<<20, args...), oracle.Mkfs(t, 512<<20, args...)
	gen := opMaker{rand.New(rand.NewPCG(*editSeed, 1)), slices.Contains(args, "^no-holes")}
	for round := range *editRounds {
		editRound(t, gen, ours, theirs, round)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		ours, theirs = theirs, ours
	}
}

func editRound(t *testing.T, gen opMaker, ours, theirs string, round int) {
	t.Helper()
	ctx := context.Background()
	m := mount(t, "", theirs)
	f, e := openWritable(t, ours)
	var log []string
	t.Cleanup(func() {
		if t.Failed() {
			must(t, os.WriteFile(filepath.Join(t.ArtifactDir(), fmt.Sprint("operations-", round)), []byte(strings.Join(log, "\n")), 0o666))
		}
	})
	for i := range *editOps {
		o := gen.next()
		want, got := o.onKernel(m.Dir), o.onOurs(ctx, e)
		log = append(log, fmt.Sprintf("%v: %v", o, errno(got)))
		if errno(want) != errno(got) && !(want != nil && got != nil && o.inSubvol()) {
			t.Fatalf("operation %d: %v: kernel %v, we %v", i, o, want, got)
		}
		if *editEach && got == nil {
			sameContents(t, f, m.Dir, o)
		}
		if gen.rnd.IntN(40) == 0 {
			must(t, f.Sync(ctx))
		}
	}
	must(t, f.Sync(ctx))
	if err := f.Verify(); err != nil {
		t.Fatal(err)
	}
	must(t, f.Close())
	want := oracle.HostManifest(t, m.Dir, oracle.HostOptions{})
	m.Unmount()
	oracle.RequireSame(t, want, imageManifest(t, ours, btrfs.Options{}), diffFields)
	if a, b := readOnlyVolumes(t, theirs), readOnlyVolumes(t, ours); !slices.Equal(a, b) {
		t.Errorf("read-only subvolumes %q, want %q", b, a)
	}
	judgeWith(t, oracle.CheckOptions{NoLowmem: gen.holes}, ours)
}

// readOnlyVolumes lists the paths of the subvolumes that are read-only.
func readOnlyVolumes(t *testing.T, image string) []string {
	t.Helper()
	f, err := btrfs.Open(t.Context(), image, btrfs.Options{})
	must(t, err)
	defer f.Close()
	infos, err := f.Subvolumes(t.Context())
	must(t, err)
	var out []string
	for _, i := range infos {
		if i.ReadOnly() {
			out = append(out, i.Path)
		}
	}
	slices.Sort(out)
	return out
}

// sameContents compares the file that an operation was about on both sides.
func sameContents(t *testing.T, f *btrfs.FS, dir string, o fileOp) {
	t.Helper()
	ctx := context.Background()
	fi, err := os.Lstat(dir + o.path)
	if err != nil || !fi.Mode().IsRegular() {
		return
	}
	want, err := os.ReadFile(dir + o.path)
	must(t, err)
	must(t, f.Sync(ctx))
	top, err := f.TopLevel(ctx)
	must(t, err)
	file, err := top.Open(ctx, o.path)
	must(t, err)
	got, err := file.ReadAll(ctx)
	must(t, err)
	if !bytes.Equal(want, got) {
		at := 0
		for at < min(len(want), len(got)) && want[at] == got[at] {
			at++
		}
		t.Fatalf("%v: %d bytes, want %d, first difference at %d", o, len(got), len(want), at)
	}
}
