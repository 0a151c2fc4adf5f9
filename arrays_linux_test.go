package btrfs_test

import (
	"flag"
	"slices"
	"strings"
	"testing"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/mkfs"
)

var (
	arraySeed   = flag.Uint64("array.seed", 1, "seed of the edits of filesystems on several devices")
	arrayRounds = flag.Int("array.rounds", 2, "rounds of edits of each")
	arrayMkfs   = flag.String("array.mkfs", "", "`DEVICES ARGS…` of mkfs.btrfs; default: varies with the seed")
)

// arrays are the filesystems that the seed chooses from, see profilesOn for what
// is not among them.
var arrays = []string{
	"3 -d raid5 -m raid5", "4 -d raid6 -m raid6", "4 -d raid10 -m raid10", "3 -d raid0 -m raid0",
	"3 -d raid5 -m raid1", "4 -d raid6 -m raid1c3", "2 -d raid1 -m raid1", "5 -d raid5 -m raid6",
	"4 -d raid10 -m raid1c4", "3 -d raid5 -m raid5 -n 4096", "4 -d raid6 -m raid6 -n 65536", "3 -d raid5 -m raid1 -R ^free-space-tree",
	"4 -d raid5 -m raid1c3", "4 -d raid1c4 -m raid1c4 -O ^no-holes", "3 -d raid1c3 -m raid5", "4 -d single -m raid10",
	"3 -M -d raid1c3 -m raid1c3", "2 -M -d raid1 -m raid1", "4 -M -d raid10 -m raid10", "4 -d raid6 -m raid5",
}

// newArray is the variant of a specification: the number of devices and the
// arguments of mkfs.btrfs.
func newArray(spec string) *variant {
	words := strings.Fields(spec)
	v := mkfsVariant(words[1:])
	v.devices = int(words[0][0] - '0')
	v.holes = strings.Contains(spec, "^no-holes")
	return v
}

// TestArraysBesideKernel is TestEditsBesideKernel on chosen filesystems of several
// devices, in all profiles.
func TestArraysBesideKernel(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	spec := *arrayMkfs
	if spec == "" {
		spec = arrays[*arraySeed%uint64(len(arrays))]
	}
	t.Logf("-array.seed=%d: mkfs.btrfs %s", *arraySeed, spec)
	editBeside(t, *arraySeed, *arrayRounds, newArray(spec))
}

// withoutDevices compares what can be read without as many devices as the
// profiles tolerate with the whole.
func withoutDevices(t *testing.T, v *variant, images []string) {
	t.Helper()
	whole := imageManifest(t, images[0], v.options(images, false))
	spare := tolerated(t, v, images)
	for gone := 0; spare > 0 && gone < len(images); gone++ {
		rest := slices.Clone(images)
		for range spare {
			at := gone % len(rest)
			rest = slices.Delete(rest, at, at+1)
		}
		oracle.RequireSame(t, whole, imageManifest(t, rest[0], degradedOptions(v, rest, false)), manifest.All)
	}
}

// tolerated is the number of devices that a filesystem does without.
func tolerated(t *testing.T, v *variant, images []string) int {
	t.Helper()
	f, err := btrfs.Open(t.Context(), images[0], v.options(images, false))
	must(t, err)
	defer f.Close()
	n := len(images) - 1
	for _, c := range f.Store().Volume().Chunks() {
		n = min(n, disk.ProfileOf(c.Type).Tolerated)
	}
	return n
}

func degradedOptions(v *variant, images []string, writable bool) btrfs.Options {
	o := v.options(images, writable)
	o.Degraded = true
	return o
}

// Where parity stands for a missing member nothing is written in place, not
// even what was preallocated: the space comes from a new group.
func TestDegradedParityIsNotWrittenInPlace(t *testing.T) {
	v := &variant{devices: 4, own: mkfs.Options{Data: "raid5", Metadata: "raid5"}}
	images := v.make(t, 1<<30)
	f, e := openWith(t, images[0], v.options(images, true))
	must(t, e.Create(t.Context(), "/f", btrfs.Attr{Perm: 0o600}))
	must(t, e.Allocate(t.Context(), "/f", 0, 1<<20, false))
	must(t, f.Sync(t.Context()))
	before := f.SpaceGroups()
	must(t, f.Close())
	f, e = openWith(t, images[0], degradedOptions(v, images[:3], true))
	_, err := e.WriteAt(t.Context(), "/f", oracle.Noise(1, 1<<20), 0)
	must(t, err)
	must(t, f.Sync(t.Context()))
	used := uint64(0)
	for _, g := range f.SpaceGroups() {
		old := slices.ContainsFunc(before, func(o btrfs.GroupUsage) bool { return o.Start == g.Start })
		if !old && g.Type&disk.BlockGroupData != 0 {
			used += g.Used
		}
	}
	if used != 1<<20 {
		t.Errorf("new groups hold %d bytes of data, want %d", used, 1<<20)
	}
	must(t, f.Close())
}
