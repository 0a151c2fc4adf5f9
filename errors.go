package btrfs

import (
	"errors"

	"gobtrfs/internal/fstree"
	"gobtrfs/internal/volume"
)

type (
	// CorruptError says what is wrong with which bytes.
	CorruptError = volume.CorruptError
	// DeviceError is a failed operation on a device, or a missing device.
	DeviceError = volume.DeviceError
	// UnsupportedError names a feature that gobtrfs does not know.
	UnsupportedError = volume.UnsupportedError
	// Events are calls that a filesystem makes while it works; each may be
	// nil, and must be safe for concurrent use.
	Events = volume.Events
)

var (
	// ErrCorrupt is matched by every *CorruptError.
	ErrCorrupt = volume.ErrCorrupt
	// ErrNotBtrfs says that there is no btrfs on a device.
	ErrNotBtrfs = volume.ErrNotBtrfs
	// ErrMissingDevice says that a device of the filesystem was not given.
	ErrMissingDevice = volume.ErrMissingDevice
	// ErrReadOnly says that the filesystem may not be written.
	ErrReadOnly = volume.ErrReadOnly
	// ErrNoAttribute says that there is no extended attribute of that name.
	ErrNoAttribute = fstree.ErrNoAttribute
	// ErrClosed says that the filesystem was closed.
	ErrClosed = errors.New("filesystem is closed")
)
