package check_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/oracle"
	"gobtrfs/internal/volume"
)

// inMemory copies an image into memory.
func inMemory(t testing.TB, path string) *blockdev.Memory {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m := blockdev.NewMemory(st.Size())
	b, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for o := int64(0); o < st.Size(); o += int64(len(b)) {
		n, err := f.ReadAt(b, o)
		if n == 0 && err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b[:n], zero[:n]) {
			if _, err := m.WriteAt(b[:n], o); err != nil {
				t.Fatal(err)
			}
		}
	}
	return m
}

func smallImage(t testing.TB, mkfs ...string) string {
	t.Helper()
	oracle.Need(t, oracle.Mounting...)
	img := oracle.Mkfs(t, 300*mib, mkfs...)
	m := oracle.Mount(t, "", img)
	smallWorkload(t, m)
	m.Unmount()
	return img
}

// TestRandomBytesDoNoHarm overwrites random bytes of many tree blocks at once,
// checksums right, and demands an end in time and no panic, whatever comes out.
func TestRandomBytesDoNoHarm(t *testing.T) {
	rounds := 120
	if testing.Short() {
		rounds = 50
	}
	dev := inMemory(t, smallImage(t, "-m", "single"))
	v, err := volume.Open(t.Context(), []blockdev.Device{dev}, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sb := v.Super()
	nodes := blocks(t, v)
	if len(nodes) < 10 {
		t.Fatalf("only %d tree blocks", len(nodes))
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range rounds {
		var undo []func()
		for range 1 + rng.IntN(6) {
			phys := nodes[rng.IntN(len(nodes))]
			old := make([]byte, sb.NodeSize)
			if _, err := dev.ReadAt(old, phys); err != nil {
				t.Fatal(err)
			}
			b := bytes.Clone(old)
			for range 1 + rng.IntN(20) {
				// Half of the changes in the header and the item headers.
				o := disk.CsumSize + rng.IntN(len(b)-disk.CsumSize)
				if rng.IntN(2) == 0 {
					o = disk.CsumSize + rng.IntN(1000)
				}
				b[o] = byte(rng.Uint32())
			}
			sum := csum.Sum(sb.CsumType, b[disk.CsumSize:])
			copy(b, sum[:])
			write := func(b []byte) {
				if _, err := dev.WriteAt(b, phys); err != nil {
					t.Fatal(err)
				}
			}
			write(b)
			undo = append(undo, func() { write(old) })
		}
		start := time.Now()
		if _, err := check.Run(context.Background(), []blockdev.Device{dev}, check.Options{VerifyData: rng.IntN(4) == 0}); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	if r := checkDevice(t, dev); r.Damaged() {
		t.Errorf("after all was put back: %v", r.Findings)
	}
}

func checkDevice(t testing.TB, dev blockdev.Device) *check.Report {
	t.Helper()
	r, err := check.Run(context.Background(), []blockdev.Device{dev}, check.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// blocks are the places of all tree blocks of metadata chunks.
func blocks(t testing.TB, v *volume.Volume) []int64 {
	t.Helper()
	var out []int64
	sb := v.Super()
	b := make([]byte, sb.NodeSize)
	for _, c := range v.Chunks() {
		if c.Type&disk.BlockGroupData != 0 {
			continue
		}
		for a := c.Logical; a < c.End(); a += disk.Logical(sb.NodeSize) {
			if v.ReadNode(t.Context(), a, b, nil) != nil || disk.Node(b).Generation()+5 < sb.Generation {
				continue
			}
			at, err := v.Map(a, uint64(sb.NodeSize))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, int64(at[0].Off))
		}
	}
	return out
}

// TestCutShort: a check whose context ends returns soon, with the context's
// error.
func TestCutShort(t *testing.T) {
	dev := inMemory(t, smallImage(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := check.Run(ctx, []blockdev.Device{dev}, check.Options{}); err == nil {
		t.Errorf("no error, report %+v", r)
	}
}

// TestNothingIsWritten checks through a device that refuses to be written.
func TestNothingIsWritten(t *testing.T) {
	img := smallImage(t)
	before, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	requireClean(t, checkImages(t, check.Options{VerifyData: true}, img))
	after, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the image has changed")
	}
}

// TestNotAFilesystem: what is no btrfs at all is a finding, not a crash.
func TestNotAFilesystem(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, make([]byte, 1<<20), 0o666); err != nil {
		t.Fatal(err)
	}
	r := checkImages(t, check.Options{}, empty)
	if !r.Has(check.CodeOpen) || r.Complete {
		t.Errorf("got %+v", r)
	}
}

// BenchmarkSmall is the check that other packages' tests make after each crash
// state, without and with reading the data.
func BenchmarkSmall(b *testing.B) {
	dev := inMemory(b, smallImage(b))
	for _, verify := range []bool{false, true} {
		b.Run(fmt.Sprintf("data=%v", verify), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r, err := check.Run(b.Context(), []blockdev.Device{dev}, check.Options{VerifyData: verify, Workers: 1, NoPaths: true})
				if err != nil || r.Damaged() {
					b.Fatal(err, r)
				}
			}
		})
	}
}
