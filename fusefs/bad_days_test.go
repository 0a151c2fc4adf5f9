//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/internal/oracle"
)

// steered is a device that a test makes slow or takes away.
type steered struct {
	blockdev.Device

	mu   sync.Mutex
	gone bool
	open chan struct{} // closed: writes go through
}

func (d *steered) state() (gone bool, open chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone, d.open
}

// hold keeps writes waiting until release is called.
func (d *steered) hold() (release func()) {
	open := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = open
	return sync.OnceFunc(func() { close(open) })
}

func (d *steered) vanish() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
}

func (d *steered) changes() error {
	gone, open := d.state()
	if open != nil {
		<-open
	}
	if gone {
		return syscall.ENODEV
	}
	return nil
}

func (d *steered) WriteAt(p []byte, off int64) (int, error) {
	if err := d.changes(); err != nil {
		return 0, err
	}
	return d.Device.WriteAt(p, off)
}

func (d *steered) Sync() error {
	if err := d.changes(); err != nil {
		return err
	}
	return d.Device.Sync()
}

func (d *steered) ReadAt(p []byte, off int64) (int, error) {
	if gone, _ := d.state(); gone {
		return 0, syscall.ENODEV
	}
	return d.Device.ReadAt(p, off)
}

// serveDevice mounts an image for writing on a device that the test steers.
// What becomes of it at the end is the test's to judge.
func serveDevice(t *testing.T, img string, o btrfs.Options) (*served, *steered) {
	t.Helper()
	needFUSE(t)
	file, err := blockdev.OpenFile(img, blockdev.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() }) // last of all
	d := &steered{Device: file}
	o.Writable = true
	fsys, err := btrfs.OpenDevices(t.Context(), []blockdev.Device{d}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	top, err := fsys.TopLevel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &served{dir: t.TempDir(), log: &lockedBuffer{}}
	if s.Server, err = Mount(context.WithoutCancel(t.Context()), top, s.dir, Options{Direct: true, Log: slog.New(slog.NewTextHandler(s.log, nil))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
			Unmount(s.dir, true, true)
		}
	})
	if err := s.fuse.WaitMount(); err != nil { // see serve
		t.Fatal(err)
	}
	return s, d
}

