//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// busyFor is how long Unmount asks again for a mount that is in use. Whoever
// looks at mounts from outside (df, an indexer, a monitoring agent) and each
// process between fork and exec holds it for a moment.
const busyFor = 512 * time.Millisecond

// Unmount takes a FUSE mount away, whoever serves it; with lazy also one that
// is in use, which then ends when its last user has left it. A mount that stays
// in use for half a second is EBUSY. The kernel does not wait for the server.
// direct does it with umount2(2), which takes privileges; otherwise fusermount3
// does it for the user who mounted.
func Unmount(dir string, direct, lazy bool) error {
	try := fusermount
	if direct {
		try = umount2
	}
	for wait := time.Millisecond; ; wait *= 2 { // the waits before add up to this one
		err := try(dir, lazy)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || wait >= busyFor {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		time.Sleep(wait)
	}
}

func umount2(dir string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	return unix.Unmount(dir, flags)
}

func fusermount(dir string, lazy bool) error {
	args := []string{"-u", dir}
	if lazy {
		args = []string{"-u", "-z", dir}
	}
	cmd := exec.Command("fusermount3", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(stderr.String())
	if strings.Contains(strings.ToLower(text), "busy") {
		return unix.EBUSY
	}
	if text != "" {
		return errors.New(text)
	}
	return err
}
