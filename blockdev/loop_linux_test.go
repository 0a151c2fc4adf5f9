package blockdev

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gobtrfs/internal/oracle"
)

// A file is not opened for writing while Linux has it mounted; that a loop device
// is over it is no reason.
func TestMountedFile(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	image := oracle.Mkfs(t, 128<<20)
	open := func() error {
		d, err := OpenFile(image, FileOptions{})
		if err == nil {
			err = d.Close()
		}
		return err
	}
	m := oracle.Mount(t, "", image)
	if err := open(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a mounted file opens for writing: %v", err)
	}
	m.Unmount()
	oracle.Attached(t, []string{image}, func([]string) {
		if err := open(); err != nil {
			t.Error(err)
		}
	})
}

// A block device tells its size, takes discards, and is not opened for writing
// while it is mounted.
func TestBlockDevice(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	m := oracle.Mount(t, "", oracle.Mkfs(t, 128<<20))
	if _, err := OpenFile(m.Loops[0], FileOptions{}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a mounted device opens for writing: %v", err)
	}
	d, err := OpenFile(m.Loops[0], FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if d.Size() != 128<<20 || !d.IsBlock() {
		t.Errorf("size %d, block %v", d.Size(), d.IsBlock())
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}

	image := oracle.Sparse(t, 1, 16<<20)[0]
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", loop).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	if d, err = OpenFile(loop, FileOptions{}); err != nil {
		t.Fatal(err)
	}
	b := bytes.Repeat([]byte{7}, 1<<20)
	if _, err := d.WriteAt(b, 1<<20); err != nil {
		t.Error(err)
	}
	if err := d.Sync(); err != nil {
		t.Error(err)
	}
	if err := d.Discard(1<<20, 1<<20); err != nil {
		t.Error(err)
	}
	if _, err := d.ReadAt(b, 1<<20); err != nil || bytes.Count(b, []byte{0}) != len(b) {
		t.Errorf("after the discard: %v, %d zeros", err, bytes.Count(b, []byte{0}))
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
