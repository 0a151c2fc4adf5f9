package volume

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"gobtrfs/disk"
)

var (
	// ErrCorrupt is matched by every *CorruptError: bytes that are not what
	// the filesystem says they are.
	ErrCorrupt = errors.New("corrupt")
	// ErrNotBtrfs is wrapped when a device has no btrfs superblock.
	ErrNotBtrfs = errors.New("no btrfs superblock")
	// ErrMissingDevice is wrapped when a member is needed that is not there.
	ErrMissingDevice = errors.New("device is missing")
	// ErrUnmapped is wrapped when no chunk holds a logical address.
	ErrUnmapped = errors.New("address is in no chunk")
	// ErrReadOnly is wrapped when the volume may not be written.
	ErrReadOnly = errors.New("volume is read-only")
)

// CorruptError says what is wrong with which bytes. Fields that are not known
// are zero: Mirror counts from 1, Dev 0 means no single device, Tree and Key
// are filled in by the layer that knows them.
//
// errors.Is holds for ErrCorrupt and syscall.EIO.
type CorruptError struct {
	Dev      disk.DevID
	DevName  string
	Physical uint64 // bytes from the start of the device
	Logical  disk.Logical
	Mirror   int
	Tree     disk.ObjectID
	Key      disk.Key
	What     string
	Err      error
}

func (e *CorruptError) Error() string {
	var b strings.Builder
	b.WriteString(e.What)
	if e.What == "" {
		b.WriteString("corrupt data")
	}
	sep := " ("
	add := func(format string, args ...any) {
		b.WriteString(sep)
		fmt.Fprintf(&b, format, args...)
		sep = ", "
	}
	if e.Tree != 0 {
		add("tree %v", e.Tree)
	}
	if e.Key != (disk.Key{}) {
		add("key %v", e.Key)
	}
	if e.Logical != 0 {
		add("logical %d", uint64(e.Logical))
	}
	if e.Mirror != 0 {
		add("mirror %d", e.Mirror)
	}
	if e.Dev != 0 {
		add("device %d", uint64(e.Dev))
	}
	if e.DevName != "" {
		add("%s", e.DevName)
	}
	if e.Physical != 0 {
		add("physical %d", e.Physical)
	}
	if sep != " (" {
		b.WriteString(")")
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap is the cause, nil when What says it all.
func (e *CorruptError) Unwrap() error { return e.Err }

// Is matches ErrCorrupt and syscall.EIO, which is what the kernel's readers
// see.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt || target == syscall.EIO }

// UnsupportedError names a feature that stops the filesystem from being opened
// or an operation from being done. errors.Is holds for errors.ErrUnsupported.
type UnsupportedError struct{ Feature string }

func (e *UnsupportedError) Error() string { return "unsupported feature: " + e.Feature }

// Is matches errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// DeviceError is a failed operation on a device, or a device that is not there
// (then Err is ErrMissingDevice). errors.Is holds for syscall.EIO.
type DeviceError struct {
	Dev  disk.DevID
	Name string // path, or "missing" and the device's UUID
	Op   string // "open", "read", "write", "sync", "discard"
	Off  uint64 // physical, in bytes
	Err  error
}

func (e *DeviceError) Error() string {
	if e.Op == "read" || e.Op == "write" || e.Op == "discard" {
		return fmt.Sprintf("%s device %d (%s) at %d: %v", e.Op, uint64(e.Dev), e.Name, e.Off, e.Err)
	}
	return fmt.Sprintf("%s device %d (%s): %v", e.Op, uint64(e.Dev), e.Name, e.Err)
}

// Unwrap is the device's own error.
func (e *DeviceError) Unwrap() error { return e.Err }

// Is matches syscall.EIO.
func (e *DeviceError) Is(target error) bool { return target == syscall.EIO }
