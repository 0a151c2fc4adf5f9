package btrfs_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/invariants"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/internal/volume"
	"gobtrfs/mkfs"
	"gobtrfs/scrub"
)

// readTrees reads every tree block of every tree.
func readTrees(t *testing.T, f *btrfs.FS) {
	t.Helper()
	ids := []disk.ObjectID{disk.TreeChunk, disk.TreeRoot}
	eachItem(t, f, disk.TreeRoot, func(k disk.Key, _ []byte) {
		if k.Type == disk.KeyRootItem {
			ids = append(ids, k.ObjectID)
		}
	})
	for _, id := range ids {
		eachItem(t, f, id, func(disk.Key, []byte) {})
	}
}

func eachItem(t *testing.T, f *btrfs.FS, id disk.ObjectID, each func(disk.Key, []byte)) {
	t.Helper()
	tree, _, err := f.Store().Tree(t.Context(), id)
	must(t, err)
	it := tree.Seek(t.Context(), disk.Key{})
	for ; it.Valid(); it.Next() {
		each(it.Key(), it.Data())
	}
	must(t, it.Err())
}

// spoil damages every fifth sector of what is in use, in the copy that a reader
// asks first: which that is changes every MiB, so of an extent that lies across
// such a border the first part counts. With parity what is on one device is
// damaged. What keep says stays as it is.
func spoil(t *testing.T, f *btrfs.FS, devs []blockdev.Device, keep func(disk.Logical) bool) {
	t.Helper()
	eachItem(t, f, disk.TreeExtent, func(k disk.Key, _ []byte) {
		n := disk.Logical(k.Offset)
		switch k.Type {
		case disk.KeyMetadataItem:
			n = disk.Logical(f.Super().NodeSize)
		case disk.KeyExtentItem:
		default:
			return
		}
		for l := disk.Logical(k.ObjectID); l < disk.Logical(k.ObjectID)+n; l += 4096 {
			if l/4096%5 == 0 && l>>20 == disk.Logical(k.ObjectID)>>20 && !keep(l) {
				spoilSector(t, f, devs, l)
			}
		}
	})
}

func spoilSector(t *testing.T, f *btrfs.FS, devs []blockdev.Device, l disk.Logical) {
	t.Helper()
	v := f.Store().Volume()
	places, err := v.Map(l, 4096)
	must(t, err)
	c, _ := v.Chunk(l)
	p := &places[0]
	switch prof := disk.ProfileOf(c.Type); {
	case prof.Parity > 0 && p.Dev != 1:
		return
	case prof.Copies > 1 && prof.DevStripes == 1:
		p = &places[int(l>>20)%prof.Copies]
	}
	var b [1]byte
	_, err = devs[p.Dev-1].ReadAt(b[:], int64(p.Off)+100)
	must(t, err)
	b[0] ^= 0x40
	_, err = devs[p.Dev-1].WriteAt(b[:], int64(p.Off)+100)
	must(t, err)
}

func scrubErrors(t *testing.T, devs []blockdev.Device) uint64 {
	t.Helper()
	var first atomic.Pointer[scrub.Problem]
	r, err := scrub.Run(t.Context(), devs, scrub.Options{Problem: func(p scrub.Problem) { first.CompareAndSwap(nil, &p) }})
	must(t, err)
	if p := first.Load(); p != nil {
		t.Logf("%d errors; the first: %v", r.Errors, p.String())
	}
	return r.Errors
}

// sumOfStats is what is counted of all devices together.
func sumOfStats(t *testing.T, f *btrfs.FS) (sum disk.DevStats) {
	t.Helper()
	list, err := f.DeviceStats(t.Context())
	must(t, err)
	for _, d := range list {
		sum.Add(d.DevStats)
	}
	return sum
}

