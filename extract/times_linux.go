package extract

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"gobtrfs/disk"
)

// timespec keeps the nanoseconds in the range that the system call accepts: a
// hostile filesystem may hold any.
func timespec(t disk.Time) unix.Timespec {
	var ts unix.Timespec
	ts.Sec = timeField(t.Sec, ts.Sec)
	ts.Nsec = timeField(int64(min(t.Nsec, 999_999_999)), ts.Nsec)
	return ts
}

// timeField converts to the field's type, which is 32 bits on old systems.
func timeField[T ~int32 | ~int64](v int64, _ T) T { return T(v) }

// futimens sets times by descriptor: utimensat with no path, for which x/sys
// has no wrapper.
func futimens(fd int, ts *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
