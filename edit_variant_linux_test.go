package btrfs_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/mkfs"
)

// variant is a filesystem to make edits on, and how it is mounted.
type variant struct {
	args    []string // of mkfs.btrfs; nil: made by package mkfs
	own     mkfs.Options
	devices int
	mount   string // further options for the kernel
	open    btrfs.Options
	holes   bool   // the filesystem keeps holes as items
	flags   bool   // flags of files are the same on both sides
	simple  bool   // it has simple quotas
	seeds   bool   // all devices but the first are seeds
	allow   string // what the kernel's log and btrfs check may say of it; "": nothing
	// degraded: ours has fewer devices than it should.
	degraded bool
}

func (v *variant) String() string {
	if v.args != nil {
		return fmt.Sprintf("mkfs.btrfs %s on %d devices, mount -o %q", strings.Join(v.args, " "), v.devices, v.mount)
	}
	o := &v.own
	return fmt.Sprintf("package mkfs %v %d %s %s %v on %d devices, mount -o %q", o.Csum, o.NodeSize, o.Data, o.Metadata, o.Features, v.devices, v.mount)
}

// pick chooses one of several.
func pick[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }

// profilesOn lists profiles for n devices, 2 to 4. RAID5 on two, RAID6 on three
// and either with mixed groups are left out: btrfs check 6.2 compares what it
// has not read with the checksums of the second mirror, and finds others each time.
func profilesOn(n int) []string {
	all := []string{"single", "raid0", "raid1", "raid1c3", "raid5", "raid1c4", "raid10", "raid6"}
	return all[:[]int{3, 5, len(all)}[n-2]]
}

// newVariant composes a variant at random.
func newVariant(rnd *rand.Rand) *variant {
	v := &variant{devices: 1, flags: true}
	node := pick(rnd, 4096, 8192, 16384, 16384, 32768, 65536)
	sums := pick(rnd, "crc32c", "crc32c", "xxhash", "sha256", "blake2")
	data, metadata := "single", pick(rnd, "single", "dup")
	switch rnd.IntN(5) {
	case 0, 1:
		v.devices = 2 + rnd.IntN(3)
		data, metadata = pick(rnd, profilesOn(v.devices)...), pick(rnd, profilesOn(v.devices)[1:]...)
	case 2:
		data = "dup"
	}
	var features []string
	mixed := data != "raid5" && data != "raid6" && rnd.IntN(8) == 0
	if mixed {
		node, metadata = 4096, data
	}
	if v.holes = rnd.IntN(5) == 0; v.holes {
		features = append(features, "^no-holes")
	}
	noTree := rnd.IntN(4) == 0
	if rnd.IntN(2) == 0 {
		if noTree {
			features = append(features, "^block-group-tree", "^free-space-tree")
		} else if rnd.IntN(3) == 0 {
			features = append(features, "^block-group-tree")
		}
		if mixed {
			features = append(features, "mixed-bg")
		}
		v.own = mkfs.Options{NodeSize: node, Data: data, Metadata: metadata, Features: features}
		v.own.Csum = map[string]disk.CsumType{
			"crc32c": disk.CsumCRC32C, "xxhash": disk.CsumXXHash, "sha256": disk.CsumSHA256, "blake2": disk.CsumBLAKE2b,
		}[sums]
	} else {
		for _, f := range []string{"^skinny-metadata", "^extref"} {
			if rnd.IntN(6) == 0 {
				features = append(features, f)
			}
		}
		v.args = []string{"-n", fmt.Sprint(node), "--csum", sums, "-d", data, "-m", metadata}
		if mixed {
			v.args = append(v.args, "-M")
		}
		if len(features) > 0 {
			v.args = append(v.args, "-O", strings.Join(features, ","))
		}
		if noTree {
			v.args = append(v.args, "-R", "^free-space-tree")
		}
	}
	switch rnd.IntN(10) {
	case 0, 1:
		c := pick(rnd, "zlib", "lzo", "zstd:1", "zstd:3")
		v.open.Compress, v.mount = c, "compress="+c
	case 2:
		v.open.Compress, v.open.CompressForce, v.mount = "zstd:1", true, "compress-force=zstd:1"
	case 3:
		v.open.NoDataCow, v.mount = true, "nodatacow"
	case 4:
		v.open.NoDataSum, v.mount = true, "nodatasum"
	case 5:
		v.open.Compress, v.open.CompressForce, v.open.DirtyBytes, v.mount = "lzo", true, 1<<20, "compress-force=lzo"
	}
	// Where files are to be compressed, what does not pay is marked, and which
	// stretches are tried together is each side's own affair.
	v.flags = v.open.Compress == ""
	v.open.Discard = rnd.IntN(4) == 0
	return v
}

