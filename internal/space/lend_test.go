package space

import (
	"context"
	"testing"

	"gobtrfs/disk"
)

// What is lent is given to nobody, what is promised is not lent, and what comes
// back is as it was.
func TestLend(t *testing.T) {
	ctx := context.Background()
	s := newSim(t, simConfig{devs: []Bytes{2 * GiB}, dataSize: GiB})
	g := s.Group(s.write(s.Data(), 64*MiB)[0].Start)
	free, err := g.FreeRanges(ctx)
	s.must(err)
	if len(free) != 1 || free[0].Length > GiB-64*MiB || free[0].Length < GiB-65*MiB { // a copy of the superblock
		t.Fatalf("free: %v", free)
	}
	whole := free[0]
	if ok, err := s.Lend(ctx, Range{whole.Start, 512 * MiB}); !ok || err != nil {
		t.Fatalf("not lent: %v", err)
	}
	s.verify()
	if ok, err := s.Lend(ctx, whole); ok || err != nil {
		t.Errorf("lent twice: %v", err)
	}
	for _, r := range s.write(s.Data(), 256*MiB) {
		if r.overlaps(Range{whole.Start, 512 * MiB}) {
			t.Errorf("%v was given out while it was lent", r)
		}
	}
	s.must(s.ReturnExtent(Range{whole.Start, 512 * MiB}))
	s.verify()
	n := Bytes(0)
	for s.Data().Reserve(ctx, 16*MiB, ClassNoWait) == nil {
		n += 16 * MiB
	}
	if ok, err := s.Lend(ctx, Range{whole.Start, 32 * MiB}); ok || err != nil {
		t.Errorf("lent although it is promised: %v", err)
	}
	s.Data().Release(n)
	if ok, err := s.Lend(ctx, Range{whole.Start, 32 * MiB}); !ok || err != nil {
		t.Errorf("not lent: %v", err)
	}
	s.must(s.ReturnExtent(Range{whole.Start, 32 * MiB}))
	s.must(g.SetReadOnly())
	if ranges, err := g.FreeRanges(ctx); len(ranges) > 0 || err != nil {
		t.Errorf("a group that is read-only has %v to lend, %v", ranges, err)
	}
	if ok, err := s.Lend(ctx, Range{whole.Start, 32 * MiB}); ok || err != nil {
		t.Errorf("lent from a group that is read-only: %v", err)
	}
	g.ClearReadOnly()
}

// Holes are all that no chunk owns, but for copies of the superblock; a device
// that is not written has none; and no chunk is made in one that is looked at.
func TestEachHole(t *testing.T) {
	s := newSim(t, simConfig{devs: []Bytes{3 * GiB, 3 * GiB, GiB}, dataSize: 512 * MiB})
	s.must(s.ChangeDevice(DeviceSpec{ID: 3, Size: GiB, ReadOnly: true}))
	left := Bytes(0)
	for _, d := range s.Snapshot().Devices[:2] {
		left += d.Unallocated
	}
	total, grown := Bytes(0), make(chan error, 1)
	err := s.EachHole(context.Background(), func(d DeviceSpec, off Physical, n Bytes) error {
		if d.ID == 3 || n <= 0 || n > maxHole || off < Physical(deviceStart) || Bytes(off)+n > d.Size {
			t.Errorf("device %d: %d bytes at %d", d.ID, n, off)
		}
		for _, super := range superOffsets {
			if off < super+Physical(superLen) && super < off+Physical(n) {
				t.Errorf("device %d: %d bytes at %d cover a superblock", d.ID, n, off)
			}
		}
		if total += n; total == n {
			go func() { grown <- s.Data().Reserve(context.Background(), 600*MiB, ClassNormal) }()
			for s.Data().Usage().Waiting == 0 {
				select {
				case err := <-grown:
					t.Errorf("a chunk was made meanwhile: %v", err)
					return nil
				default:
				}
			}
			if n := s.chunks(disk.BlockGroupData); n != 0 {
				t.Errorf("%d chunks were made meanwhile", n)
			}
		}
		return nil
	})
	s.must(err)
	s.must(<-grown)
	s.Data().Release(600 * MiB)
	// What the chunk that was made in between took may be missing.
	if total > left || total < left-GiB-4*superLen {
		t.Errorf("%v of holes, %v were unallocated", total, left)
	}
}
