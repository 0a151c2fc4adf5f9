package mkfs

import (
	"math"

	"golang.org/x/sys/unix"
)

// seekData is where data begins at or behind a place in a file; at itself where the
// filesystem cannot tell. Files are read at given places, so moving their position does
// no harm.
func seekData(fd int, at int64) int64 {
	off, err := unix.Seek(fd, at, unix.SEEK_DATA)
	switch err {
	case nil:
		return off
	case unix.ENXIO:
		return math.MaxInt64 // none up to the end
	}
	return at
}
