package blockdev

import "fmt"

// Section is the window of size bytes at off of d: the device of a filesystem
// that lies inside a disk image. Closing it closes d.
func Section(d Device, off, size int64) (Device, error) {
	if err := checkRange(d.Name(), "section of", off, size, d.Size()); err != nil {
		return nil, err
	}
	return &section{d: d, off: off, size: size, name: fmt.Sprintf("%s@%d", d.Name(), off)}, nil
}

type section struct {
	d         Device
	off, size int64
	name      string
}

func (s *section) ReadAt(p []byte, off int64) (int, error) {
	n, err := clampRead(s.name, off, len(p), s.size)
	if n == 0 {
		return 0, err
	}
	got, readErr := s.d.ReadAt(p[:n], s.off+off)
	if got < n {
		return got, readErr
	}
	return got, err
}

func (s *section) WriteAt(p []byte, off int64) (int, error) {
	if err := checkRange(s.name, "write", off, int64(len(p)), s.size); err != nil {
		return 0, err
	}
	return s.d.WriteAt(p, s.off+off)
}

func (s *section) Discard(off, n int64) error {
	if err := checkRange(s.name, "discard", off, n, s.size); err != nil {
		return err
	}
	return s.d.Discard(s.off+off, n)
}

func (s *section) Size() int64  { return s.size }
func (s *section) Sync() error  { return s.d.Sync() }
func (s *section) Close() error { return s.d.Close() }
func (s *section) Name() string { return s.name }
