// Package oracle lets tests ask outside judges: mkfs.btrfs, btrfs check, the
// running kernel through loop mounts, and its log.
//
// A judge that is absent (no root, no btrfs-progs, no Linux) skips the test with
// a printed reason; with CI=true in the environment it fails the test, so that
// in CI nothing skips. Whatever a function attaches or mounts it takes away
// again in t.Cleanup, failed tests included.
//
// The kernel must never mount an image that was damaged on purpose: Check is the
// judge for those.
package oracle

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Capability is something that a test needs from the machine.
type Capability int

// What Need can ask for.
const (
	Root   Capability = iota // effective user id 0
	Progs                    // mkfs.btrfs and btrfs
	Loop                     // loop devices, for mounts and for Check of several devices
	Kernel                   // btrfs in the running kernel
	KMsg                     // a readable kernel log
)

// Mounting is everything that Mount needs.
var Mounting = []Capability{Root, Progs, Loop, Kernel, KMsg}

// commandTimeout ends an outside program that hangs.
const commandTimeout = 5 * time.Minute

// Need skips the test unless the machine has everything asked for, and fails it
// instead when CI=true.
func Need(t testing.TB, caps ...Capability) {
	t.Helper()
	for _, c := range caps {
		if why := lack(c); why != "" {
			if os.Getenv("CI") == "true" {
				t.Fatalf("CI must have every judge: %s", why)
			}
			t.Skip(why)
		}
	}
}

// lack says what is missing, "" when nothing is.
func lack(c Capability) string {
	switch c {
	case Root:
		if os.Geteuid() != 0 {
			return "needs root"
		}
	case Progs:
		for _, p := range []string{"mkfs.btrfs", "btrfs"} {
			if _, err := exec.LookPath(p); err != nil {
				return "needs btrfs-progs: " + err.Error()
			}
		}
	case Loop:
		if _, err := os.Stat("/dev/loop-control"); err != nil {
			return "needs loop devices: " + err.Error()
		}
	case Kernel:
		b, err := os.ReadFile("/proc/filesystems")
		if err != nil || !bytes.Contains(b, []byte("\tbtrfs\n")) {
			return "needs a kernel with btrfs (on " + runtime.GOOS + ")"
		}
	case KMsg:
		f, err := os.Open("/dev/kmsg")
		if err != nil {
			return "needs the kernel log: " + err.Error()
		}
		f.Close()
	}
	return ""
}

