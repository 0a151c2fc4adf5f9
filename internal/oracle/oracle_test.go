//go:build linux

package oracle

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gobtrfs/internal/manifest"
)

const mib = 1 << 20

func TestCheckFindsDamageAndPassesACleanFilesystem(t *testing.T) {
	t.Parallel()
	img := Mkfs(t, 128*mib)
	CheckWith(t, CheckOptions{Data: true}, img)

	f, err := os.OpenFile(img, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), 65536+80); err != nil { // the superblock's root pointer
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if len(Complaints(t, CheckOptions{}, img)) == 0 {
		t.Error("a damaged superblock was called clean")
	}
}

func TestMountedTreeIsListedAsItIs(t *testing.T) {
	t.Parallel()
	Need(t, Mounting...)
	img := Mkfs(t, 256*mib)
	m := Mount(t, "noatime", img)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(m.Dir, "100%"), []byte("x"), 0o640))
	must(os.Chmod(filepath.Join(m.Dir, "100%"), 0o640))
	must(unix.Lsetxattr(filepath.Join(m.Dir, "100%"), "user.k", []byte("v"), 0))
	must(os.Symlink("to/nowhere", filepath.Join(m.Dir, "link")))
	must(unix.Mknod(filepath.Join(m.Dir, "dev"), unix.S_IFCHR|0o600, int(unix.Mkdev(10, 300))))
	Run(t, "btrfs", "subvolume", "create", m.Dir+"/outer")
	Run(t, "btrfs", "subvolume", "create", m.Dir+"/outer/inner")
	Run(t, "btrfs", "subvolume", "snapshot", "-r", m.Dir+"/outer", m.Dir+"/snap")
	m.Sync()

	byPath := map[string]manifest.Entry{}
	var order []string
	for _, e := range HostManifest(t, m.Dir, HostOptions{}) {
		byPath[e.Path] = e
		order = append(order, e.Path)
	}
	if want := []string{"", "100%", "dev", "link", "outer", "outer/inner", "snap", "snap/inner"}; !slices.Equal(order, want) {
		t.Errorf("paths are %q, want %q", order, want)
	}
	if e := byPath["100%"]; e.Mode != 0o640 || e.Size != 1 || string(e.Xattrs["user.k"]) != "v" || e.Has&manifest.SHA256 == 0 {
		t.Errorf("file: %+v", e)
	}
	if e := byPath["dev"]; e.Type != 'c' || e.RdevMajor != 10 || e.RdevMinor != 300 {
		t.Errorf("device: %+v", e)
	}
	if e := byPath["link"]; e.Type != 'l' || e.Target != "to/nowhere" {
		t.Errorf("symlink: %+v", e)
	}
	if a, b := byPath[""], byPath["outer/inner"]; a.Subvol != 5 || b.Subvol != 257 {
		t.Errorf("subvolume ids: top %d, inner %d", a.Subvol, b.Subvol)
	}
	if e := byPath["snap/inner"]; !e.StubMarker || e.Has != manifest.NewStub("").Has {
		t.Errorf("stub: %+v", e)
	}
	Scrub(t, m.Dir)
	m.Unmount()
	Check(t, img)
}

// A test that only sees clean logs would not notice a watcher that sees nothing.
func TestKernelLogNamesAMissingDevice(t *testing.T) {
	t.Parallel()
	Need(t, Mounting...)
	images := MkfsN(t, 2, 256*mib, "-m", "raid1", "-d", "raid1")
	m := Mount(t, "", images...)
	m.Unmount()
	Check(t, images...)

	// The kernel prints each kind of message at most ten times in five seconds,
	// so one that other tests have used up comes again on a later mount.
	var lines []string
	for range 3 {
		log := watchLog(t)
		m := Mount(t, "degraded,ro", images[0])
		lines = append(lines, log.complaints(m.FSID, m.Loops)...)
		m.Unmount()
		if slices.ContainsFunc(lines, regexp.MustCompile(`devid 2 .* is missing`).MatchString) {
			return
		}
		time.Sleep(5 * time.Second)
	}
	t.Errorf("kernel log lines seen: %q", lines)
}

func TestUncleanCopyHasALogTree(t *testing.T) {
	t.Parallel()
	Need(t, Mounting...)
	img := Mkfs(t, 256*mib)
	m := Mount(t, "noatime,commit=300", img)
	name := filepath.Join(m.Dir, "f")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	m.Sync() // the log holds only what came after a commit
	if _, err := f.WriteString("logged"); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	copied := CopyUnclean(t, img)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if root := logRoot(t, copied); root == 0 {
		t.Error("the copy has no log tree")
	}
	m.Unmount()
	if root := logRoot(t, img); root != 0 {
		t.Error("the unmounted image still has a log tree")
	}
}

func logRoot(t *testing.T, img string) byte {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [8]byte
	if _, err := f.ReadAt(b[:], 65536+96); err != nil {
		t.Fatal(err)
	}
	for _, c := range b {
		if c != 0 {
			return c
		}
	}
	return 0
}

func TestDataRangesSeesHoles(t *testing.T) {
	t.Parallel()
	Need(t, Mounting...)
	m := Mount(t, "", Mkfs(t, 256*mib))
	name := filepath.Join(m.Dir, "f")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range []int64{0, 64 << 10} {
		if _, err := f.WriteAt(make([]byte, 8192), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(mib); err != nil {
		t.Fatal(err)
	}
	if got := DataRanges(t, name); !slices.Equal(got, []Range{{0, 8192}, {65536, 73728}}) {
		t.Errorf("data at %v", got)
	}
}

// TestDetachWaitsForTheFilesystemToClose leaves a filesystem open behind umount, as
// a path lookup that is under way does, and mounts the image again at once.
func TestDetachWaitsForTheFilesystemToClose(t *testing.T) {
	Need(t, Mounting...)
	img := Sparse(t, 2, 200<<20)
	Run(t, "mkfs.btrfs", "-q", img[0], img[1])
	m := Mount(t, "", img...)
	f, err := os.Open(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	Run(t, "umount", "--lazy", m.Dir)
	time.AfterFunc(300*time.Millisecond, func() { f.Close() })
	m.Unmount()
	Mount(t, "", img...).Unmount()
}

func TestOnlyOurDevicesCount(t *testing.T) {
	const line = "WARNING: adding device /dev/loop12 gen 30 but found an existing device /dev/loop11 gen 34"
	for ours, want := range map[string]bool{"/dev/loop1": true, "/dev/loop11": false, "/dev/loop12": false} {
		if got := aboutOthers(line, []string{"/dev/loop0", ours}); got != want {
			t.Errorf("with %s: %v", ours, got)
		}
	}
	if aboutOthers("ERROR: errors found in fs roots of /dev/loop9", nil) {
		t.Error("damage passed")
	}
}