// make makes a filesystem of size bytes a device.
func (v *variant) make(t *testing.T, size int64) []string {
	t.Helper()
	if v.args != nil {
		return oracle.MkfsN(t, v.devices, size, v.args...)
	}
	images := oracle.Sparse(t, v.devices, size)
	_, err := mkfs.MakeFiles(t.Context(), images, 0, v.own)
	must(t, err)
	return images
}

func (v *variant) options(images []string, writable bool) btrfs.Options {
	o := btrfs.Options{}
	if writable {
		o = v.open
	}
	o.Writable, o.Devices, o.Degraded = writable, images[1:], v.degraded
	return o
}

// mounted mounts the top level.
func (v *variant) mounted(t *testing.T, images []string, options ...string) *oracle.Mounted {
	t.Helper()
	if v.degraded {
		options = append(options, "degraded")
	}
	m := oracle.Mount(t, strings.Join(append(options, "subvolid=5"), ","), images...)
	m.AllowLog(`deleting default subvolume \d+ is not allowed`, "an Editor says so, too")
	m.AllowLog("space cache v1 is being deprecated", "filesystems without a free-space tree are still around")
	if v.allow != "" {
		m.AllowLog(v.allow, "that is what the filesystem is")
	}
	return m
}

// judge lets our check, btrfs check and the kernel, reading and writing, look
// at a filesystem, and compares what the kernel shows with what we show.
func (v *variant) judge(t *testing.T, images []string) {
	t.Helper()
	v.check(t, images)
	ours := imageManifest(t, images[0], v.options(images, false))
	for _, mode := range []string{"ro", "rw"} {
		m := v.mounted(t, images, mode)
		oracle.RequireSame(t, oracle.HostManifest(t, m.Dir, oracle.HostOptions{}), ours, manifest.All)
		switch {
		case mode == "ro" || v.degraded: // a scrub wants every device
		case v.seeds:
			oracle.Scrub(t, m.Loops[0])
		default:
			oracle.Scrub(t, m.Dir)
		}
		m.Unmount()
	}
	v.check(t, images)
}

// check lets our check and both modes of btrfs check judge. Where a mode is known
// to find errors that are none, see falseAlarms, it may say so, naming nothing.
func (v *variant) check(t *testing.T, images []string) {
	t.Helper()
	var devs []blockdev.Device
	for _, image := range images {
		d, err := blockdev.OpenFile(image, blockdev.FileOptions{ReadOnly: true})
		must(t, err)
		defer d.Close()
		devs = append(devs, d)
	}
	if bad := checkErrors(t, devs, check.Options{VerifyData: true, Degraded: v.degraded}); bad != nil {
		t.Errorf("our check: %v", bad)
	}
	if v.degraded && v.parity() {
		return // btrfs check does not read what two missing devices of RAID6 held
	}
	if !v.known(t) {
		return
	}
	original, lowmem := falseAlarms(t, images[0], v.options(images, false))
	for _, c := range []struct {
		oracle.CheckOptions
		known bool
	}{{oracle.CheckOptions{Data: true, NoLowmem: true}, original}, {oracle.CheckOptions{Data: true, NoRegular: true}, lowmem}} {
		if (v.holes || v.simple) && c.NoRegular { // the low-memory mode knows no owners of extents
			continue
		}
		said := slices.DeleteFunc(oracle.Complaints(t, c.CheckOptions, images...), func(line string) bool {
			return v.degraded && missingDevice.MatchString(line) || v.allow != "" && regexp.MustCompile(v.allow).MatchString(line)
		})
		if v.parity() {
			said = notReconstructed(said)
		}
		if len(said) > 0 && !(c.known && unnamed(said)) {
			t.Errorf("btrfs check: %s", strings.Join(said, "\n"))
		}
	}
}

// known says whether the btrfs-progs here know all features: 6.2 knows no simple
// quotas.
func (v *variant) known(t *testing.T) bool {
	return !v.simple || !strings.HasPrefix(oracle.Run(t, "btrfs", "--version"), "btrfs-progs v6.2")
}

// missingDevice is what btrfs check says of a device that is not there.
var missingDevice = regexp.MustCompile(`^(original|lowmem): warning, device \d+ is missing$`)

// fields is what must be equal on both sides. Times and inode numbers are not:
// each side has its own clock, and Linux does not use numbers again that it
// gave out since the mount.
func (v *variant) fields() manifest.Fields {
	f := manifest.All &^ (manifest.Ino | manifest.Mtime | manifest.Ctime | manifest.Btime | manifest.Subvol)
	if !v.flags {
		f &^= manifest.Flags
	}
	return f
}

// mkfsVariant is a variant made by mkfs.btrfs with the given arguments.
func mkfsVariant(args []string) *variant {
	return &variant{args: args, devices: 1, holes: slices.Contains(args, "^no-holes"), flags: true}
}