// A bad copy that a reader of a filesystem open for writing meets is right after
// the next Sync, in trees and data, whatever the profile. Without checksums
// nothing is overwritten.
func TestReadsMendCopies(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for _, spec := range []struct {
		devices int
		profile string
	}{{1, "dup"}, {2, "raid1"}, {4, "raid10"}, {3, "raid5"}, {4, "raid6"}} {
		if invariants.Enabled && spec.devices > 3 {
			continue // slow, and the others have as many goroutines
		}
		t.Run(spec.profile, func(t *testing.T) {
			ctx := t.Context()
			v := &variant{devices: spec.devices, own: mkfs.Options{Data: spec.profile, Metadata: spec.profile}}
			images := v.make(t, 512<<20)
			f, e := openWith(t, images[0], v.options(images, true))
			for i := range 40 {
				must(t, e.Create(ctx, fmt.Sprint("/f", i), btrfs.Attr{Perm: 0o600}))
				_, err := e.WriteAt(ctx, fmt.Sprint("/f", i), oracle.Noise(uint64(i), 100_000*(1+i%4)), 0)
				must(t, err)
			}
			must(t, f.Sync(ctx))
			want := filesOf(t, f)
			must(t, f.Close())

			var devs []blockdev.Device
			for _, image := range images {
				d, err := blockdev.OpenFile(image, blockdev.FileOptions{})
				must(t, err)
				defer d.Close()
				devs = append(devs, d)
			}
			f, err := btrfs.OpenDevices(ctx, devs, btrfs.Options{})
			must(t, err)
			spoil(t, f, devs, func(disk.Logical) bool { return false })
			must(t, f.Close())
			// Reading alone changes nothing.
			f, err = btrfs.OpenDevices(ctx, devs, btrfs.Options{})
			must(t, err)
			readTrees(t, f)
			filesOf(t, f)
			counted := sumOfStats(t, f)
			must(t, f.Close())
			before := scrubErrors(t, devs)
			if before < 50 || counted.CorruptionErrs < before/2 {
				t.Fatalf("%d errors are left, %+v were counted", before, counted)
			}

			var rewritten atomic.Int64
			o := btrfs.Options{Writable: true, Events: btrfs.Events{CopiesRewritten: func(r volume.Repair) {
				rewritten.Add(int64(r.Rewritten))
				if r.Err != nil {
					t.Errorf("%+v", r)
				}
			}}}
			f, err = btrfs.OpenDevices(ctx, devs, o)
			must(t, err)
			readTrees(t, f)
			oracle.RequireSame(t, want, filesOf(t, f), manifest.All)
			must(t, f.Sync(ctx))
			stats := sumOfStats(t, f)
			must(t, f.Close())
			if stats != (disk.DevStats{CorruptionErrs: uint64(rewritten.Load())}) {
				t.Errorf("%d copies were overwritten, counted are %+v", rewritten.Load(), stats)
			}
			if n := scrubErrors(t, devs); n != 0 {
				t.Errorf("%d errors are left of %d", n, before)
			}
			f, err = btrfs.OpenDevices(ctx, devs, btrfs.Options{})
			must(t, err)
			if kept := sumOfStats(t, f); kept != stats {
				t.Errorf("the filesystem keeps %+v, want %+v", kept, stats)
			}
			must(t, f.Close())
			v.judge(t, images)
		})
	}
}

// Without checksums nobody knows which copy is right.
func TestReadsLeaveWhatHasNoChecksum(t *testing.T) {
	ctx := t.Context()
	devs := []blockdev.Device{blockdev.NewMemory(512 << 20), blockdev.NewMemory(512 << 20)}
	_, err := mkfs.Make(ctx, devs, mkfs.Options{Data: "raid1", Metadata: "raid1"})
	must(t, err)
	o := btrfs.Options{Writable: true, NoDataSum: true}
	f, e := openDevices(t, devs, o)
	must(t, e.Create(ctx, "/f", btrfs.Attr{Perm: 0o600}))
	_, err = e.WriteAt(ctx, "/f", oracle.Noise(1, 1<<20), 0)
	must(t, err)
	must(t, f.Sync(ctx))
	spoil(t, f, devs, func(l disk.Logical) bool {
		c, _ := f.Store().Volume().Chunk(l)
		return c.Type&disk.BlockGroupData == 0
	})
	must(t, f.Close())
	before := scrubErrors(t, devs)
	f, e = openDevices(t, devs, o)
	filesOf(t, f)
	must(t, e.Create(ctx, "/g", btrfs.Attr{Perm: 0o600}))
	must(t, f.Sync(ctx))
	must(t, f.Close())
	if after := scrubErrors(t, devs); before == 0 || after != before {
		t.Errorf("copies differ in %d places, before in %d", after, before)
	}
}

func openDevices(t *testing.T, devs []blockdev.Device, o btrfs.Options) (*btrfs.FS, *btrfs.Editor) {
	t.Helper()
	f, err := btrfs.OpenDevices(t.Context(), devs, o)
	must(t, err)
	top, err := f.TopLevel(t.Context())
	must(t, err)
	e, err := top.Edit()
	must(t, err)
	return f, e
}

