package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
	"gobtrfs/internal/oracle"
)

// opKind is a kind of operation that both a mounted filesystem and an Editor
// can do.
type opKind struct {
	name   string
	weight int // how often it is made, relative to others
	// fill chooses what the operation is about.
	fill   func(m *opMaker, o *fileOp)
	kernel func(k *kernelSide, o *fileOp) error
	ours   func(ctx context.Context, w *ourSide, o *fileOp) error
}

// opKinds are all kinds there are.
func opKinds() []opKind {
	return slices.Concat(nameOps(), contentOps(), attrOps(), subvolOps(), handleOps())
}

// fileOp is one operation.
type fileOp struct {
	kind         *opKind
	path, path2  string
	off, n, off2 int64
	perm         uint32
	data         []byte
}

func (o *fileOp) String() string {
	return fmt.Sprintf("%s %s %.300s off=%d n=%d off2=%d perm=%o data=%d", o.kind.name, o.path, o.path2, o.off, o.n, o.off2, o.perm, len(o.data))
}

// onOurs does the operation with an Editor.
func (o *fileOp) onOurs(ctx context.Context, w *ourSide) error { return o.kind.ours(ctx, w, o) }

// inSubvol says whether the operation leads through a subvolume. It may then
// be one that a snapshot did not take along, or read-only, which either side
// may find out before or after what else is wrong.
func (o *fileOp) inSubvol() bool { return strings.Contains(o.path+o.path2, "/s") }

// kernelSide is a mounted filesystem.
type kernelSide struct {
	dir   string
	files [handles]*os.File
}

// handles is how many files are kept open.
const handles = 4

func (k *kernelSide) close() {
	for i, f := range k.files {
		if f != nil {
			f.Close()
			k.files[i] = nil
		}
	}
}

// open opens a file to be changed. Devices and the like would do something of
// their own, or wait.
func (k *kernelSide) open(path string) (*os.File, error) { return k.openAs(path, os.O_RDWR) }

func (k *kernelSide) openAs(path string, how int) (*os.File, error) {
	if fi, err := os.Lstat(k.dir + path); err == nil && fi.Mode().Type()&^fs.ModeDir != 0 {
		return nil, unix.EINVAL
	}
	return os.OpenFile(k.dir+path, how|unix.O_NOFOLLOW, 0)
}

// ourSide is a filesystem under an Editor.
type ourSide struct {
	*btrfs.Editor
	w     *fstree.Writer
	files [handles]struct{ sub, ino disk.ObjectID }
}

// open is what open(2) finds of a file that is to be changed.
func (s *ourSide) open(ctx context.Context, path string) (btrfs.Info, error) {
	return s.openAs(ctx, path, true)
}

func (s *ourSide) openAs(ctx context.Context, path string, write bool) (btrfs.Info, error) {
	info, err := s.Stat(ctx, path)
	switch {
	case err != nil:
	case info.Mode().IsDir():
		err = unix.EISDIR
	case !info.Mode().IsRegular():
		err = unix.EINVAL
	case write:
		err = s.w.View(ctx, info.Sub, func(_ context.Context, v *fstree.Subvol) error {
			switch {
			case v.Item().Flags&disk.RootSubvolReadOnly != 0:
				return unix.EROFS
			case info.Item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0:
				return unix.EPERM
			}
			return nil
		})
	}
	return info, err
}

// release ends all handles.
func (s *ourSide) release(ctx context.Context) error {
	var errs []error
	for i := range s.files {
		if s.files[i].ino != 0 {
			errs = append(errs, s.closeFile(ctx, i))
		}
	}
	return errors.Join(errs...)
}

func (s *ourSide) closeFile(ctx context.Context, i int) error {
	h := s.files[i]
	if h.ino == 0 {
		return unix.EBADF
	}
	s.files[i].ino = 0
	return s.w.Release(ctx, h.sub, h.ino)
}

// opMaker makes random operations on few names, so that they meet.
type opMaker struct {
	rnd *rand.Rand
	// holes: the filesystem keeps holes as items. Linux 6.18 itself then loses
	// sizes of files that were preallocated behind their end, in snapshots and
	// at unmount, and puts preallocation behind inline extents, which the
	// low-memory mode of btrfs check calls a gap.
	holes bool
	// noFlags: which flags may be set depends on those that either side set by
	// itself.
	noFlags bool

	kinds []opKind
	total int      // of the kinds' weights
	live  []string // paths that most likely exist
	done  int      // operations that succeeded
}

