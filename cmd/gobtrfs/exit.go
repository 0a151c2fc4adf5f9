package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"gobtrfs"
)

// Exit codes.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitDamage  = 3
	exitNoSpace = 4
)

// usageError marks a command line that makes no sense.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// codeError carries an exit code of its own. An empty message prints nothing:
// the verb has said it all.
type codeError struct {
	code int
	msg  string
}

func (e codeError) Error() string { return e.msg }

// exitCode chooses the exit code for what a verb returned.
func exitCode(err error) int {
	var usage usageError
	var code codeError
	var forwarded forwardedError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &forwarded):
		return forwarded.code
	case errors.As(err, &code):
		return code.code
	case errors.Is(err, context.Canceled):
		return exitFailed
	case errors.Is(err, btrfs.ErrCorrupt):
		return exitDamage
	case errors.Is(err, syscall.ENOSPC):
		return exitNoSpace
	}
	return exitFailed
}
