//go:build linux

package mkfs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

// TestKernelFillsEmptiesAndBalances lets Linux use a filesystem up: it must be
// able to fill it, to delete everything from the full filesystem, and to move all
// chunks. Without the tag long three of the cases are enough.
func TestKernelFillsEmptiesAndBalances(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	dir := sampleTree(t)
	for _, c := range []struct {
		name    string
		devices int
		size    int64
		o       Options
	}{
		{"defaults", 1, 400 << 20, Options{}},
		{"defaults with a tree", 1, 400 << 20, Options{Source: Dir(dir)}},
		{"small", 1, 200 << 20, Options{Source: Dir(dir)}},
		{"64k nodes", 1, 600 << 20, Options{NodeSize: 65536, Source: Dir(dir)}},
		{"mixed", 1, 300 << 20, Options{Features: []string{"mixed-bg"}, Source: Dir(dir)}},
		{"raid1", 2, 400 << 20, Options{Data: "raid1", Source: Dir(dir)}},
		{"raid5", 3, 400 << 20, Options{Data: "raid5", Metadata: "raid1c3", Source: Dir(dir)}},
		{"old features", 1, 400 << 20, Options{Features: []string{"^no-holes,^skinny-metadata,^block-group-tree"}, Source: Dir(dir)}},
		{"shrunk with slack", 1, 0, Options{Source: Dir(dir), Shrink: true, Slack: 300 << 20, Force: true}},
	} {
		if !long && c.o.Source != nil && c.o.Slack == 0 && c.name != "raid5" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			images := oracle.Sparse(t, c.devices, max(c.size, 1<<20))
			if _, err := MakeFiles(t.Context(), images, uint64(c.size), c.o); err != nil {
				t.Fatal(err)
			}
			// With discard the kernel keeps empty groups until they are trimmed.
			m := oracle.Mount(t, "nodiscard", images...)
			fill(t, m.Dir)
			m.Sync()
			oracle.Run(t, "find", m.Dir, "-mindepth", "1", "-delete")
			m.Sync()
			m.Unmount()
			m = oracle.Mount(t, "nodiscard", images...)
			balance(t, m)
			oracle.Scrub(t, m.Dir)
			m.AllowLog("relocat|balance|found [0-9]+ extents", "what balance reports")
			m.Unmount()
			oracle.Check(t, images...)
		})
	}
}

// balance moves everything. On a filesystem without a free chunk that works only
// after the kernel has removed its empty groups, which it does in the background.
func balance(t *testing.T, m *oracle.Mounted) {
	t.Helper()
	m.AllowLog("balance|relocat", "attempts before the empty groups are gone")
	var out []byte
	for range 100 {
		var err error
		if out, err = exec.Command("btrfs", "balance", "start", "--full-balance", m.Dir).CombinedOutput(); err == nil {
			return
		}
		// The cleaner wakes up on a commit that has something to write.
		name := filepath.Join(m.Dir, "wake")
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		m.Sync()
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		m.Sync()
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("balance: %s", out)
}

// fill writes files until nothing fits any more.
func fill(t *testing.T, dir string) {
	t.Helper()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for n, size := 0, len(block); size > 1000; n++ {
		err := os.WriteFile(filepath.Join(dir, fmt.Sprint("fill-", n)), block[:size], 0o644)
		if err != nil {
			size /= 8
		}
		if n > 100_000 {
			t.Fatal("never full")
		}
	}
}

// TestShrunkFilesystem looks at what a shrunk filesystem has besides its contents,
// and lets Linux use it: delete from it as it is, then grow and fill it.
func TestShrunkFilesystem(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	dir := sampleTree(t)
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"defaults", Options{}},
		{"single, 64k nodes", Options{Metadata: "single", NodeSize: 65536}},
		{"4k nodes, compressed", Options{NodeSize: 4096, Compress: "zstd"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Source, c.o.Shrink = Dir(dir), true
			image := filepath.Join(oracle.Dir(t), "image")
			r, err := MakeFiles(t.Context(), []string{image}, 0, c.o)
			if err != nil {
				t.Fatal(err)
			}
			copies, node := uint64(2), uint64(orDefault(c.o.NodeSize, defaultNodeSize))
			if c.o.Metadata == "single" {
				copies = 1
			}
			// The start of the device, the system chunk, room to commit, and the
			// rounding of three chunks.
			extra := mib + copies*max(disk.StripeLen, 8*node) + copies*commitNodes*node + (1+2*copies)*disk.StripeLen
			if size := r.DeviceSizes[0]; size < r.DeviceUsed || size-r.DeviceUsed > extra {
				t.Errorf("%d bytes for %d in extents, want at most %d more", size, r.DeviceUsed, extra)
			}
			m := oracle.Mount(t, "", image)
			oracle.Run(t, "rm", "-r", m.Dir+"/many", m.Dir+"/big/mixed")
			m.Sync()
			m.Unmount()
			oracle.Check(t, image)
			if err := os.Truncate(image, 400<<20); err != nil {
				t.Fatal(err)
			}
			m = oracle.Mount(t, "", image)
			oracle.Run(t, "btrfs", "filesystem", "resize", "max", m.Dir)
			if err := os.WriteFile(m.Dir+"/new", make([]byte, 100<<20), 0o600); err != nil {
				t.Error(err)
			}
			m.Sync()
			oracle.Scrub(t, m.Dir)
			m.AllowLog("resize|relocat", "what resizing reports")
			m.Unmount()
			oracle.Check(t, image)
		})
	}
}

