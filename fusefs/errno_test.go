package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	btrfs "gobtrfs"
)

func TestErrorsBecomeErrnos(t *testing.T) {
	t.Parallel()
	var noAttribute syscall.Errno // its name differs between systems
	if !errors.As(btrfs.ErrNoAttribute, &noAttribute) {
		t.Fatal("a missing attribute is no errno")
	}
	for _, tc := range []struct {
		name string
		err  error
		want syscall.Errno
	}{
		{"no error", nil, 0},
		{"an errno", syscall.ENOTEMPTY, syscall.ENOTEMPTY},
		{"a wrapped errno", fmt.Errorf("rename: %w", syscall.EXDEV), syscall.EXDEV},
		{"an errno in an os error", &os.PathError{Op: "open", Path: "x", Err: syscall.ENOTDIR}, syscall.ENOTDIR},
		{"damage", &btrfs.CorruptError{What: "item"}, syscall.EIO},
		{"damage that was found while something was missing", &btrfs.CorruptError{What: "item", Err: syscall.ENOENT}, syscall.EIO},
		{"damage, only by its sentinel", fmt.Errorf("x: %w", btrfs.ErrCorrupt), syscall.EIO},
		{"a device that is full is a device that fails", &btrfs.DeviceError{Op: "write", Err: syscall.ENOSPC}, syscall.EIO},
		{"a device that is not there", fmt.Errorf("read: %w", &btrfs.DeviceError{Op: "read", Err: btrfs.ErrMissingDevice}), syscall.EIO},
		{"no space", fmt.Errorf("reserve: %w", syscall.ENOSPC), syscall.ENOSPC},
		{"a caller that gave up", fmt.Errorf("wait: %w", context.Canceled), syscall.EINTR},
		{"a caller that gave up, never no space", errors.Join(context.Canceled, syscall.ENOSPC), syscall.EINTR},
		{"a deadline", context.DeadlineExceeded, syscall.ETIMEDOUT},
		{"read-only", fmt.Errorf("create: %w", btrfs.ErrReadOnly), syscall.EROFS},
		{"a feature", &btrfs.UnsupportedError{Feature: "zoned"}, syscall.EOPNOTSUPP},
		{"a missing attribute", fmt.Errorf("x: %w", btrfs.ErrNoAttribute), noAttribute},
		{"io/fs: not exist", fs.ErrNotExist, syscall.ENOENT},
		{"io/fs: exist", fs.ErrExist, syscall.EEXIST},
		{"io/fs: permission", fs.ErrPermission, syscall.EPERM},
		{"io/fs: invalid", fs.ErrInvalid, syscall.EINVAL},
		{"unsupported", errors.ErrUnsupported, syscall.EOPNOTSUPP},
		{"closed", btrfs.ErrClosed, syscall.EIO},
		{"anything else", errors.New("surprise"), syscall.EIO},
	} {
		if got := errno(tc.err); got != tc.want {
			t.Errorf("%s: %v becomes %d (%v), want %d", tc.name, tc.err, got, got, tc.want)
		}
	}
}