// lying is a device of which a read now and then gives a wrong bit.
type lying struct {
	blockdev.Device
	reads atomic.Int64
}

func (d *lying) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Device.ReadAt(p, off)
	if i := d.reads.Add(1); i%3 == 0 && n > 0 {
		p[int(i*2654435761%int64(n))] ^= 1 << (i % 7)
	}
	return n, err
}

// What seemed bad is written again beside edits, commits and readers of commits
// that are over: nothing of what they write may suffer.
func TestMendingBesideEdits(t *testing.T) {
	// Not RAID5: what is in no commit yet has nothing to tell a lie by when the
	// parity of its row is made, and a second lie leaves nothing to read it from.
	for n, data := range map[int]string{2: "raid1", 3: "raid1c3"} {
		t.Run(data, func(t *testing.T) {
			var devs []blockdev.Device
			for range n {
				devs = append(devs, blockdev.NewMemory(1<<30))
			}
			_, err := mkfs.Make(t.Context(), devs, mkfs.Options{Data: data, Metadata: data})
			must(t, err)
			var rewritten atomic.Int64
			liar := &lying{Device: devs[0]}
			f, e := openDevices(t, append([]blockdev.Device{liar}, devs[1:]...), btrfs.Options{
				Writable: true, CacheBytes: 1, DirtyBytes: 256 << 10,
				Events: btrfs.Events{CopiesRewritten: func(r volume.Repair) { rewritten.Add(int64(r.Rewritten)) }},
			})
			concurrentEdits(t, f, e, 8, 24)
			must(t, f.Close())
			if rewritten.Load() == 0 {
				t.Error("nothing was written again")
			}
			t.Logf("%d copies were written again, of %d reads", rewritten.Load(), liar.reads.Load())
			if bad := checkErrors(t, devs, check.Options{VerifyData: true}); len(bad) > 0 {
				t.Error(bad)
			}
		})
	}
}

// statsOfKernel is what btrfs device stats says of a mount, for each device.
func statsOfKernel(t *testing.T, m *oracle.Mounted, args ...string) map[string]disk.DevStats {
	t.Helper()
	out := make(map[string]disk.DevStats)
	for line := range strings.Lines(oracle.Run(t, "btrfs", append(append([]string{"device", "stats"}, args...), m.Dir)...)) {
		dev, rest, _ := strings.Cut(strings.TrimPrefix(line, "["), "].")
		var name string
		var n uint64
		if _, err := fmt.Sscan(rest, &name, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		s := out[dev]
		switch name {
		case "write_io_errs":
			s.WriteErrs = n
		case "read_io_errs":
			s.ReadErrs = n
		case "flush_io_errs":
			s.FlushErrs = n
		case "corruption_errs":
			s.CorruptionErrs = n
		case "generation_errs":
			s.GenerationErrs = n
		}
		out[dev] = s
	}
	return out
}

// stumbling is a device that fails some operations, one time each.
type stumbling struct {
	blockdev.Device
	read, write atomic.Bool // the next one of a sector of marked contents fails
	mark        []byte
}

func (d *stumbling) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Device.ReadAt(p, off)
	if bytes.Contains(p[:n], d.mark) && d.read.CompareAndSwap(true, false) {
		return 0, syscall.EIO
	}
	return n, err
}

func (d *stumbling) WriteAt(p []byte, off int64) (int, error) {
	if bytes.Contains(p, d.mark) && d.write.CompareAndSwap(true, false) {
		return 0, syscall.EIO
	}
	return d.Device.WriteAt(p, off)
}