// TestShrunkFilesystemWithRoom lets Linux make as many new files as there shall be
// room for.
func TestShrunkFilesystemWithRoom(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	dir := sampleTree(t)
	for i, c := range []struct {
		name    string
		devices int
		o       Options
	}{
		{"defaults", 1, Options{Source: Dir(dir), Free: 16 << 20}},
		{"mixed", 1, Options{Source: Dir(dir), Free: 4 << 20, Features: []string{"mixed-bg"}}},
		{"two devices, nothing in them", 2, Options{Data: "raid1", Free: 8 << 20}},
		{"64k nodes, compressed", 1, Options{Source: Dir(dir), Free: 1 << 20, NodeSize: 65536, Compress: "zstd"}},
		{"4k nodes, two copies", 1, Options{Source: Dir(dir), Free: 100 << 20, NodeSize: 4096, Data: "dup"}},
		{"striped", 3, Options{Source: Dir(dir), Free: 300 << 20, Data: "raid0", Metadata: "raid1c3"}},
	} {
		if !long && i >= 3 {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			images := oracle.Sparse(t, c.devices, 1<<20)
			c.o.Shrink, c.o.Force = true, true
			r, err := MakeFiles(t.Context(), images, 0, c.o)
			if err != nil {
				t.Fatal(err)
			}
			m := oracle.Mount(t, "", images...)
			makeFiles(t, m.Dir, int(c.o.Free))
			m.Sync()
			oracle.Scrub(t, m.Dir)
			m.Unmount()
			oracle.Check(t, images...)
			p, err := newPlan(c.o, c.devices)
			if err != nil {
				t.Fatal(err)
			}
			total := uint64(0)
			for _, s := range r.DeviceSizes {
				total += s
			}
			// Each device begins with a reserved MiB and may be rounded up.
			limit := r.DeviceUsed + uint64(c.devices)*2*mib +
				uint64(p.data.Copies)*(c.o.Free+mib) + uint64(p.metadata.Copies)*(c.o.Free/8+700*uint64(p.format.size))
			if total > limit {
				t.Errorf("%d bytes with %d in extents, want at most %d", total, r.DeviceUsed, limit)
			}
		})
	}
}

// makeFiles makes a large file and many of 8 KiB, n bytes in all.
func makeFiles(t *testing.T, dir string, n int) {
	t.Helper()
	block := oracle.Noise(1, 1<<20)
	f, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	small := n / 2
	for left := n - small; left > 0; left -= len(block) {
		if _, err := f.Write(block[:min(left, len(block))]); err != nil {
			t.Fatalf("%d bytes before the end of the large file: %v", left, err)
		}
	}
	for i := range small / 8192 {
		name := filepath.Join(dir, fmt.Sprintf("d%d", i/500), fmt.Sprint("small-", i))
		if i%500 == 0 {
			if err := os.Mkdir(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(name, block[:8192], 0o644); err != nil {
			t.Fatalf("file %d of %d: %v", i, small/8192, err)
		}
	}
}
