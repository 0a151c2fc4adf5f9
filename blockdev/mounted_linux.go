package blockdev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountedThrough is the loop device over a file that is mounted or held by
// another driver, "" if there is none. A loop device that nobody uses is none:
// what is written then shows through it.
func mountedThrough(fi os.FileInfo) string {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return ""
	}
	for _, file := range files {
		// It may be gone by now, or be in a tree that is not ours to see.
		path, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		backing, err := os.Stat(strings.TrimSuffix(string(path), "\n"))
		if err != nil || !os.SameFile(fi, backing) {
			continue
		}
		name := filepath.Base(filepath.Dir(filepath.Dir(file)))
		if heldBlock(name) {
			return "/dev/" + name
		}
	}
	return ""
}

// heldBlock says whether a block device, or a partition of it, is in exclusive
// use. Who may not open it learns only of what btrfs has mounted.
func heldBlock(name string) bool {
	f, err := os.OpenFile("/dev/"+name, os.O_RDONLY|exclusiveFlag, 0)
	if err == nil {
		f.Close()
		return false
	}
	if errors.Is(err, unix.EBUSY) {
		return true
	}
	for _, member := range []string{name, name + "p*"} {
		if found, err := filepath.Glob("/sys/fs/btrfs/*/devices/" + member); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}
