package fusefs

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"gobtrfs/disk"
)

const gib = 1 << 30

func TestWhatChunksOfAProfileCanHold(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		profile string
		holes   []uint64
		want    uint64
	}{
		{"single", nil, 0},
		{"single", []uint64{10 * gib}, 10 * gib},
		{"single", []uint64{10 * gib, 3 * gib}, 13 * gib},
		{"single", []uint64{60 << 10}, 0}, // less than a stripe
		{"dup", []uint64{10 * gib}, 5 * gib},
		{"raid1", []uint64{10 * gib}, 0},
		{"raid1", []uint64{10 * gib, 3 * gib}, 3 * gib},
		{"raid1", []uint64{10 * gib, 10 * gib, 10 * gib}, 15 * gib},
		{"raid1", []uint64{20 * gib, 10 * gib, 10 * gib}, 20 * gib},
		{"raid1c3", []uint64{10 * gib, 10 * gib, 10 * gib}, 10 * gib},
		{"raid0", []uint64{10 * gib, 4 * gib}, 14 * gib}, // one device is enough for a stripe
		{"raid10", []uint64{4 * gib, 4 * gib, 4 * gib, 4 * gib}, 8 * gib},
		{"raid5", []uint64{4 * gib, 4 * gib, 4 * gib}, 8 * gib},
		{"raid6", []uint64{4 * gib, 4 * gib, 4 * gib, 4 * gib}, 8 * gib},
	} {
		p, ok := disk.ParseProfile(tc.profile)
		if !ok {
			t.Fatalf("no profile %s", tc.profile)
		}
		got := allocatable(p, tc.holes)
		if diff := max(got, tc.want) - min(got, tc.want); diff > 1<<20 {
			t.Errorf("%s of %d: %d bytes, want %d", tc.profile, tc.holes, got, tc.want)
		}
	}
}

func TestNeverMoreFitsThanThereIs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.IntRange(0, len(disk.Profiles)-1).Draw(t, "profile")
		p := &disk.Profiles[i]
		holes := rapid.SliceOfN(rapid.Uint64Range(0, 50*gib), 0, 8).Draw(t, "holes")
		given := slices.Clone(holes)
		var sum uint64
		for _, h := range holes {
			sum += h
		}
		got := allocatable(p, holes)
		if got*uint64(p.Copies) > sum {
			t.Fatalf("%s of %d: %d bytes in %d", p.Name, holes, got, sum)
		}
		if !slices.Equal(given, holes) {
			t.Fatal("the argument was changed")
		}
	})
}
