package volume

import (
	"testing"

	"gobtrfs/disk"
)

// chunkOf makes a chunk of n stripes whose stripe i starts at i*1 GiB on
// device i+1.
func chunkOf(t testing.TB, flags disk.BlockGroupFlags, n int, stripeLen uint64) *chunk {
	t.Helper()
	p := disk.ProfileOf(flags)
	m := disk.ChunkMapping{Logical: 1 << 40, Chunk: disk.Chunk{
		Length: stripeLen * uint64(p.DataStripes(n)), Owner: disk.TreeExtent, StripeLen: disk.StripeLen,
		Type: flags | disk.BlockGroupData, IOAlign: 65536, IOWidth: 65536, SectorSize: 4096, SubStripes: uint16(p.SubStripes),
	}}
	devs := make([]*device, n)
	for i := range n {
		m.Stripes = append(m.Stripes, disk.Stripe{DevID: disk.DevID(i + 1), Offset: uint64(i) << 30})
		devs[i] = missingDevice(disk.DevID(i+1), disk.UUID{})
	}
	if err := m.Validate(disk.Geometry{SectorSize: 4096}); err != nil {
		t.Fatal(err)
	}
	return &chunk{ChunkMapping: &m, profile: p, data: p.DataStripes(n), devs: devs}
}

