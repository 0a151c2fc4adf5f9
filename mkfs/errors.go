package mkfs

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrNoSpace is wrapped when the devices are too small for what shall go
	// onto them. It unwraps to ENOSPC.
	ErrNoSpace error = noSpace{}
	// ErrExists is wrapped when a target already holds something and Force is
	// not set.
	ErrExists = errors.New("target is not empty")
	// ErrChanged is wrapped when a source file is not what it was when it was
	// listed.
	ErrChanged = errors.New("source changed while it was read")
	// ErrSource is wrapped when a source cannot be what it claims to be: a
	// damaged or hostile archive, an impossible entry.
	ErrSource = errors.New("bad source")
)

type noSpace struct{}

func (noSpace) Error() string { return "no space on the devices" }
func (noSpace) Unwrap() error { return syscall.ENOSPC }

// OptionError marks options that make no sense, alone or together.
type OptionError struct{ Err error }

func (e *OptionError) Error() string { return e.Err.Error() }

// Unwrap is the cause.
func (e *OptionError) Unwrap() error { return e.Err }

// SizeError says how large the devices would have to be. It wraps ErrNoSpace.
type SizeError struct {
	Have uint64 // bytes, all devices together
	Need uint64 // bytes, all devices together; an estimate that is enough
	Err  error
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("the devices have %d bytes, about %d are needed: %v", e.Have, e.Need, e.Err)
}

// Unwrap is the cause.
func (e *SizeError) Unwrap() error { return e.Err }

// fileError is an error about a file of the source.
type fileError struct {
	path string
	err  error
}

func (e *fileError) Error() string { return fmt.Sprintf("source file %q: %v", e.path, e.err) }
func (e *fileError) Unwrap() error { return e.err }
