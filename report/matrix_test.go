//go:build linux

package report_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/report"
)

const mib = 1 << 20

// ours is the manifest that we read from the images themselves.
func ours(t *testing.T, o btrfs.Options, images ...string) []manifest.Entry {
	t.Helper()
	ctx := t.Context()
	o.Devices = images[1:]
	f, err := btrfs.Open(ctx, images[0], o)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sub, err := f.TopLevel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	top, err := sub.Root(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var entries []manifest.Entry
	for e, err := range report.Manifest(ctx, top, manifest.All) {
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries
}

// kernels is what a mount of the images shows.
func kernels(t *testing.T, options string, images ...string) []manifest.Entry {
	t.Helper()
	m := oracle.Mount(t, join("noatime,subvolid=5", options), images...)
	defer m.Unmount()
	return oracle.HostManifest(t, m.Dir, oracle.HostOptions{})
}

func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), ",")
}

// image is one way in which Linux can make a filesystem.
type image struct {
	profile  string // of data; metadata has the same where that is allowed
	csum     string
	compress string // "none" or an algorithm
	nodeSize int
	features string // of mkfs
	options  string // of the mount that writes
	quota    bool
}

func (c image) String() string {
	name := fmt.Sprintf("%s-%s-%s-%dk", c.profile, c.csum, c.compress, c.nodeSize>>10)
	for _, extra := range []string{c.features, c.options} {
		if extra != "" {
			name += "-" + extra
		}
	}
	if c.quota {
		name += "-quota"
	}
	return name
}

// devices is how many devices the profile gets: at least one more than its
// stripes need where that matters, and how many of them may be gone.
var devices = map[string]struct{ n, lose int }{
	"single": {1, 0}, "dup": {1, 0}, "raid0": {2, 0}, "raid1": {2, 1}, "raid1c3": {3, 2}, "raid1c4": {4, 3},
	"raid10": {4, 1}, "raid5": {3, 1}, "raid6": {4, 2},
}

var (
	profiles  = []string{"single", "dup", "raid0", "raid1", "raid1c3", "raid1c4", "raid10", "raid5", "raid6"}
	csums     = []string{"crc32c", "xxhash", "sha256", "blake2"}
	compress  = []string{"none", "zlib", "lzo", "zstd"}
	nodeSizes = []int{4096, 16384, 32768, 65536}
	// Made by btrfstune, after mkfs.
	metadataUUID = "metadata-uuid"
	features     = []string{"", "^no-holes", "^free-space-tree", metadataUUID, "^extref", "^skinny-metadata", "mixed-bg"}
)

// pairwise holds every pair of profile × csum, profile × compression,
// profile × node size, csum × compression, csum × node size and
// compression × node size at least once, with the features in rotation.
func pairwise() []image {
	var all []image
	for i, profile := range profiles {
		for j := range csums {
			c := image{profile: profile, csum: csums[j], compress: compress[(i+j)%4], nodeSize: nodeSizes[(i/4*2+i+3*j)%4]}
			all = append(all, withFeature(c, len(all)))
		}
	}
	// What goes together with nothing else, or needs a mount of its own.
	return append(all,
		image{profile: "single", csum: "crc32c", compress: "none", nodeSize: 16384, options: "nodatacow"},
		image{profile: "dup", csum: "xxhash", compress: "none", nodeSize: 16384, options: "nodatasum"},
		image{profile: "single", csum: "crc32c", compress: "zstd", nodeSize: 16384, options: "max_inline=0"},
		image{profile: "single", csum: "crc32c", compress: "zlib", nodeSize: 4096, quota: true},
		image{profile: "raid1", csum: "crc32c", compress: "lzo", nodeSize: 16384, options: "autodefrag"},
	)
}

// withFeature gives the n-th image its feature. Mixed block groups want nodes
// as small as sectors, and cannot have the parity profiles.
func withFeature(c image, n int) image {
	c.features = features[n%len(features)]
	if c.features == "mixed-bg" {
		if strings.HasPrefix(c.profile, "raid5") || strings.HasPrefix(c.profile, "raid6") {
			c.features = ""
		} else {
			c.nodeSize = 4096
		}
	}
	return c
}

// mkfs makes the image's filesystem.
func (c image) mkfs(t *testing.T) []string {
	t.Helper()
	args := []string{"-d", c.profile, "-m", c.profile, "--csum", c.csum, "-n", strconv.Itoa(c.nodeSize)}
	if c.profile == "single" {
		args[3] = "dup"
	}
	switch c.features {
	case "", metadataUUID:
	case "^free-space-tree":
		args = append(args, "-R", c.features)
	case "mixed-bg":
		args[3] = args[1]
		args = append(args, "-O", c.features)
	default:
		args = append(args, "-O", c.features)
	}
	images := oracle.MkfsN(t, devices[c.profile].n, 512*mib, args...)
	if c.features == metadataUUID {
		oracle.Attached(t, images, func(loops []string) { oracle.Run(t, "btrfstune", "-f", "-m", loops[0]) })
	}
	return images
}

func (c image) writeOptions() string {
	o := "noatime"
	if c.compress != "none" {
		o = join(o, "compress-force="+c.compress)
	}
	if c.features == "^free-space-tree" {
		o = join(o, "nospace_cache")
	}
	return join(o, c.options)
}

// Every image that Linux makes reads as Linux reads it: entry for entry, zero
// differences, also when devices are gone.
func TestMatrix(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	all := matrix()
	if testing.Short() { // under the race detector a sample is enough
		all = sample(all, 6)
	}
	for _, c := range all {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			images := c.mkfs(t)
			m := oracle.Mount(t, c.writeOptions(), images...)
			if c.quota {
				oracle.Run(t, "btrfs", "quota", "enable", m.Dir)
			}
			oracle.Populate(t, m.Dir, c.nodeSize)
			m.Unmount()

			want := kernels(t, "ro", images...)
			if len(want) < 400 {
				t.Fatalf("the kernel shows %d entries only", len(want))
			}
			oracle.RequireSame(t, want, ours(t, btrfs.Options{}, images...), manifest.All)
			for _, left := range degraded(images, devices[c.profile].lose) {
				oracle.RequireSame(t, want, ours(t, btrfs.Options{Degraded: true}, left...), manifest.All)
			}
		})
	}
}

// sample is every n-th of the list.
func sample[T any](list []T, n int) []T {
	var out []T
	for i := 0; i < len(list); i += n {
		out = append(out, list[i])
	}
	return out
}

// degraded returns what is left when any lose of the devices are gone.
func degraded(images []string, lose int) [][]string {
	if lose == 0 {
		return nil
	}
	var sets [][]string
	for mask := 1; mask < 1<<len(images); mask++ {
		var left []string
		for i, img := range images {
			if mask&(1<<i) != 0 {
				left = append(left, img)
			}
		}
		if len(left) == len(images)-lose {
			sets = append(sets, left)
		}
	}
	return sets
}

// The default subvolume is what a mount without options shows.
func TestDefaultSubvolume(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Mounting...)
	img := oracle.Mkfs(t, 256*mib)
	m := oracle.Mount(t, "", img)
	oracle.Run(t, "btrfs", "subvolume", "create", m.Dir+"/sub")
	if err := os.WriteFile(filepath.Join(m.Dir, "sub/file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "btrfs", "subvolume", "set-default", m.Dir+"/sub")
	m.Unmount()

	ctx := context.Background()
	f, err := btrfs.Open(ctx, img, btrfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sub, err := f.Default(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Open(ctx, "file"); err != nil || sub.ID() != 256 {
		t.Errorf("default subvolume is %d, its file: %v", sub.ID(), err)
	}
}
