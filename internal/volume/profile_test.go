package volume

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

// profileCase is one kind of multi-device filesystem.
type profileCase struct {
	profile   string
	devices   int
	tolerated int // devices of any choice that may be missing
}

var profileCases = []profileCase{
	{"single", 2, 0},
	{"dup", 1, 0},
	{"raid0", 3, 0},
	{"raid1", 3, 1},
	{"raid1c3", 4, 2},
	{"raid1c4", 4, 3},
	{"raid10", 4, 1},
	{"raid5", 2, 1},
	{"raid5", 4, 1},
	{"raid6", 3, 2},
	{"raid6", 5, 2},
}

// redundant says whether one bad copy can be made up for.
func (c profileCase) redundant() bool { return c.tolerated > 0 || c.profile == "dup" }

// subsets is all ways to choose k of n.
func subsets(n, k int) [][]int {
	if k == 0 {
		return [][]int{nil}
	}
	var out [][]int
	for _, s := range subsets(n, k-1) {
		first := 0
		if len(s) > 0 {
			first = s[len(s)-1] + 1
		}
		for i := first; i < n; i++ {
			out = append(out, append(slices.Clone(s), i))
		}
	}
	return out
}

func TestKernelImagesOfEveryProfile(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	cases := profileCases
	if testing.Short() { // under the race detector: one mirrored, one with parity
		cases = []profileCase{{"dup", 1, 0}, {"raid5", 4, 1}}
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s on %d", c.profile, c.devices), func(t *testing.T) {
			images, files := kernelImage(t, c.devices, 384<<20, "-f", "-d", c.profile, "-m", c.profile)
			devs := openFiles(t, images...)
			var log eventLog
			v := mustOpen(t, devs, Options{Events: log.events()})
			if n := v.Notices(); len(n) > 0 {
				t.Errorf("notices about a sound filesystem: %v", n)
			}
			img, err := readAll(t.Context(), v)
			if err != nil {
				t.Fatal(err)
			}
			if len(img.nodes) < 10 || len(img.data) == 0 {
				t.Fatalf("read %d nodes and %d runs of data only", len(img.nodes), len(img.data))
			}
			requireFiles(t, v, files)
			requireMirrors(t, v, img)
			if log.count() != 0 {
				t.Errorf("events while reading a sound filesystem: %+v", &log)
			}
			t.Run("missing", func(t *testing.T) { testMissing(t, c, devs, img, files) })
			t.Run("flipped", func(t *testing.T) { testFlipped(t, c, devs, v, img) })
			t.Run("failing", func(t *testing.T) { testFailing(t, c, devs, img) })
		})
	}
}

// testMissing takes away every one and every two devices: what the profile
// allows reads the same, what it does not is an error and never other bytes.
func testMissing(t *testing.T, c profileCase, devs []blockdev.Device, img *image, files map[string][]byte) {
	for k := 1; k <= min(2, c.devices-1); k++ {
		for _, gone := range subsets(c.devices, k) {
			left := make([]blockdev.Device, 0, len(devs))
			for i, d := range devs {
				if !slices.Contains(gone, i) {
					left = append(left, d)
				}
			}
			if _, err := Open(t.Context(), left, Options{}); !errors.Is(err, ErrMissingDevice) {
				t.Errorf("open without %v and without Degraded: %v", gone, err)
			}
			var log eventLog
			v, err := Open(t.Context(), left, Options{Degraded: true, Events: log.events()})
			var got *image
			if err == nil {
				got, err = readAll(t.Context(), v)
			}
			switch {
			case err == nil:
				requireSame(t, img, got)
				requireFiles(t, v, files)
			case k <= c.tolerated:
				t.Errorf("without %v: %v", gone, err)
			case !errors.Is(err, ErrMissingDevice):
				t.Errorf("without %v: error is not about the missing device: %v", gone, err)
			}
			if log.count() != 0 {
				t.Errorf("without %v: events: %+v", gone, &log)
			}
		}
	}
}

// testFlipped spoils, on one device after another, everything that lies in
// chunks: with redundancy the right bytes come back and events say so, without
// it there is an error.
func testFlipped(t *testing.T, c profileCase, devs []blockdev.Device, v *Volume, img *image) {
	for i, info := range v.Devices() {
		bad := slices.Clone(devs)
		var ranges [][2]uint64
		for _, ch := range v.Chunks() {
			for j, s := range ch.Stripes {
				if s.DevID == info.ID && (c.profile != "dup" || j == 0) {
					ranges = append(ranges, [2]uint64{s.Offset, s.Offset + ch.StripeLength()})
				}
			}
		}
		bad[i] = &flipped{devs[i], ranges}
		var log eventLog
		w, err := Open(t.Context(), bad, Options{Events: log.events()})
		var got *image
		if err == nil {
			got, err = readAll(t.Context(), w)
		}
		switch {
		case len(ranges) == 0:
			continue
		case !c.redundant():
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("device %d spoiled: err = %v, want a corruption", info.ID, err)
			}
			continue
		case err != nil:
			t.Errorf("device %d spoiled: %v", info.ID, err)
			continue
		}
		requireSame(t, img, got)
		if asked := askedFirst(t, v, img, info.ID); asked != (len(log.repaired) > 0) || asked != (len(log.corrupt) > 0) {
			t.Errorf("device %d spoiled, read first: %v, events: %d and %d", info.ID, asked, len(log.corrupt), len(log.repaired))
		}
		for _, e := range log.corrupt {
			if e.Dev != 0 && e.Dev != info.ID || e.Logical == 0 || e.Mirror == 0 {
				t.Fatalf("device %d spoiled, the event says %+v", info.ID, e)
			}
		}
	}
}

