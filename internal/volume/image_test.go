package volume

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/oracle"
)

// contents are the files that the kernel writes into test images: name to
// bytes. Incompressible and different everywhere, so that no two sectors can be
// mistaken for each other.
func contents() map[string][]byte {
	r := rand.NewChaCha8([32]byte{1})
	out := map[string][]byte{"big": make([]byte, 10<<20)}
	for i := range 8 {
		out[fmt.Sprintf("odd%d", i)] = make([]byte, 4096*(20+31*i))
	}
	for _, b := range out {
		r.Read(b)
	}
	return out
}

// kernelImage makes a filesystem with mkfs.btrfs and fills it by the kernel.
// It returns the images and, per file, what is in it.
func kernelImage(t *testing.T, n int, size int64, args ...string) ([]string, map[string][]byte) {
	t.Helper()
	images := oracle.MkfsN(t, n, size, args...)
	m := oracle.Mount(t, "", images...)
	files := contents()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(m.Dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 300 { // enough names for a tree of more than one level
		if err := os.WriteFile(filepath.Join(m.Dir, fmt.Sprintf("small-%d", i)), []byte(fmt.Sprint("inline ", i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.Unmount()
	return images, files
}

func openFiles(t *testing.T, images ...string) []blockdev.Device {
	t.Helper()
	var out []blockdev.Device
	for _, path := range images {
		d, err := blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		out = append(out, d)
	}
	return out
}

func mustOpen(t *testing.T, devs []blockdev.Device, o Options) *Volume {
	t.Helper()
	v, err := Open(t.Context(), devs, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// eventLog collects events.
type eventLog struct {
	mu       sync.Mutex
	corrupt  []CorruptError
	failed   []DeviceError
	repaired []Repair
	mended   []Repair
}

func (l *eventLog) events() Events {
	locked := func(f func()) { l.mu.Lock(); defer l.mu.Unlock(); f() }
	return Events{
		CorruptionFound:    func(e CorruptError) { locked(func() { l.corrupt = append(l.corrupt, e) }) },
		ReadFailed:         func(e DeviceError) { locked(func() { l.failed = append(l.failed, e) }) },
		CorruptionRepaired: func(r Repair) { locked(func() { l.repaired = append(l.repaired, r) }) },
		CopiesRewritten:    func(r Repair) { locked(func() { l.mended = append(l.mended, r) }) },
	}
}

func (l *eventLog) count() int { return len(l.corrupt) + len(l.failed) + len(l.repaired) }

// walkTree calls f for every node of a tree, parents first.
func walkTree(ctx context.Context, v *Volume, root disk.Logical, f func(disk.Node) error) error {
	buf := make([]byte, v.Super().NodeSize)
	err := v.ReadNode(ctx, root, buf, func(n disk.Node) error { return n.ValidateLayout() })
	if err != nil {
		return err
	}
	n := disk.Node(buf)
	if err := f(n); err != nil || n.IsLeaf() {
		return err
	}
	for i := range n.NrItems() {
		if err := walkTree(ctx, v, n.BlockPtr(i), f); err != nil {
			return err
		}
	}
	return nil
}

// items calls f for every item of a tree.
func items(ctx context.Context, v *Volume, root disk.Logical, f func(disk.Key, []byte) error) error {
	return walkTree(ctx, v, root, func(n disk.Node) error {
		for i := 0; n.IsLeaf() && i < n.NrItems(); i++ {
			if err := f(n.Key(i), n.ItemData(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// treeRoots is the root address of every tree that is not empty.
func treeRoots(ctx context.Context, v *Volume) (map[disk.ObjectID]disk.Logical, error) {
	roots := map[disk.ObjectID]disk.Logical{disk.TreeRoot: v.Super().Root, disk.TreeChunk: v.Super().ChunkRoot}
	err := items(ctx, v, v.Super().Root, func(k disk.Key, b []byte) error {
		if k.Type != disk.KeyRootItem {
			return nil
		}
		r, err := disk.ParseRootItem(b)
		roots[k.ObjectID] = r.Bytenr
		return err
	})
	return roots, err
}

// sumRange is a run of sectors with their checksums.
type sumRange struct {
	at   disk.Logical
	sums []byte
}

// image is what a test has to compare with: every node and every sector that
// has a checksum.
type image struct {
	nodes map[disk.Logical][]byte
	sums  []sumRange
	data  map[disk.Logical][]byte // by start of a sumRange
}

// addSums takes a checksum item apart where it runs from one chunk into the
// next.
func (img *image) addSums(v *Volume, at disk.Logical, sums []byte) {
	size, sector := v.Super().CsumType.Size(), int(v.Super().SectorSize)
	for len(sums) > 0 {
		n := len(sums)
		if c, ok := v.Chunk(at); ok {
			n = min(n, int(c.End()-at)/sector*size)
		}
		img.sums = append(img.sums, sumRange{at, sums[:n]})
		at, sums = at+disk.Logical(n/size*sector), sums[n:]
	}
}

// readAll reads everything through v: all nodes, all data with checksums.
func readAll(ctx context.Context, v *Volume) (*image, error) {
	img := &image{nodes: map[disk.Logical][]byte{}, data: map[disk.Logical][]byte{}}
	roots, err := treeRoots(ctx, v)
	if err != nil {
		return nil, err
	}
	for id, root := range roots {
		err := walkTree(ctx, v, root, func(n disk.Node) error {
			img.nodes[n.Bytenr()] = bytes.Clone(n)
			for i := 0; n.IsLeaf() && id == disk.TreeCsum && i < n.NrItems(); i++ {
				img.addSums(v, disk.Logical(n.Key(i).Offset), bytes.Clone(n.ItemData(i)))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	sb := v.Super()
	for _, r := range img.sums {
		buf := make([]byte, len(r.sums)/sb.CsumType.Size()*int(sb.SectorSize))
		if err := v.ReadData(ctx, r.at, buf, r.sums); err != nil {
			return nil, err
		}
		img.data[r.at] = buf
	}
	return img, nil
}

// requireSame compares two readings of one filesystem.
func requireSame(t *testing.T, want, got *image) {
	t.Helper()
	if len(want.nodes) != len(got.nodes) || len(want.data) != len(got.data) {
		t.Fatalf("%d nodes and %d runs of data, want %d and %d", len(got.nodes), len(got.data), len(want.nodes), len(want.data))
	}
	for l, n := range want.nodes {
		if !bytes.Equal(n, got.nodes[l]) {
			t.Fatalf("node %d differs", l)
		}
	}
	for l, b := range want.data {
		if !bytes.Equal(b, got.data[l]) {
			t.Fatalf("data at %d differs", l)
		}
	}
}

// requireFiles checks that the regular extents of the top-level subvolume hold
// what the kernel was given, so that reading proves more than agreement with
// itself.
func requireFiles(t *testing.T, v *Volume, files map[string][]byte) {
	t.Helper()
	roots, err := treeRoots(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	names := map[disk.ObjectID]string{}
	got := map[string][]byte{}
	for name, b := range files {
		got[name] = make([]byte, len(b))
	}
	err = items(t.Context(), v, roots[disk.TreeFS], func(k disk.Key, b []byte) error {
		switch k.Type {
		case disk.KeyInodeRef:
			ref, _, err := disk.ParseInodeRef(b)
			names[k.ObjectID] = string(ref.Name)
			return err
		case disk.KeyExtentData:
			e, err := disk.ParseFileExtent(b)
			buf, ok := got[names[k.ObjectID]]
			if err != nil || !ok {
				return err
			}
			if e.Type == disk.FileExtentInline || e.Compression != disk.CompressNone || e.IsHole() {
				return fmt.Errorf("extent %+v of %s", e, names[k.ObjectID])
			}
			return v.ReadData(t.Context(), e.DiskBytenr+disk.Logical(e.Offset), buf[k.Offset:k.Offset+e.NumBytes], nil)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		if !bytes.Equal(b, got[name]) {
			t.Fatalf("contents of %s differ", name)
		}
	}
}

// requireMirrors reads every node and every sector by every mirror: all must
// have their checksum.
func requireMirrors(t *testing.T, v *Volume, img *image) {
	t.Helper()
	sb := v.Super()
	for l, want := range img.nodes {
		buf := make([]byte, len(want))
		for m := 1; m <= v.Mirrors(l); m++ {
			if err := v.ReadMirror(t.Context(), l, buf, m); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(buf, want) {
				t.Fatalf("node %d: mirror %d differs", l, m)
			}
		}
	}
	for l, want := range img.data {
		buf := make([]byte, len(want))
		for m := 1; m <= v.Mirrors(l); m++ {
			if err := v.ReadMirror(t.Context(), l, buf, m); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(buf, want) {
				t.Fatalf("data at %d: mirror %d differs", l, m)
			}
		}
	}
	for _, r := range img.sums {
		if i := csum.VerifyBlocks(sb.CsumType, r.sums, img.data[r.at], int(sb.SectorSize)); i >= 0 {
			t.Fatalf("data at %d: sector %d has the wrong checksum", r.at, i)
		}
	}
}

// flipped is a device that gives wrong bytes in some ranges.
type flipped struct {
	blockdev.Device
	ranges [][2]uint64 // physical start and end
}

func (f *flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.Device.ReadAt(p, off)
	for _, r := range f.ranges {
		from, to := max(int64(r[0]), off), min(int64(r[1]), off+int64(n))
		for i := from; i < to; i++ {
			p[i-off] ^= 0x5a
		}
	}
	return n, err
}

// failing is a device that refuses to be read in some ranges.
type failing struct {
	blockdev.Device
	from, to int64
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off < f.to && off+int64(len(p)) > f.from {
		return 0, os.ErrDeadlineExceeded
	}
	return f.Device.ReadAt(p, off)
}
