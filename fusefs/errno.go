package fusefs

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	btrfs "gobtrfs"
)

// errno is the only place where errors become what a system call returns.
// Damage comes first: a corrupt item may well wrap "no such file" about
// something else than what was asked for.
func errno(err error) syscall.Errno {
	var (
		corrupt     *btrfs.CorruptError
		device      *btrfs.DeviceError
		unsupported *btrfs.UnsupportedError
		number      syscall.Errno
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &corrupt), errors.Is(err, btrfs.ErrCorrupt), errors.As(err, &device):
		return syscall.EIO
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	case errors.Is(err, context.DeadlineExceeded):
		return syscall.ETIMEDOUT
	case errors.Is(err, btrfs.ErrReadOnly):
		return syscall.EROFS
	case errors.As(err, &unsupported):
		return syscall.EOPNOTSUPP
	case errors.As(err, &number) && number != 0:
		return number
	}
	for _, m := range [...]struct {
		target error
		number syscall.Errno
	}{
		{fs.ErrNotExist, syscall.ENOENT},
		{fs.ErrExist, syscall.EEXIST},
		{fs.ErrPermission, syscall.EPERM},
		{fs.ErrInvalid, syscall.EINVAL},
		{errors.ErrUnsupported, syscall.EOPNOTSUPP},
	} {
		if errors.Is(err, m.target) {
			return m.number
		}
	}
	return syscall.EIO
}
