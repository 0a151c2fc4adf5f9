//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package blockdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile takes the advisory lock of writers; it ends with unlockFile or with
// the last number of the open file.
func lockFile(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == unix.EINTR:
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("%w: %w", errLocked, err)
		}
		return err
	}
}

// unlockFile gives the lock back. It belongs to the open file, not to its number:
// a child of this process between fork and exec has both, and would keep the lock
// for a moment after Close.
func unlockFile(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) }
