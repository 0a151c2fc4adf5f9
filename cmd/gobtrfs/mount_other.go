//go:build !linux || 386 || arm || mips || mipsle

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

func errNoMount() error {
	return fmt.Errorf("mount on %s/%s: %w: FUSE is served on 64-bit Linux only", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

func (a *app) mount(context.Context, *mountRequest) error { return errNoMount() }

func (a *app) umount(context.Context, string, bool) error { return errNoMount() }
