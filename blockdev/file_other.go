//go:build !linux

package blockdev

import (
	"errors"
	"fmt"
	"io"
	"os"
)

const exclusiveFlag = 0

// mountedThrough finds nothing: only Linux mounts files through loop devices
// that it tells of.
func mountedThrough(os.FileInfo) string { return "" }

// blockSize asks by seeking; systems whose raw devices do not tell their size
// that way need FileOptions.Size.
func blockSize(f *os.File) (int64, error) {
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("the system does not tell, name the size: %w", errors.Join(errors.ErrUnsupported, err))
	}
	return n, nil
}

func syncData(f *os.File) error { return f.Sync() }

func discard(*os.File, bool, int64, int64) error { return errors.ErrUnsupported }
