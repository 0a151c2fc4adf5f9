//go:build linux

package mkfs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

var testUUID = disk.UUID{0x11, 0x22, 6: 0x40, 8: 0x80, 15: 1}

// imageSum makes an image and returns its checksum.
func imageSum(t *testing.T, o Options) string {
	t.Helper()
	img := filepath.Join(oracle.Dir(t), "image")
	size := uint64(0)
	if !o.Shrink {
		size = 256 << 20
	}
	if _, err := MakeFiles(t.Context(), []string{img}, size, o); err != nil {
		t.Fatal(err)
	}
	return fileSum(t, img)
}

func fileSum(t *testing.T, p string) string {
	t.Helper()
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(p); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// tarOf packs a directory with GNU tar, names sorted or not.
func tarOf(t *testing.T, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("tar"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must have tar:", err)
		}
		t.Skip("no tar:", err)
	}
	out := filepath.Join(oracle.Dir(t), "a.tar")
	args = append([]string{"-C", dir, "--numeric-owner", "--format=posix", "--xattrs", "--xattrs-include=*", "--pax-option=delete=atime,delete=ctime", "--warning=none", "-cf", out}, args...)
	if b, err := exec.Command("tar", append(args, ".")...).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, b)
	}
	return out
}

// withoutSockets removes what an archive cannot hold.
func withoutSockets(t *testing.T, dir string) string {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "sock")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.Chtimes(dir, time.Unix(1_000_000_000, 7), time.Unix(1_000_000_000, 7)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openTar(t *testing.T, p string) Source {
	t.Helper()
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return Tar(f, p)
}

func TestSameInputGivesSameBytes(t *testing.T) {
	oracle.Need(t, oracle.Root) // the tree has devices, and another copy must keep owners
	dir := withoutSockets(t, sampleTree(t))
	for _, base := range []Options{
		{UUID: testUUID},
		{Time: time.Unix(1_700_000_000, 0), Compress: "zstd:3"},
		{UUID: testUUID, Compress: "lzo", Shrink: true, Free: 3 << 20, Features: []string{"^no-holes"}},
		{Reproducible: true, Compress: "zlib:6", Shrink: true, Subvolumes: []Subvolume{{Path: "many"}, {Path: "sizes", ReadOnly: true}}},
	} {
		t.Run(fmt.Sprint(base.Compress, base.Shrink), func(t *testing.T) {
			with := func(s Source) Options {
				o := base
				o.Source = s
				return o
			}
			want := imageSum(t, with(Dir(dir)))
			same := func(what string, o Options) {
				t.Helper()
				if got := imageSum(t, o); got != want {
					t.Errorf("%s: %s, want %s", what, got, want)
				}
			}
			same("again", with(Dir(dir)))
			prev := runtime.GOMAXPROCS(1)
			same("one processor", with(Dir(dir)))
			runtime.GOMAXPROCS(7)
			same("seven processors", with(Dir(dir)))
			runtime.GOMAXPROCS(prev)

			other := filepath.Join(oracle.Dir(t), "copy")
			oracle.Run(t, "cp", "-a", dir, other)
			same("another directory", with(Dir(other)))
			same("archive", with(openTar(t, tarOf(t, dir))))
			same("sorted archive", with(openTar(t, tarOf(t, dir, "--sort=name"))))
			same("sparse archive", with(openTar(t, tarOf(t, dir, "--sparse"))))
			b, err := os.ReadFile(tarOf(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			same("archive through a pipe", with(Tar(bytes.NewReader(b), "pipe")))
		})
	}
}

// TestSameBytesWithoutRoot makes the image again as another user.
func TestSameBytesWithoutRoot(t *testing.T) {
	oracle.Need(t, oracle.Root)
	dir := oracle.Dir(t)
	oracle.Run(t, "cp", "-r", "/usr/include/linux", dir+"/tree")
	oracle.Run(t, "chmod", "-R", "a+rX", dir)
	bin := filepath.Join(dir, "gobtrfs")
	oracle.Run(t, "go", "build", "-o", bin, "gobtrfs/cmd/gobtrfs")
	oracle.Run(t, "chmod", "1777", dir)
	image := func(name string, uid uint32) string {
		p := filepath.Join(dir, name)
		c := exec.Command(bin, "mkfs", "-q", "-r", dir+"/tree", "--shrink", "-U", testUUID.String(), p)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		c.Env = append(os.Environ(), "HOME=/", "TMPDIR="+dir)
		if b, err := c.CombinedOutput(); err != nil {
			t.Fatalf("as user %d: %v\n%s", uid, err, b)
		}
		return fileSum(t, p)
	}
	if root, user := image("a", 0), image("b", 65534); root != user {
		t.Errorf("as root %s, as user %s", root, user)
	}
}

func TestShrinkDoesNotDependOnTheFileThatWasThere(t *testing.T) {
	dir := sampleTree(t)
	var want string
	for i, size := range []int64{0, 1 << 20, 1 << 30} {
		img := filepath.Join(oracle.Dir(t), strconv.Itoa(i))
		if size > 0 {
			if err := os.WriteFile(img, []byte("something"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(img, size); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := MakeFiles(t.Context(), []string{img}, 0, Options{Source: Dir(dir), Shrink: true, UUID: testUUID}); err != nil {
			t.Fatal(err)
		}
		got := fileSum(t, img)
		if want = orDefault(want, got); got != want {
			t.Errorf("start size %d: %s, want %s", size, got, want)
		}
	}
}

func TestRandomUUIDsDiffer(t *testing.T) {
	if a, b := imageSum(t, Options{}), imageSum(t, Options{}); a == b {
		t.Error("two filesystems are the same")
	}
	_, err := MakeFiles(t.Context(), []string{filepath.Join(oracle.Dir(t), "x")}, 256<<20, Options{Rand: bytes.NewReader(nil)})
	if !errors.Is(err, io.EOF) {
		t.Errorf("without randomness: %v", err)
	}
}
