package scrub_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
	"gobtrfs/internal/volume"
	"gobtrfs/scrub"
)

const mib = 1 << 20

type layout struct {
	name    string
	devices int
	mkfs    []string
	// redundant: data lost on one device can be had from the others.
	redundant bool
	parity    bool
}

var layouts = []layout{
	{"single", 1, []string{"-m", "dup", "-d", "single"}, false, false},
	{"dup", 1, []string{"-m", "dup", "-d", "dup"}, true, false},
	{"raid0", 2, []string{"-m", "raid1", "-d", "raid0"}, false, false},
	{"raid1", 2, []string{"-m", "raid1", "-d", "raid1"}, true, false},
	{"raid1c3", 3, []string{"-m", "raid1c3", "-d", "raid1c3"}, true, false},
	{"raid10", 4, []string{"-m", "raid10", "-d", "raid10"}, true, false},
	{"raid5", 3, []string{"-m", "raid1", "-d", "raid5"}, true, true},
	{"raid6", 4, []string{"-m", "raid1c3", "-d", "raid6"}, true, true},
}

// filesystem makes a filesystem with some files on it.
func filesystem(t *testing.T, l layout) []string {
	t.Helper()
	oracle.Need(t, oracle.Mounting...)
	images := oracle.MkfsN(t, l.devices, 300*mib, l.mkfs...)
	m := oracle.Mount(t, "", images...)
	for i := range 40 {
		name := filepath.Join(m.Dir, string(rune('a'+i%26))+string(rune('a'+i/26)))
		if err := os.WriteFile(name, oracle.Noise(uint64(i), 1+i*20000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	oracle.Run(t, "bash", "-e", "-c", "cd "+m.Dir+"\nmkdir n; chattr +C n; head -c 500000 /dev/urandom > n/nosum")
	m.Unmount()
	return images
}

func open(t testing.TB, images []string, write bool) []blockdev.Device {
	t.Helper()
	var devs []blockdev.Device
	for _, img := range images {
		d, err := blockdev.OpenFile(img, blockdev.FileOptions{ReadOnly: !write, NoLock: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		devs = append(devs, d)
	}
	return devs
}

func run(t testing.TB, devs []blockdev.Device, o scrub.Options) *scrub.Report {
	t.Helper()
	r, err := scrub.Run(t.Context(), devs, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// places are where checksummed data or tree blocks stand on one device.
func places(t testing.TB, devs []blockdev.Device, victim disk.DevID, data bool) []uint64 {
	t.Helper()
	v, err := volume.Open(t.Context(), devs, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var out []uint64
	for _, c := range v.Chunks() {
		if data != (c.Type&disk.BlockGroupData != 0) || c.Type&disk.BlockGroupSystem != 0 {
			continue
		}
		at, err := v.Map(c.Logical, min(c.Length, 4*mib))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range at {
			if p.Dev == victim {
				for o := uint64(0); o < p.Length; o += 4096 {
					out = append(out, p.Off+o)
				}
			}
		}
	}
	return out
}

func contents(t testing.TB, devs []blockdev.Device) [][]byte {
	t.Helper()
	var out [][]byte
	for _, d := range devs {
		b, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size()))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// TestRepairRestoresEveryByteInUse damages one device, one sector in five of
// the first megabytes of all its chunks, lets scrub repair, and compares with
// what was there: all that is in use must be as before, and nothing that was
// not damaged may have changed.
func TestRepairRestoresEveryByteInUse(t *testing.T) {
	for _, l := range layouts {
		if testing.Short() && l.name != "raid1" && l.name != "raid5" {
			continue // byte by byte under the race detector takes minutes
		}
		t.Run(l.name, func(t *testing.T) {
			images := filesystem(t, l)
			devs := open(t, images, true)
			before := contents(t, devs)
			clean := run(t, devs, scrub.Options{})
			if clean.Errors != 0 || !clean.Finished {
				t.Fatalf("not clean: %+v", clean)
			}
			rng := rand.New(rand.NewPCG(1, 2))
			victim := devs[len(devs)-1]
			damaged := make(map[uint64]bool)
			for _, data := range []bool{true, false} {
				for _, off := range places(t, devs, disk.DevID(len(devs)), data) {
					// In DUP both copies are on the device: only the first is damaged.
					if rng.IntN(5) == 0 && !(l.devices == 1 && damaged[off-1]) {
						damaged[off] = true
					}
				}
			}
			damage(t, l, devs, victim, damaged)
			found := run(t, devs, scrub.Options{})
			if found.Errors == 0 {
				t.Fatal("damage was not found")
			}
			if got := contents(t, devs); same(got, before) == 0 {
				t.Fatal("nothing was damaged")
			}
			fixed := run(t, devs, scrub.Options{Repair: true})
			if fixed.Errors != found.Errors {
				t.Errorf("%d errors found with repair, %d without", fixed.Errors, found.Errors)
			}
			again := run(t, devs, scrub.Options{})
			var unverified uint64
			for _, d := range again.Devices {
				unverified += d.UnverifiedErrors
			}
			if l.redundant && again.Errors > unverified {
				t.Errorf("left after repair: %+v", again)
			}
			if l.parity {
				return // the parity of rows with damage in unused space is made anew
			}
			for i, b := range contents(t, devs) {
				for o := 0; o < len(b); o += 4096 {
					if !bytes.Equal(b[o:o+4096], before[i][o:o+4096]) && !(i == len(devs)-1 && damaged[uint64(o)]) {
						t.Fatalf("device %d: sector at %d was changed, and had not been damaged", i+1, o)
					}
				}
			}
		})
	}
}

// damage inverts the sectors; on one device with DUP those of the second copy
// are left alone.
func damage(t *testing.T, l layout, devs []blockdev.Device, victim blockdev.Device, list map[uint64]bool) {
	t.Helper()
	second := make(map[uint64]bool)
	if l.devices == 1 {
		v, err := volume.Open(t.Context(), devs, volume.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range v.Chunks() {
			at, err := v.Map(c.Logical, min(c.Length, 4*mib))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range at {
				for o := uint64(0); p.Mirror == 2 && o < p.Length; o += 4096 {
					second[p.Off+o] = true
				}
			}
		}
	}
	b := make([]byte, 4096)
	for off := range list {
		if second[off] {
			delete(list, off)
			continue
		}
		if _, err := victim.ReadAt(b, int64(off)); err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] ^= 0xa5
		}
		if _, err := victim.WriteAt(b, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
}

func same(a, b [][]byte) (different int) {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			different++
		}
	}
	return different
}

// TestNumbersAreTheKernels compares the numbers with those of the kernel's own
// scrub.
func TestNumbersAreTheKernels(t *testing.T) {
	images := filesystem(t, layouts[3])
	m := oracle.Mount(t, "", images...)
	out := oracle.Run(t, "btrfs", "scrub", "start", "-B", "-R", "-d", m.Dir)
	m.Unmount()
	r := run(t, open(t, images, false), scrub.Options{})
	for _, d := range r.Devices {
		for name, v := range map[string]uint64{"data_bytes_scrubbed": d.DataBytesScrubbed, "tree_bytes_scrubbed": d.TreeBytesScrubbed, "no_csum": d.NoCsum} {
			if got := numbers(out, name)[d.Dev-1]; got != v {
				t.Errorf("device %d: %s is %d, the kernel says %d", d.Dev, name, v, got)
			}
		}
	}
}

func numbers(out, name string) []uint64 {
	var list []uint64
	for _, line := range bytes.Split([]byte(out), []byte("\n")) {
		f := bytes.Fields(line)
		if len(f) == 2 && string(f[0]) == name+":" {
			var v uint64
			for _, c := range f[1] {
				v = v*10 + uint64(c-'0')
			}
			list = append(list, v)
		}
	}
	return list
}

// TestInterruptedScrubGoesOn stops a scrub after every few units; all parts
// together must have looked at each byte once.
func TestInterruptedScrubGoesOn(t *testing.T) {
	for _, i := range []int{1, 3, 6} {
		t.Run(layouts[i].name, func(t *testing.T) {
			images := filesystem(t, layouts[i])
			devs := open(t, images, false)
			whole := run(t, devs, scrub.Options{})
			var state *scrub.State
			parts := 0
			for ; parts < 10000; parts++ {
				ctx, cancel := context.WithCancel(t.Context())
				calls := 0
				r, err := scrub.Run(ctx, devs, scrub.Options{Resume: state, Workers: 1, Progress: func(_, _ uint64) {
					if calls++; calls == 3 {
						cancel()
					}
				}})
				cancel()
				if err == nil {
					state = &r.State
					break
				}
				if !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				state = &r.State
			}
			if parts < 2 {
				t.Errorf("only %d interruptions", parts)
			}
			for j := range whole.Devices {
				if got, want := state.Devices[j], whole.Devices[j]; got.DataBytesScrubbed != want.DataBytesScrubbed || got.TreeBytesScrubbed != want.TreeBytesScrubbed || got.ParityBytesScrubbed != want.ParityBytesScrubbed {
					t.Errorf("in parts %+v, at once %+v", got, want)
				}
			}
		})
	}
}

func TestRateLimit(t *testing.T) {
	images := filesystem(t, layouts[0])
	devs := open(t, images, false)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := run(t, devs, scrub.Options{BytesPerSecond: mib, Workers: 2})
		bytes := r.Devices[0].DataBytesScrubbed + r.Devices[0].TreeBytesScrubbed
		took, least := time.Since(start), time.Duration(float64(bytes-2*mib)/mib*float64(time.Second))
		if took < least {
			t.Errorf("%d bytes in %v, want at least %v", bytes, took, least)
		}
	})
}

func TestStateOfAnotherFilesystemIsRefused(t *testing.T) {
	images := filesystem(t, layouts[0])
	_, err := scrub.Run(t.Context(), open(t, images, false), scrub.Options{Resume: &scrub.State{Next: 1 << 30}})
	if !errors.Is(err, scrub.ErrOtherFilesystem) {
		t.Errorf("got %v", err)
	}
}
