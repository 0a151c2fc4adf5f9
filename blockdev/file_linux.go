package blockdev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// exclusiveFlag on a block device makes open fail with EBUSY while it is
// mounted or held by another driver.
const exclusiveFlag = unix.O_EXCL

func blockSize(f *os.File) (int64, error) { return f.Seek(0, io.SeekEnd) }

func syncData(f *os.File) error {
	return ignoringEINTR(func() error { return unix.Fdatasync(int(f.Fd())) })
}

func discard(f *os.File, block bool, off, n int64) error {
	err := ignoringEINTR(func() error {
		if block {
			return ioctlDiscard(int(f.Fd()), off, n)
		}
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err
}

func ioctlDiscard(fd int, off, n int64) error {
	arg := [2]uint64{uint64(off), uint64(n)}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&arg)))
	if e != 0 {
		return e
	}
	return nil
}

func ignoringEINTR(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}
