package blockdev

import (
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/windows"
)

// lockFile locks a byte far behind the end: locks of Windows are not advisory,
// and readers must not meet it.
func lockFile(f *os.File) error {
	at := windows.Overlapped{OffsetHigh: math.MaxInt32}
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
	if err == windows.ERROR_LOCK_VIOLATION {
		return fmt.Errorf("%w: %w", errLocked, err)
	}
	return err
}

// unlockFile leaves it to Close, as nobody inherits the file.
func unlockFile(*os.File) error { return nil }