// The golden places were worked out by hand from the layout rules; images that
// the kernel wrote check the same rules in profile_test.go.
func TestLocate(t *testing.T) {
	const k, g = 1 << 10, 1 << 30
	for _, c := range []struct {
		name    string
		flags   disk.BlockGroupFlags
		stripes int
		off     uint64
		mirror  int
		// want
		stripe int
		phys   uint64
		n      uint64
	}{
		{"single is one to one", 0, 1, 300 * k, 1, 0, 300 * k, 724 * k},
		{"DUP second copy", disk.BlockGroupDUP, 2, 300 * k, 2, 1, 1*g + 300*k, 724 * k},
		{"RAID1 second copy", disk.BlockGroupRAID1, 2, 5 * k, 2, 1, 1*g + 5*k, 1019 * k},
		{"RAID1C3 third copy", disk.BlockGroupRAID1C3, 3, 0, 3, 2, 2 * g, 1024 * k},
		{"RAID1C4 fourth copy", disk.BlockGroupRAID1C4, 4, 0, 4, 3, 3 * g, 1024 * k},
		{"RAID0 first element", disk.BlockGroupRAID0, 3, 63 * k, 1, 0, 63 * k, 1 * k},
		{"RAID0 second device", disk.BlockGroupRAID0, 3, 65 * k, 1, 1, 1*g + 1*k, 63 * k},
		{"RAID0 second row", disk.BlockGroupRAID0, 3, (3*64 + 2) * k, 1, 0, (64 + 2) * k, 62 * k},
		{"RAID0 last element", disk.BlockGroupRAID0, 3, (3*1024 - 4) * k, 1, 2, 2*g + 1020*k, 4 * k},
		{"RAID10 first pair", disk.BlockGroupRAID10, 4, 3 * k, 2, 1, 1*g + 3*k, 61 * k},
		{"RAID10 second pair", disk.BlockGroupRAID10, 4, 67 * k, 1, 2, 2*g + 3*k, 61 * k},
		{"RAID10 second pair, second copy", disk.BlockGroupRAID10, 4, 67 * k, 2, 3, 3*g + 3*k, 61 * k},
		{"RAID10 second row", disk.BlockGroupRAID10, 4, 131 * k, 1, 0, 67 * k, 61 * k},
		{"RAID5 row 0 starts on device 0", disk.BlockGroupRAID5, 3, 0, 1, 0, 0, 64 * k},
		{"RAID5 row 0, second data", disk.BlockGroupRAID5, 3, 64 * k, 1, 1, 1 * g, 64 * k},
		{"RAID5 row 1 starts on device 1", disk.BlockGroupRAID5, 3, 128 * k, 1, 1, 1*g + 64*k, 64 * k},
		{"RAID5 row 1, second data", disk.BlockGroupRAID5, 3, 200 * k, 1, 2, 2*g + 72*k, 56 * k},
		{"RAID5 row 2 wraps", disk.BlockGroupRAID5, 3, (4*64 + 64) * k, 1, 0, 128 * k, 64 * k},
		{"RAID6 row 0", disk.BlockGroupRAID6, 4, 64 * k, 1, 1, 1 * g, 64 * k},
		{"RAID6 row 1", disk.BlockGroupRAID6, 4, (2*64 + 1) * k, 1, 1, 1*g + 65*k, 63 * k},
		{"RAID6 row 3, second data wraps", disk.BlockGroupRAID6, 4, (6*64 + 64) * k, 1, 0, 192 * k, 64 * k},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := chunkOf(t, c.flags, c.stripes, 1<<20).locate(c.off, c.mirror)
			if want := (segment{c.stripe, c.phys, c.n}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestMirrorCounts(t *testing.T) {
	for _, c := range []struct {
		flags         disk.BlockGroupFlags
		stripes, want int
	}{
		{0, 1, 1}, {disk.BlockGroupDUP, 2, 2}, {disk.BlockGroupRAID0, 5, 1}, {disk.BlockGroupRAID1, 2, 2},
		{disk.BlockGroupRAID1C3, 3, 3}, {disk.BlockGroupRAID1C4, 4, 4}, {disk.BlockGroupRAID10, 6, 2},
		{disk.BlockGroupRAID5, 2, 2}, {disk.BlockGroupRAID5, 7, 2}, {disk.BlockGroupRAID6, 3, 3}, {disk.BlockGroupRAID6, 8, 8},
	} {
		if got := chunkOf(t, c.flags, c.stripes, 1<<20).mirrors(); got != c.want {
			t.Errorf("%v on %d: %d mirrors, want %d", c.flags, c.stripes, got, c.want)
		}
	}
}

// Every mirror comes exactly once; missing members come last and stale ones
// before them.
func TestOrderPrefersGoodMembers(t *testing.T) {
	for _, c := range []struct {
		flags   disk.BlockGroupFlags
		stripes int
		stale   int // stripe, -1 none
		missing int
		first   []int // acceptable first mirrors
		last    int   // 0: any
	}{
		{disk.BlockGroupRAID1C3, 3, -1, -1, []int{1, 2, 3}, 0},
		{disk.BlockGroupRAID1C3, 3, 0, 1, []int{3}, 2},
		{disk.BlockGroupRAID1C3, 3, -1, 2, []int{1, 2}, 3},
		{disk.BlockGroupRAID5, 3, 0, -1, []int{2}, 1},
		{disk.BlockGroupRAID6, 4, -1, 0, []int{2}, 1},
		{disk.BlockGroupRAID6, 4, -1, -1, []int{1}, 0},
	} {
		for off := uint64(0); off < 16<<20; off += 3 << 20 {
			ch := chunkOf(t, c.flags, c.stripes, 32<<20)
			// Put the stripe that holds off where the case wants it.
			for i, d := range ch.devs {
				d.dev = nothing{}
				d.stale = i == c.stale
			}
			if c.missing >= 0 {
				ch.devs[c.missing].dev = nil
			}
			if ch.profile.Parity > 0 && ch.locate(off, 1).stripe != 0 {
				continue
			}
			var got []int
			seen := map[int]bool{}
			o := ch.order(off)
			for m, ok := o.next(); ok; m, ok = o.next() {
				got, seen[m] = append(got, m), true
			}
			if len(got) != ch.mirrors() || len(seen) != len(got) {
				t.Fatalf("%v: order %v of %d mirrors", c.flags, got, ch.mirrors())
			}
			ok := false
			for _, f := range c.first {
				ok = ok || got[0] == f
			}
			if !ok || c.last != 0 && got[len(got)-1] != c.last {
				t.Errorf("%v stale %d missing %d: order %v, want one of %v first and %d last", c.flags, c.stale, c.missing, got, c.first, c.last)
			}
		}
	}
}