// The kernel shows the numbers that we keep, we show those that it keeps, and
// each resets the other's.
func TestDeviceStatsBesideKernel(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	ctx := t.Context()
	images := oracle.MkfsN(t, 2, 256<<20, "-d", "raid1", "-m", "raid1")
	both := func() (kernel, ours []disk.DevStats) {
		t.Helper()
		f, err := btrfs.Open(ctx, images[0], btrfs.Options{Devices: images[1:]})
		must(t, err)
		defer f.Close()
		list, err := f.DeviceStats(ctx)
		must(t, err)
		m := oracle.Mount(t, "", images...)
		defer m.Unmount()
		said := statsOfKernel(t, m)
		for i, l := range m.Loops {
			kernel, ours = append(kernel, said[l]), append(ours, list[i].DevStats)
		}
		return kernel, ours
	}
	want := func(want ...disk.DevStats) {
		t.Helper()
		kernel, ours := both()
		for i := range want {
			if kernel[i] != want[i] || ours[i] != want[i] {
				t.Errorf("device %d: the kernel says %+v, we %+v, want %+v", i+1, kernel[i], ours[i], want[i])
			}
		}
	}

	// What the kernel finds in a mounted filesystem, and repairs.
	m := oracle.Mount(t, "", images...)
	m.AllowLog("csum|checksum|error|fixed", "a copy of a file was damaged under the mount")
	content := oracle.Noise(1, 1<<20)
	must(t, os.WriteFile(m.Dir+"/f", content, 0o600))
	m.Sync()
	raw, err := os.ReadFile(images[1])
	must(t, err)
	at := bytes.Index(raw, content[:4096])
	d, err := os.OpenFile(images[1], os.O_RDWR, 0)
	must(t, err)
	_, err = d.WriteAt(make([]byte, 3*4096), int64(at))
	must(t, err)
	must(t, d.Close())
	oracle.Run(t, "sh", "-c", "btrfs scrub start -B "+m.Dir+" || true")
	m.Unmount()
	want(disk.DevStats{}, disk.DevStats{CorruptionErrs: 3})

	// What we meet: a write that fails, later reads that fail, and a tree block of
	// the past.
	mark := oracle.Noise(7, 64)
	devs := []*stumbling{{mark: mark}, {mark: mark}}
	for i, d := range devs {
		d.Device, err = blockdev.OpenFile(images[i], blockdev.FileOptions{})
		must(t, err)
		defer d.Close()
	}
	open := func() *btrfs.FS {
		t.Helper()
		f, err := btrfs.OpenDevices(ctx, []blockdev.Device{devs[0], devs[1]}, btrfs.Options{Writable: true})
		must(t, err)
		return f
	}
	f := open()
	top, err := f.TopLevel(ctx)
	must(t, err)
	e, err := top.Edit()
	must(t, err)
	devs[0].write.Store(true)
	must(t, e.Create(ctx, "/g", btrfs.Attr{Perm: 0o600}))
	_, err = e.WriteAt(ctx, "/g", oracle.Noise(7, 8192), 0)
	must(t, err)
	if err := f.Sync(ctx); err == nil {
		t.Error("a write failed, and nobody was told")
	}
	must(t, f.Sync(ctx))
	must(t, f.Close())
	want(disk.DevStats{WriteErrs: 1}, disk.DevStats{CorruptionErrs: 3})

	f = open()
	old := oldNode(t, f, devs)
	must(t, f.Close())
	f = open()
	for _, d := range devs {
		d.read.Store(true)
	}
	readTrees(t, f)
	filesOf(t, f)
	must(t, f.Sync(ctx))
	must(t, f.Close())
	stats := []disk.DevStats{{WriteErrs: 1, ReadErrs: 1}, {CorruptionErrs: 3, ReadErrs: 1}}
	stats[old-1].GenerationErrs = 1
	want(stats...)

	m = oracle.Mount(t, "", images...)
	statsOfKernel(t, m, "-z")
	must(t, os.Remove(m.Dir+"/g")) // it keeps them with the next commit
	m.Unmount()
	want(disk.DevStats{}, disk.DevStats{})
	oracle.CheckWith(t, oracle.CheckOptions{Data: true}, images...)
}

// oldNode gives a copy of a tree's root another generation, with a checksum
// that is right, and returns the device whose copy it was.
func oldNode(t *testing.T, f *btrfs.FS, devs []*stumbling) disk.DevID {
	t.Helper()
	_, item, err := f.Store().Tree(t.Context(), disk.TreeDev)
	must(t, err)
	places, err := f.Store().Volume().Map(item.Bytenr, uint64(f.Super().NodeSize))
	must(t, err)
	p := places[int(item.Bytenr>>20)%len(places)]
	n := make(disk.Node, f.Super().NodeSize)
	_, err = devs[p.Dev-1].Device.ReadAt(n, int64(p.Off))
	must(t, err)
	n.SetGeneration(n.Generation() - 1)
	sum := csum.Sum(f.Super().CsumType, n.Body())
	copy(n.Csum(), sum[:])
	_, err = devs[p.Dev-1].Device.WriteAt(n, int64(p.Off))
	must(t, err)
	return p.Dev
}
