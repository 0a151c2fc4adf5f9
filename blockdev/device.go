// Package blockdev is where bytes live: files, block devices, memory, windows
// into another device, and the partitions of a disk.
//
// A Device has a fixed size and is safe for concurrent use. Reads and writes
// are positional; there is no shared offset and no lock on the way to a file.
// Nothing here knows about btrfs.
package blockdev

import (
	"errors"
	"fmt"
	"io"
)

// Device is a fixed-size array of bytes, safe for concurrent use.
//
// ReadAt and WriteAt keep the contracts of io.ReaderAt and io.WriterAt; a read
// that reaches the end of the device returns what there is and io.EOF, a write
// that would go past it fails without growing the device.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Size is the device's size in bytes. It does not change.
	Size() int64
	// Sync returns when everything written before the call is durable.
	Sync() error
	// Discard gives n bytes at off back to the device; they read as zeros or
	// as anything else afterwards. Where the device cannot do it the error
	// wraps errors.ErrUnsupported and nothing has changed.
	Discard(off, n int64) error
	// Close releases the device. Using it afterwards is an error.
	Close() error
	// Name is the path or another name for messages.
	Name() string
}

var (
	// ErrRange is wrapped by errors about an access outside the device.
	ErrRange = errors.New("outside the device")
	// ErrReadOnly is wrapped by errors about changing a device that was opened
	// for reading only.
	ErrReadOnly = errors.New("device is open for reading only")
)

// checkRange fails unless [off, off+n) lies within size bytes.
func checkRange(name, op string, off, n, size int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("%s %s: %d bytes at %d of %d: %w", op, name, n, off, size, ErrRange)
	}
	return nil
}

// clampRead is how many of n bytes at off a device of size bytes can give, and
// io.EOF when that is not all of them.
func clampRead(name string, off int64, n int, size int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s: offset %d: %w", name, off, ErrRange)
	}
	if off >= size {
		if n == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	if int64(n) > size-off {
		return int(size - off), io.EOF
	}
	return n, nil
}
