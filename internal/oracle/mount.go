package oracle

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Mounted is a btrfs that the running kernel has mounted. Its methods are for
// the test's goroutine.
type Mounted struct {
	Dir   string   // where
	FSID  string   // of the first image, before mounting
	Loops []string // one device an image, in their order

	t     testing.TB
	log   *logWatch
	allow []allowance
	done  bool
}

type allowance struct {
	line *regexp.Regexp
	why  string
}

// Mount lets the kernel mount the images (all members of one filesystem) with
// the given -o options ("" = none). When it is unmounted, by Unmount or at the
// test's end, any warning or error that the kernel logged about it fails the
// test, and devices are detached.
func Mount(t testing.TB, options string, images ...string) *Mounted {
	t.Helper()
	Need(t, Mounting...)
	readOnly := false
	degraded := false
	for o := range strings.SplitSeq(options, ",") {
		readOnly = readOnly || o == "ro"
		degraded = degraded || o == "degraded"
	}
	m := &Mounted{t: t, FSID: FSID(t, images[0]), Dir: t.TempDir()}
	m.AllowLog(`device \S+ maj:min changed from 0:0`, "said of every device that was added while mounted, when it is next seen")
	if degraded {
		m.AllowLog(`devid \d+ uuid \S+ is missing`, "the set was mounted degraded on purpose")
	}
	// A read-only mount of an unclean filesystem still replays its log, so the
	// loop device stays writable unless the log is to be left alone.
	m.Loops = attach(t, readOnly && strings.Contains(options, "nologreplay"), images)
	m.log = watchLog(t)  // not before: a loop device may have been another test's
	t.Cleanup(m.Unmount) // before mounting: detaches also when that fails
	all := []string{}
	if options != "" {
		all = append(all, options)
	}
	for _, l := range m.Loops[1:] {
		all = append(all, "device="+l)
	}
	args := []string{"-t", "btrfs"}
	if len(all) > 0 {
		args = append(args, "-o", strings.Join(all, ","))
	}
	Run(t, "mount", append(args, m.Loops[0], m.Dir)...)
	return m
}

// AllowLog lets kernel log lines that match the expression pass; why says the
// reason to the reader.
func (m *Mounted) AllowLog(expr, why string) {
	m.allow = append(m.allow, allowance{regexp.MustCompile(expr), why})
}

// Sync flushes the filesystem: a full commit.
func (m *Mounted) Sync() {
	m.t.Helper()
	Run(m.t, "btrfs", "filesystem", "sync", m.Dir)
}

// Unmount unmounts, reads the kernel's log and detaches the devices. A second
// call does nothing.
func (m *Mounted) Unmount() {
	m.t.Helper()
	if m.done {
		return
	}
	m.done = true
	if isMountPoint(m.t, m.Dir) {
		if out, err := retry(func() (string, error) { return run("umount", m.Dir) }); err != nil {
			m.t.Errorf("umount %s: %v\n%s", m.Dir, err, out)
			if out, err := run("umount", "--lazy", m.Dir); err != nil {
				m.t.Errorf("umount --lazy %s: %v\n%s", m.Dir, err, out)
			}
		}
	}
	for _, line := range m.log.complaints(m.FSID, m.Loops) {
		if !m.allowed(line) {
			m.t.Errorf("kernel log: %s", line)
		}
	}
	detach(m.t, m.Loops)
}

func (m *Mounted) allowed(line string) bool {
	for _, a := range m.allow {
		if a.line.MatchString(line) {
			m.t.Logf("kernel log, allowed (%s): %s", a.why, line)
			return true
		}
	}
	return false
}

func isMountPoint(t testing.TB, dir string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Error(err)
		return false
	}
	return strings.Contains(string(b), " "+dir+" ")
}

// Scrub lets the kernel verify every copy of everything on a mounted filesystem
// and fails the test on any error that it finds.
func Scrub(t testing.TB, dir string) {
	t.Helper()
	out := Run(t, "btrfs", "scrub", "start", "-B", "-d", dir)
	if !strings.Contains(out, "no errors found") || strings.Contains(out, "csum=") {
		t.Errorf("scrub of %s:\n%s", dir, out)
	}
}

// attachTries bounds the race for a free loop device: between asking for one
// and taking it, another test may have it, or the last user lets go of it late: on
// a busy machine seconds later.
const attachTries = 200

func retry(f func() (string, error)) (out string, err error) {
	for range attachTries {
		if out, err = f(); err == nil {
			return out, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return out, err
}

// attach gives each image a loop device. On failure none stays attached.
func attach(t testing.TB, readOnly bool, images []string) []string {
	t.Helper()
	Need(t, Root, Loop)
	if _, err := exec.LookPath("losetup"); err != nil {
		t.Fatal(err)
	}
	var loops []string
	for _, img := range images {
		args := []string{"--find", "--show"}
		if readOnly {
			args = append(args, "--read-only")
		}
		out, err := retry(func() (string, error) { return run("losetup", append(args, img)...) })
		if err != nil {
			detach(t, loops)
			t.Fatalf("losetup %s: %v\n%s", img, err, out)
		}
		loops = append(loops, strings.TrimSpace(out))
	}
	return loops
}

// Attached lets f work on the images as loop devices, for tools that find the
// members of a filesystem among the block devices only.
func Attached(t testing.TB, images []string, f func(loops []string)) {
	t.Helper()
	loops := attach(t, false, images)
	defer detach(t, loops)
	f(loops)
}

// detach lets the kernel forget the devices as members of a filesystem, which
// it would otherwise remember by path, and frees them.
//
// After umount a filesystem can stay open a little: whoever looked a path up
// through the mount at that moment, such as a find in another test, drops the last
// reference and closes it, in its own time. A loop device is then detached later
// too, and meanwhile its image cannot be mounted from another one ("duplicate
// device", EEXIST). So detach waits until the kernel agrees to forget.
func detach(t testing.TB, loops []string) {
	t.Helper()
	for _, l := range loops {
		out, err := retry(func() (string, error) {
			out, err := run("btrfs", "device", "scan", "--forget", l)
			if err != nil && !strings.Contains(out, "busy") {
				return "", nil // never scanned
			}
			return out, err
		})
		if err != nil {
			t.Error(fmt.Errorf("forget %s: %w: %s", l, err, out))
		}
		if out, err := retry(func() (string, error) { return run("losetup", "--detach", l) }); err != nil {
			t.Error(fmt.Errorf("losetup --detach %s: %w: %s", l, err, out))
		}
	}
}
