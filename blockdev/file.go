package blockdev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// FileOptions says how OpenFile opens.
type FileOptions struct {
	// ReadOnly opens for reading; writes and discards fail with ErrReadOnly.
	// Default: read and write.
	ReadOnly bool
	// Create makes a regular file where there is none. Default: it must exist.
	Create bool
	// Truncate drops a regular file's contents first. It needs Size.
	// Default: keep them.
	Truncate bool
	// Size is the size in bytes that a regular file gets when it is shorter,
	// or was made or truncated. On a block device whose size the system does
	// not tell it is taken as the size. Default: 0, as it is.
	Size int64
	// NoLock leaves out what keeps writers apart: the lock that two of one
	// regular file meet, the look whether Linux has the file mounted through a
	// loop device, and the exclusive open of a block device, which fails while
	// it is mounted. Default: kept apart when open for writing.
	NoLock bool
}

// errLocked is why a file is not opened for writing twice.
var errLocked = errors.New("another program has it open for writing")

// File is a regular file or a block device.
type File struct {
	f        *os.File
	size     int64
	readOnly bool
	block    bool
	locked   bool
}

var _ Device = (*File)(nil)

// OpenFile opens the regular file or block device at path.
func OpenFile(path string, o FileOptions) (*File, error) {
	if o.ReadOnly && (o.Create || o.Truncate || o.Size != 0) {
		return nil, fmt.Errorf("open %s: cannot create or resize for reading only", path)
	}
	if o.Size < 0 {
		return nil, fmt.Errorf("open %s: negative size %d", path, o.Size)
	}
	flags := os.O_RDWR
	if o.ReadOnly {
		flags = os.O_RDONLY
	}
	if o.Create {
		flags |= os.O_CREATE
	}
	if !o.ReadOnly && !o.NoLock && isBlockPath(path) {
		flags |= exclusiveFlag
	}
	f, err := os.OpenFile(path, flags, 0o666)
	if err != nil {
		return nil, err
	}
	d := &File{f: f, readOnly: o.ReadOnly}
	if err := d.prepare(o); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// isBlockPath says whether path is a device node. It decides only about the
// exclusive flag; what was opened is looked at again afterwards.
func isBlockPath(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode()&fs.ModeDevice != 0
}

// prepare finds the size, and locks and resizes as asked.
func (d *File) prepare(o FileOptions) error {
	fi, err := d.f.Stat()
	if err != nil {
		return err
	}
	switch mode := fi.Mode(); {
	case mode&fs.ModeDevice != 0:
		d.block = true
		d.size, err = blockSize(d.f)
		if err != nil && o.Size > 0 && errors.Is(err, errors.ErrUnsupported) {
			d.size, err = o.Size, nil
		}
		if err != nil {
			return fmt.Errorf("size of %s: %w", d.f.Name(), err)
		}
		return nil
	case !mode.IsRegular():
		return fmt.Errorf("open %s: neither a regular file nor a block device", d.f.Name())
	}
	if !o.ReadOnly && !o.NoLock {
		if err := lockFile(d.f); err != nil {
			return fmt.Errorf("open %s: %w", d.f.Name(), err)
		}
		d.locked = true
		if loop := mountedThrough(fi); loop != "" {
			return fmt.Errorf("open %s: mounted through %s: %w", d.f.Name(), loop, syscall.EBUSY)
		}
	}
	d.size = fi.Size()
	if o.Truncate {
		if err := d.f.Truncate(0); err != nil {
			return err
		}
		d.size = 0
	}
	if d.size < o.Size {
		if err := d.f.Truncate(o.Size); err != nil {
			return err
		}
		d.size = o.Size
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (d *File) ReadAt(p []byte, off int64) (int, error) {
	n, err := clampRead(d.f.Name(), off, len(p), d.size)
	if n == 0 {
		return 0, err
	}
	got, readErr := d.f.ReadAt(p[:n], off)
	if got < n {
		if readErr == io.EOF {
			// The file is shorter than when it was opened.
			readErr = io.ErrUnexpectedEOF
		}
		return got, readErr
	}
	return got, err
}

// WriteAt implements io.WriterAt.
func (d *File) WriteAt(p []byte, off int64) (int, error) {
	if d.readOnly {
		return 0, fmt.Errorf("write %s: %w", d.f.Name(), ErrReadOnly)
	}
	if err := checkRange(d.f.Name(), "write", off, int64(len(p)), d.size); err != nil {
		return 0, err
	}
	return d.f.WriteAt(p, off)
}

// Discard punches a hole in a file and discards on a block device.
func (d *File) Discard(off, n int64) error {
	if d.readOnly {
		return fmt.Errorf("discard %s: %w", d.f.Name(), ErrReadOnly)
	}
	if err := checkRange(d.f.Name(), "discard", off, n, d.size); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	if err := discard(d.f, d.block, off, n); err != nil {
		return &os.PathError{Op: "discard", Path: d.f.Name(), Err: err}
	}
	return nil
}

// Sync flushes the file and the device below it.
func (d *File) Sync() error {
	if d.readOnly {
		return nil
	}
	if err := syncData(d.f); err != nil {
		return &os.PathError{Op: "sync", Path: d.f.Name(), Err: err}
	}
	return nil
}

// Size is the size in bytes.
func (d *File) Size() int64 { return d.size }

// Close closes the file; it does not flush.
func (d *File) Close() error {
	var err error
	if d.locked {
		err = unlockFile(d.f)
	}
	return errors.Join(err, d.f.Close())
}

// Name is the path.
func (d *File) Name() string { return d.f.Name() }

// IsBlock says whether the file is a block device.
func (d *File) IsBlock() bool { return d.block }
