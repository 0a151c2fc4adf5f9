//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Unmount takes a FUSE mount away, whoever serves it; with lazy also one that
// is in use, which then ends when its last user has left it. The kernel does not
// wait for the server. direct does it with umount2(2), which takes privileges;
// otherwise fusermount3 does it for the user who mounted.
func Unmount(dir string, direct, lazy bool) error {
	if direct {
		flags := unix.UMOUNT_NOFOLLOW
		if lazy {
			flags |= unix.MNT_DETACH
		}
		if err := unix.Unmount(dir, flags); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	}
	args := []string{"-u", dir}
	if lazy {
		args = []string{"-u", "-z", dir}
	}
	cmd := exec.Command("fusermount3", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(stderr.String())
		if strings.Contains(text, "busy") {
			err = unix.EBUSY
		} else if text != "" {
			err = errors.New(text)
		}
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