// learn remembers what an operation tells of its paths.
func (m *opMaker) learn(o *fileOp, err error) {
	const remembered = 60
	if err == nil {
		m.done++
	}
	for _, p := range []string{o.path, o.path2} {
		i := slices.Index(m.live, p)
		switch {
		case err != nil && i >= 0 && m.rnd.IntN(4) == 0:
			m.live = slices.Delete(m.live, i, i+1)
		case err != nil || i >= 0 || !strings.HasPrefix(p, "/"):
		case len(m.live) < remembered:
			m.live = append(m.live, p)
		default:
			m.live[m.rnd.IntN(remembered)] = p
		}
	}
}

// path is a path whose last name starts with one of several letters, which say
// what it most likely is. Two of three were there before, or their directory
// was.
func (m *opMaker) path(kinds string) string {
	top := ""
	if len(m.live) > 0 && m.rnd.IntN(3) > 0 {
		kind := kinds[m.rnd.IntN(len(kinds))]
		if m.rnd.IntN(3) == 0 {
			kind = "ds"[m.rnd.IntN(2)]
			top = "/"
		}
		from := m.rnd.IntN(len(m.live))
		for i := range m.live {
			p := m.live[(from+i)%len(m.live)]
			base := p[strings.LastIndexByte(p, '/')+1:]
			if base == "" || base[0] != kind && (kind != 'f' || base[0] != 'c') {
				continue
			}
			if top == "" {
				return p
			}
			if len(p) < 200 {
				return p + m.name(kinds)
			}
		}
	}
	var b strings.Builder
	for range max(0, m.rnd.IntN(6)-4) {
		fmt.Fprintf(&b, "/%c%d", "ddds"[m.rnd.IntN(4)], m.rnd.IntN(3))
	}
	return b.String() + m.name(kinds)
}

// name is a last name, with the slash before it.
func (m *opMaker) name(kinds string) string {
	kind := kinds[m.rnd.IntN(len(kinds))]
	if kind == 'f' && m.rnd.IntN(12) == 0 {
		return "/" + pick(m.rnd, colliding()...)
	}
	name := fmt.Sprintf("/%c%d", kind, m.rnd.IntN(6))
	if m.rnd.IntN(20) == 0 {
		name += strings.Repeat("x", m.rnd.IntN(260))
	}
	return name
}

func (m *opMaker) size() int64 {
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

// colliding is names of which each two have the same hash.
var colliding = sync.OnceValue(func() []string {
	var names []string
	for _, pair := range oracle.Collisions(3) {
		names = append(names, pair[:]...)
	}
	return names
})

// bytes is contents of a file, of which half compress well.
func (m *opMaker) bytes(n int64) []byte {
	if m.rnd.IntN(2) == 0 {
		return oracle.Text(m.rnd.Uint64(), int(n))
	}
	b := make([]byte, n)
	letters := []uint32{256, 256, 4, 1}[m.rnd.IntN(4)] // some of it compresses
	for i := range b {
		b[i] = byte(m.rnd.Uint32N(letters))
	}
	return b
}

func (m *opMaker) next() *fileOp {
	if m.kinds == nil {
		m.kinds = opKinds()
		if m.holes {
			m.kinds = slices.DeleteFunc(m.kinds, func(k opKind) bool {
				return strings.HasPrefix(k.name, "snapshot") || k.name == "allocatekeep" || k.name == "zerokeep"
			})
		}
		if m.noFlags {
			m.kinds = slices.DeleteFunc(m.kinds, func(k opKind) bool { return strings.HasSuffix(k.name, "flags") })
		}
		for _, k := range m.kinds {
			m.total += k.weight
		}
	}
	n, i := m.rnd.IntN(m.total), 0
	for n >= m.kinds[i].weight {
		n -= m.kinds[i].weight
		i++
	}
	o := &fileOp{kind: &m.kinds[i], path: m.path("fffd"), perm: uint32(m.rnd.IntN(0o10000))}
	if o.kind.fill != nil {
		o.kind.fill(m, o)
	}
	return o
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
