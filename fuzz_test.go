package btrfs_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"testing"
	"time"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/specimen"
)

// newImage is a raw image with the places of its tree blocks and of its first
// superblock.
func newImage(t testing.TB, raw []byte) *image {
	t.Helper()
	sb, err := disk.ParseSuperblock(raw[disk.SuperInfoOffset:])
	if err != nil {
		t.Fatal(err)
	}
	img := &image{raw: raw, super: sb, blocks: []int64{disk.SuperInfoOffset}}
	for off := int64(1 << 20); off+int64(sb.NodeSize) <= int64(len(raw)); off += int64(sb.NodeSize) {
		n := disk.Node(raw[off : off+int64(sb.NodeSize)])
		sum := csum.Sum(sb.CsumType, n.Body())
		if n.FSID() == sb.FSID && bytes.Equal(sum[:], n.Csum()) {
			img.blocks = append(img.blocks, off)
		}
	}
	return img
}

type image struct {
	raw    []byte
	super  *disk.Superblock
	blocks []int64
}

// mutated is an image with some blocks replaced. It implements
// blockdev.Device for reading.
type mutated struct {
	*image
	changed map[int64][]byte // by offset
}

func (m *mutated) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, m.raw[min(off, int64(len(m.raw))):])
	for at, b := range m.changed {
		if at < off+int64(n) && at+int64(len(b)) > off {
			from, to := max(at, off), min(at+int64(len(b)), off+int64(n))
			copy(p[from-off:to-off], b[from-at:])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *mutated) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (m *mutated) Discard(_, _ int64) error           { return errors.ErrUnsupported }
func (m *mutated) Size() int64                        { return int64(len(m.raw)) }
func (m *mutated) Sync() error                        { return nil }
func (m *mutated) Close() error                       { return nil }
func (m *mutated) Name() string                       { return "mutated" }

// mutate applies the script: records of 2 bytes block, 2 bytes offset, 1 byte
// kind, 8 bytes value. Checksums are made to fit, so that what is behind them
// is tested too.
func (img *image) mutate(script []byte) *mutated {
	m := &mutated{img, make(map[int64][]byte)}
	for ; len(script) >= 13 && len(m.changed) < 16; script = script[13:] {
		at := img.blocks[int(binary.LittleEndian.Uint16(script))%len(img.blocks)]
		size := int(img.super.NodeSize)
		if at == disk.SuperInfoOffset {
			size = disk.SuperInfoSize
		}
		b := m.changed[at]
		if b == nil {
			b = bytes.Clone(img.raw[at : at+int64(size)])
			m.changed[at] = b
		}
		off := disk.CsumSize + int(binary.LittleEndian.Uint16(script[2:]))%(size-disk.CsumSize-8)
		value := script[5:13]
		switch script[4] % 4 {
		case 0:
			b[off] = value[0]
		case 1:
			copy(b[off:], value[:4])
		case 2:
			copy(b[off:], value)
		case 3: // another block's contents at this block's place
			from := img.blocks[int(value[0])%len(img.blocks)]
			copy(b[disk.CsumSize:], img.raw[from+disk.CsumSize:from+int64(size)])
			if value[1]%2 == 0 {
				copy(b[48:56], img.raw[at+48:at+56])
			}
		}
		sum := csum.Sum(img.super.CsumType, b[disk.CsumSize:])
		copy(b, sum[:])
	}
	return m
}

// walkLimits bound what a walk of a small image may take: more means that
// something loops.
const (
	walkEntries = 20_000
	walkBytes   = 256 << 20
)

// walkAll visits every subvolume, name, attribute and byte, and goes on after
// errors.
func walkAll(ctx context.Context, t *testing.T, dev blockdev.Device) {
	f, err := btrfs.OpenDevices(ctx, []blockdev.Device{dev}, btrfs.Options{CacheBytes: 4 << 20})
	if err != nil {
		return
	}
	defer f.Close()
	subvols, _ := f.Subvolumes(ctx)
	if len(subvols) > 1000 {
		t.Fatalf("%d subvolumes", len(subvols))
	}
	entries, total := 0, int64(0)
	buf := make([]byte, 64<<10)
	seen := map[[2]disk.ObjectID]bool{}
	var visit func(file *btrfs.File)
	visit = func(file *btrfs.File) {
		if id := [2]disk.ObjectID{file.Subvolume().ID(), file.Ino()}; seen[id] {
			return // a directory that contains itself
		} else {
			seen[id] = true
		}
		file.Xattrs(ctx)
		file.Names(ctx)
		file.Readlink(ctx)
		for off := int64(0); off < 4<<20; {
			n, err := file.ReadAtContext(ctx, buf, off)
			if err != nil {
				break
			}
			off, total = off+int64(n), total+int64(n)
		}
		if off, err := file.SeekData(ctx, 0); err == nil {
			file.SeekHole(ctx, off)
		}
		for e, err := range file.ReadDir(ctx, 0) {
			if err != nil {
				break
			}
			if entries++; entries > walkEntries || total > walkBytes {
				t.Fatalf("walk does not end: %d entries, %d bytes", entries, total)
			}
			if child, err := file.OpenEntry(ctx, e); err == nil {
				visit(child)
			}
			file.Lookup(ctx, e.Name)
		}
	}
	for _, s := range subvols {
		if sub, err := f.Subvolume(ctx, s.ID); err == nil {
			if root, err := sub.Root(ctx); err == nil {
				visit(root)
			}
		}
	}
	f.Default(ctx)
}

// FuzzWalk opens a mutated filesystem and reads all of it: no panic, no
// endless loop.
func FuzzWalk(f *testing.F) {
	img := newImage(f, specimen.Unclean(f))
	f.Add([]byte{})
	for i := range len(img.blocks) {
		f.Add([]byte{byte(i), 0, 69, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, byte(i), 0, 100, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0})
		f.Add([]byte{byte(i), 0, 0, 0, 3, byte(i + 1), 0, 0, 0, 0, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		walkAll(ctx, t, img.mutate(script))
		if ctx.Err() != nil {
			t.Fatal("walk took more than 20 s")
		}
	})
}

// hostileMemory is what reading a small hostile filesystem may take beyond the
// image itself: the node cache of walkAll (4 MiB), a few buffers, and what
// waits for the collector.
const hostileMemory = 96 << 20

// TestHostileMemory walks filesystems with wild numbers in every block, sizes
// and counts among them, and watches the heap.
func TestHostileMemory(t *testing.T) {
	img := newImage(t, specimen.Unclean(t))
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	runtime.GC()
	base := liveHeap()
	var peak atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				peak.Store(max(peak.Load(), liveHeap()))
			}
		}
	}()
	rnd := rand.New(rand.NewPCG(1, 2))
	rounds := 40
	if testing.Short() {
		rounds = 4
	}
	for i := range rounds * len(img.blocks) {
		script := make([]byte, 13*(1+rnd.IntN(3)))
		for j := range script {
			script[j] = byte(rnd.Uint32())
		}
		binary.LittleEndian.PutUint16(script, uint16(i))
		if i%2 == 0 { // a size or a count, and a large one
			script[4] = byte(1 + rnd.IntN(2))
			copy(script[5:], []byte{0xff, 0xff, 0xff, 0x7f})
		}
		walkAll(t.Context(), t, img.mutate(script))
	}
	close(stop)
	<-done
	grown := peak.Load() - min(base, peak.Load())
	t.Logf("heap grew by %.1f MiB", float64(grown)/(1<<20))
	if grown > hostileMemory {
		t.Errorf("heap grew by %d MiB, want at most %d", grown>>20, hostileMemory>>20)
	}
}

// liveHeap is the memory of objects in the heap, garbage included.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