// askedFirst says whether the device is the first choice for anything in img.
func askedFirst(t *testing.T, v *Volume, img *image, id disk.DevID) bool {
	t.Helper()
	asked := false
	look := func(l disk.Logical, n int) {
		for n > 0 { // one read is one segment, as in readFirst
			c, off, err := v.find(l, 1)
			if err != nil {
				t.Fatal(err)
			}
			o := c.order(off)
			m, _ := o.next()
			s := c.locate(off, m)
			asked = asked || c.devs[s.stripe].id == id
			l, n = l+disk.Logical(s.n), n-int(min(s.n, uint64(n)))
		}
	}
	for l := range img.nodes {
		look(l, 1)
	}
	for l, b := range img.data {
		for at := 0; at < len(b); at += verifyBatch {
			look(l+disk.Logical(at), min(verifyBatch, len(b)-at))
		}
	}
	return asked
}

// testFailing lets the whole of each device fail to be read after Open.
func testFailing(t *testing.T, c profileCase, devs []blockdev.Device, img *image) {
	for i := range devs {
		bad := slices.Clone(devs)
		f := &failing{Device: devs[i]}
		bad[i] = f
		var log eventLog
		v := mustOpen(t, bad, Options{Events: log.events()})
		f.to = 1 << 60
		got, err := readAll(t.Context(), v)
		var dev *DeviceError
		switch {
		case err == nil:
			requireSame(t, img, got)
		case c.tolerated > 0:
			t.Errorf("device %d fails: %v", i+1, err)
		case !errors.As(err, &dev) || dev.Dev != v.devices[i].id:
			t.Errorf("device %d fails: the error does not name it: %v", i+1, err)
		}
		if asked := askedFirst(t, v, img, v.devices[i].id); asked != (len(log.failed) > 0) {
			t.Errorf("device %d fails, read first: %v, events: %d", i+1, asked, len(log.failed))
		}
	}
}

// RAID6 must find the one of the many reconstructions that leaves out the two
// members which are wrong, wherever they are: two data, data and P, data and Q,
// and one that is wrong while another is missing.
func TestRAID6FindsTwoBadMembers(t *testing.T) {
	images, _ := kernelImage(t, 5, 384<<20, "-f", "-d", "raid6", "-m", "raid1c3")
	devs := openFiles(t, images...)
	v := mustOpen(t, devs, Options{})
	img, err := readAll(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(i int) blockdev.Device {
		var ranges [][2]uint64
		for _, ch := range v.Chunks() {
			for _, s := range ch.Stripes {
				if s.DevID == v.Devices()[i].ID && ch.Type&disk.BlockGroupRAID6 != 0 {
					ranges = append(ranges, [2]uint64{s.Offset, s.Offset + ch.StripeLength()})
				}
			}
		}
		return &flipped{devs[i], ranges}
	}
	for _, pair := range subsets(5, 2) {
		bad := slices.Clone(devs)
		bad[pair[0]], bad[pair[1]] = spoil(pair[0]), spoil(pair[1])
		var log eventLog
		got, err := readAll(t.Context(), mustOpen(t, bad, Options{Events: log.events()}))
		if err != nil {
			t.Errorf("devices %v spoiled: %v", pair, err)
			continue
		}
		requireSame(t, img, got)
		if len(log.repaired) == 0 {
			t.Errorf("devices %v spoiled: no event", pair)
		}
		one := slices.Delete(slices.Clone(bad), pair[0], pair[0]+1)
		if got, err = readAll(t.Context(), mustOpen(t, one, Options{Degraded: true})); err != nil {
			t.Errorf("device %d missing and %d spoiled: %v", pair[0], pair[1], err)
			continue
		}
		requireSame(t, img, got)
	}
	// Three are too many, and must be an error.
	bad := slices.Clone(devs)
	bad[0], bad[1], bad[2] = spoil(0), spoil(1), spoil(2)
	if _, err := readAll(t.Context(), mustOpen(t, bad, Options{})); !errors.Is(err, ErrCorrupt) {
		t.Errorf("three devices spoiled: %v", err)
	}
}