// TestASlowDeviceSlowsWritersOnly stops a device while many write. They wait,
// more of them than requests that carry contents have room for at a time; who
// looks at names and attributes, or reads, does not.
func TestASlowDeviceSlowsWritersOnly(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	const writers, limit = 100, 4 * mib
	img := oracle.Mkfs(t, 1024*mib)
	m := oracle.Mount(t, "", img)
	body := oracle.Noise(1, 100_000)
	for i := range 20 {
		if err := os.WriteFile(fmt.Sprintf("%s/old-%d", m.Dir, i), body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m.Unmount()
	s, d := serveDevice(t, img, btrfs.Options{DirtyBytes: limit, CommitInterval: -1})
	files := make([]*os.File, writers)
	for i := range files {
		var err error
		if files[i], err = os.Create(fmt.Sprintf("%s/new-%d", s.dir, i)); err != nil {
			t.Fatal(err)
		}
		defer files[i].Close()
	}
	release := d.hold()
	defer release()
	done := make(chan error, writers)
	piece := oracle.Noise(2, mib)
	for _, f := range files {
		go func() {
			_, err := f.Write(piece)
			done <- err
		}()
	}
	// They wait when as much is in memory as may be and all who could write have.
	waitUntil(t, "contents fill the memory they may", func() bool { return s.dirty() >= limit })
	time.Sleep(200 * time.Millisecond)
	if n := len(done); n > limit/mib+1 {
		t.Fatalf("%d writers of 1 MiB are through while %d bytes may wait", n, limit)
	}
	for i := range 20 {
		for what, look := range lookers(s.dir, fmt.Sprintf("%s/old-%d", s.dir, i), body) {
			within(t, what, look)
		}
	}
	release()
	for range writers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		f.Close()
	}
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	oracle.Check(t, img)
}

// dirty is how many bytes wait in memory.
func (s *served) dirty() (n uint64) {
	for _, sub := range s.server.fs.Writer().Waiting() {
		n += sub
	}
	return n
}

// lookers are ways to look at a file and its directory that the kernel has to
// ask the server for.
func lookers(dir, name string, body []byte) map[string]func() error {
	return map[string]func() error{
		"statx": func() error {
			return unix.Statx(unix.AT_FDCWD, name, unix.AT_STATX_FORCE_SYNC, unix.STATX_BTIME, new(unix.Statx_t))
		},
		"read": func() error {
			b, err := os.ReadFile(name)
			if err == nil && !bytes.Equal(b, body) {
				err = errors.New("other contents")
			}
			return err
		},
		"a name that is not there": func() error {
			if err := unix.Access(name+"-none", unix.F_OK); !errors.Is(err, syscall.ENOENT) {
				return fmt.Errorf("access: %v", err)
			}
			return nil
		},
		"list": func() error { _, err := os.ReadDir(dir); return err },
		"attributes": func() error {
			if _, err := unix.Getxattr(name, "user.none", nil); !errors.Is(err, syscall.ENODATA) {
				return fmt.Errorf("getxattr: %v", err)
			}
			return nil
		},
		"free space": func() error { return unix.Statfs(dir, new(unix.Statfs_t)) },
	}
}

// within fails the test if f does not end soon.
func within(t *testing.T, what string, f func() error) {
	t.Helper()
	end := make(chan error, 1)
	go func() { end <- f() }()
	select {
	case err := <-end:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("%s waits for the device", what)
	}
}

func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestADeviceThatDisappears: fsync says so, then nothing can be changed; what
// is in memory can be read, the rest is EIO; the mount goes away, and the image
// is at its last commit.
func TestADeviceThatDisappears(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	img := oracle.Mkfs(t, 256*mib)
	s, d := serveDevice(t, img, btrfs.Options{CommitInterval: time.Second, CacheBytes: 1 << 20})
	body := oracle.Noise(1, 300_000)
	for _, name := range []string{"kept", "cold"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.server.fs.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The pages of one file leave the kernel's memory.
	cold, err := os.Open(s.dir + "/cold")
	if err != nil {
		t.Fatal(err)
	}
	defer cold.Close()
	if err := unix.Fadvise(int(cold.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(s.dir + "/lost")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(body); err != nil {
		t.Fatal(err)
	}
	d.vanish()
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("fsync: %v, want EIO", err)
	}
	waitUntil(t, "a commit fails", func() bool { return s.server.fs.Failed() != nil })
	if err := f.Sync(); !errors.Is(err, syscall.EIO) { // it does not become right by asking again
		t.Errorf("fsync after that: %v, want EIO", err)
	}
	if _, err := f.WriteAt(body[:10], 5); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write: %v, want EROFS", err)
	}
	for what, err := range map[string]error{
		"mkdir": os.Mkdir(s.dir+"/dir", 0o755), "unlink": os.Remove(s.dir + "/kept"), "rename": os.Rename(s.dir+"/kept", s.dir+"/x"),
		"chmod": os.Chmod(s.dir+"/kept", 0o600), "setxattr": unix.Setxattr(s.dir+"/kept", "user.x", body[:5], 0),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
	if _, err := io.Copy(io.Discard, cold); !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v, want EIO", err)
	}
	if _, err := os.Stat(s.dir + "/kept"); err != nil {
		t.Error(err)
	}
	cold.Close()
	f.Close()
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
	if s.Err() == nil {
		t.Error("the last commit claims to have succeeded")
	}
	if n := strings.Count(s.log.String(), "nothing can be changed any more"); n != 1 {
		t.Errorf("the log says %d times what has happened:\n%s", n, s.log)
	}
	oracle.Check(t, img)
	m := oracle.Mount(t, "", img)
	if b, err := os.ReadFile(m.Dir + "/kept"); err != nil || !bytes.Equal(b, body) {
		t.Errorf("what was committed: %v", err)
	}
	m.Unmount()
}

// TestTheBackingStoreIsFull: an image whose file cannot grow any more. Nobody
// is told of success that is none, and the image stays whole.
func TestTheBackingStoreIsFull(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	small := t.TempDir()
	if err := unix.Mount("gobtrfs-test", small, "tmpfs", 0, "size=48m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
			unix.Unmount(small, unix.MNT_DETACH)
		}
	})
	img := filepath.Join(small, "image")
	if err := errors.Join(os.WriteFile(img, nil, 0o644), os.Truncate(img, 512*mib)); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mkfs.btrfs", "-q", img)
	synced := 0
	t.Run("filled", func(t *testing.T) {
		s, _ := serveDevice(t, img, btrfs.Options{DirtyBytes: 4 * mib})
		for ; synced < 100; synced++ {
			f, err := os.Create(fmt.Sprintf("%s/%d", s.dir, synced))
			if err == nil {
				_, err = f.Write(oracle.Noise(uint64(synced), mib))
				err = errors.Join(err, f.Sync())
				f.Close()
			}
			if err != nil {
				if !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EROFS) {
					t.Errorf("at %d: %v", synced, err)
				}
				break
			}
		}
		if synced < 10 || synced > 48 {
			t.Errorf("%d MiB were synced to a store of 48", synced)
		}
	})
	if err := unix.Mount("", small, "", unix.MS_REMOUNT, "size=200m"); err != nil {
		t.Fatal(err)
	}
	oracle.Check(t, img)
	t.Run("with room again", func(t *testing.T) {
		s, _ := serveDevice(t, img, btrfs.Options{})
		for i := range synced {
			if b, err := os.ReadFile(fmt.Sprintf("%s/%d", s.dir, i)); err != nil || !bytes.Equal(b, oracle.Noise(uint64(i), mib)) {
				t.Errorf("file %d, which was synced: %d bytes, %v", i, len(b), err)
			}
		}
		if err := os.WriteFile(s.dir+"/more", []byte("more"), 0o644); err != nil {
			t.Error(err)
		}
	})
	oracle.Check(t, img)
}