// Dir returns a directory for images that is removed after the test: in memory
// where the machine offers that, else on disk.
func Dir(t testing.TB) string {
	t.Helper()
	if st, err := os.Stat("/dev/shm"); err != nil || !st.IsDir() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "gobtrfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Sparse makes n empty image files of size bytes each, in one fresh directory.
func Sparse(t testing.TB, n int, size int64) []string {
	t.Helper()
	dir := Dir(t)
	paths := make([]string, n)
	for i := range paths {
		paths[i] = filepath.Join(dir, fmt.Sprintf("dev%d.img", i+1))
		f, err := os.Create(paths[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

// Mkfs makes a sparse image of size bytes and runs mkfs.btrfs with args on it.
func Mkfs(t testing.TB, size int64, args ...string) string {
	t.Helper()
	return MkfsN(t, 1, size, args...)[0]
}

// MkfsN makes a filesystem of n devices of size bytes each.
func MkfsN(t testing.TB, n int, size int64, args ...string) []string {
	t.Helper()
	Need(t, Progs)
	images := Sparse(t, n, size)
	Run(t, "mkfs.btrfs", append(append([]string{"-q"}, args...), images...)...)
	return images
}

// Run runs an outside program, fails the test unless it exits 0, and returns
// what it printed to both streams.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := run(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func run(name string, args ...string) (string, error) {
	// Not the test's context: that ends before the cleanups run.
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// FSID returns the fsid that an image or block device says it has, as the
// kernel log prints it.
func FSID(t testing.TB, image string) string {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [16]byte
	if _, err := f.ReadAt(b[:], 65536+32); err != nil {
		t.Fatalf("read fsid of %s: %v", image, err)
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// CheckOptions choose what btrfs check looks at. The zero value runs both modes.
type CheckOptions struct {
	Data      bool // also verify data checksums; Default: false
	NoLowmem  bool // leave the low-memory mode out; Default: false
	NoRegular bool // leave the original mode out; Default: false
}

// Check lets btrfs check look at a filesystem in both of its modes and fails
// the test on any complaint. Name all members of a filesystem of several
// devices; those are attached to loop devices meanwhile (needs Root and Loop).
func Check(t testing.TB, images ...string) {
	t.Helper()
	CheckWith(t, CheckOptions{}, images...)
}

// CheckWith is Check with options.
func CheckWith(t testing.TB, o CheckOptions, images ...string) {
	t.Helper()
	for _, complaint := range Complaints(t, o, images...) {
		t.Errorf("btrfs check of %s: %s", filepath.Base(images[0]), complaint)
	}
}

// Complaints returns what btrfs check has to say against a filesystem; nothing
// when it is clean. Tests of damaged images use it directly.
func Complaints(t testing.TB, o CheckOptions, images ...string) []string {
	t.Helper()
	Need(t, Progs)
	target := images[0]
	var loops []string
	if len(images) > 1 {
		loops = attach(t, true, images)
		defer detach(t, loops)
		target = loops[0]
	}
	var modes []string
	if !o.NoRegular {
		modes = append(modes, "original")
	}
	if !o.NoLowmem {
		modes = append(modes, "lowmem")
	}
	var found []string
	for _, mode := range modes {
		args := []string{"check", "--readonly", "--mode=" + mode}
		if o.Data {
			args = append(args, "--check-data-csum")
		}
		out, err := run("btrfs", append(args, target)...)
		for tries := 1; tries < 5 && strings.Contains(out, deviceVanished); tries++ {
			out, err = run("btrfs", append(args, target)...)
		}
		for line := range strings.Lines(out) {
			line = strings.TrimRight(line, "\n")
			if !harmlessCheckLine.MatchString(line) && !aboutOthers(line, loops) {
				found = append(found, mode+": "+line)
			}
		}
		if err != nil {
			found = append(found, fmt.Sprintf("%s: %v", mode, err))
		} else if !strings.Contains(out, "no error found") {
			found = append(found, mode+": did not say that no error was found")
		}
	}
	return found
}

// deviceVanished is how btrfs check ends when a block device that it looks at for
// mounted filesystems, any of the machine's, is taken away meanwhile.
const deviceVanished = "could not check mount status: No such device or address"

var (
	ofDevices  = regexp.MustCompile(`^(WARNING: adding device .* but found an existing device|ERROR: cannot scan .*: File exists$|ERROR: cannot open .*: No such device or address$)`)
	loopDevice = regexp.MustCompile(`/dev/loop[0-9]+`)
)

// aboutOthers says whether a line tells only of two copies of an image that another
// test has attached, or of one that it takes away: btrfs check looks at every block device for further members.
func aboutOthers(line string, ours []string) bool {
	names := loopDevice.FindAllString(line, -1)
	return ofDevices.MatchString(line) && len(names) > 0 &&
		!slices.ContainsFunc(names, func(n string) bool { return slices.Contains(ours, n) })
}

// harmlessCheckLine is everything that btrfs check 6.x prints about a clean
// filesystem. Any other line counts as a complaint: new wording fails loudly.
var harmlessCheckLine = regexp.MustCompile(`^(` + strings.Join([]string{
	`Opening filesystem to check\.\.\.`,
	`Checking filesystem on .*`,
	`UUID: [0-9a-f-]+`,
	`\[[0-9]/[0-9]\] checking .*`,
	`\[[0-9]/[0-9]\] checking .* skipped.*`,
	`found [0-9]+ bytes used, no error found`,
	`total [a-z ]+: [0-9]+`,
	`btree space waste bytes: [0-9]+`,
	`file data blocks allocated: [0-9]+`,
	` referenced [0-9]+`,
	// The v1 cache is rebuilt when its generation is old: legal, and kernels leave it so.
	`cache and super generation don't match, space cache will be invalidated`,
	`Counts for qgroup id: .* are .*`,
	// It looks at every block device for further members and may meet a loop
	// device that another test is taking away. A member of ours that it could
	// not read would be reported missing.
	`ERROR: cannot scan /dev/loop[0-9]+: Input/output error`,
	``,
}, "|") + `)$`)

// CopyUnclean copies an image's backing file while it is mounted: what a crash
// at this moment would leave. Call it after an fsync, on a mount with
// commit=300, so that no commit runs meanwhile.
func CopyUnclean(t testing.TB, image string) string {
	t.Helper()
	return Copy(t, image)
}

// Copy copies an image to a fresh directory, holes kept.
func Copy(t testing.TB, image string) string {
	t.Helper()
	dst := filepath.Join(Dir(t), filepath.Base(image))
	Run(t, "cp", "--sparse=always", image, dst)
	return dst
}
