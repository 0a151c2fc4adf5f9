package btrfs

import (
	"context"
	"io"
	"syscall"
)

// WriteAt writes to a regular file and makes it longer if need be. Of a long
// write that fails the first n bytes are done.
func (e *Editor) WriteAt(ctx context.Context, path string, p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, pathError("write", path, syscall.EINVAL)
	}
	sub, ino, err := e.at(ctx, path)
	if err == nil {
		n, err = e.fs.w.WriteAt(ctx, sub, ino, p, uint64(off))
	}
	if err == nil && n > 0 {
		err = e.fs.w.DropPrivileges(ctx, sub, ino, false)
	}
	return n, pathError("write", path, err)
}

// copyBuffer is how much WriteFrom reads before it writes.
const copyBuffer = 16 << 20

// WriteFrom writes everything that r gives to a regular file, from off on.
func (e *Editor) WriteFrom(ctx context.Context, path string, r io.Reader, off int64) (n int64, err error) {
	sub, ino, err := e.at(ctx, path)
	if err != nil || off < 0 {
		if err == nil {
			err = syscall.EINVAL
		}
		return 0, pathError("write", path, err)
	}
	if err := e.fs.w.DropPrivileges(ctx, sub, ino, false); err != nil {
		return 0, pathError("write", path, err)
	}
	buf := make([]byte, 64<<10)
	for {
		m, readErr := io.ReadFull(r, buf)
		if readErr == nil && n == 0 && len(buf) < copyBuffer {
			// More than a little: read on, and write long extents.
			have := m
			buf = append(make([]byte, 0, copyBuffer), buf...)[:copyBuffer]
			m, readErr = io.ReadFull(r, buf[have:])
			m += have
		}
		k, err := e.fs.w.WriteAt(ctx, sub, ino, buf[:m], uint64(off+n))
		n += int64(k)
		switch {
		case err != nil:
			return n, pathError("write", path, err)
		case readErr == io.EOF || readErr == io.ErrUnexpectedEOF:
			return n, nil
		case readErr != nil:
			return n, pathError("read for", path, readErr)
		}
	}
}

// Truncate sets the size of a regular file.
func (e *Editor) Truncate(ctx context.Context, path string, size int64) error {
	sub, ino, err := e.at(ctx, path)
	if err == nil && size < 0 {
		err = syscall.EINVAL
	}
	if err == nil {
		err = e.fs.w.Truncate(ctx, sub, ino, uint64(size))
	}
	if err == nil {
		err = e.fs.w.DropPrivileges(ctx, sub, ino, false)
	}
	return pathError("truncate", path, err)
}

// Allocate gives space to the holes of a range of a regular file, in several
// operations if it is long.
func (e *Editor) Allocate(ctx context.Context, path string, off, n int64, keepSize bool) error {
	sub, ino, err := e.at(ctx, path)
	if err == nil && (off < 0 || n <= 0) {
		err = syscall.EINVAL
	}
	if err == nil {
		err = e.fs.w.Allocate(ctx, sub, ino, uint64(off), uint64(n), keepSize)
	}
	if err == nil {
		err = e.fs.w.DropPrivileges(ctx, sub, ino, false)
	}
	return pathError("allocate", path, err)
}

// ZeroRange makes a range of a regular file read as zeros and gives it space
// that is not written yet, as fallocate(2) with FALLOC_FL_ZERO_RANGE does.
func (e *Editor) ZeroRange(ctx context.Context, path string, off, n int64, keepSize bool) error {
	sub, ino, err := e.at(ctx, path)
	if err == nil && (off < 0 || n <= 0) {
		err = syscall.EINVAL
	}
	if err == nil {
		err = e.fs.w.ZeroRange(ctx, sub, ino, uint64(off), uint64(n), keepSize)
	}
	if err == nil {
		err = e.fs.w.DropPrivileges(ctx, sub, ino, false)
	}
	return pathError("zero a range of", path, err)
}

// PunchHole makes a range of a regular file read as zeros and gives its space
// back.
func (e *Editor) PunchHole(ctx context.Context, path string, off, n int64) error {
	sub, ino, err := e.at(ctx, path)
	if err == nil && (off < 0 || n <= 0) {
		err = syscall.EINVAL
	}
	if err == nil {
		err = e.fs.w.PunchHole(ctx, sub, ino, uint64(off), uint64(n))
	}
	if err == nil {
		err = e.fs.w.DropPrivileges(ctx, sub, ino, false)
	}
	return pathError("punch hole in", path, err)
}
