package mkfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"gobtrfs/blockdev"
)

// target is one image file or block device of MakeFiles.
type target struct {
	path  string
	tmp   string // a new file's name until it is whole; "" when made in place
	mode  fs.FileMode
	size  int64       // that a file which is made in place shall get; 0: what it has
	info  fs.FileInfo // of what is there
	dev   *blockdev.File
	exist bool
}

// MakeFiles is Make on files by their paths. A file that is not there is made with
// size bytes, under a temporary name that it loses when it is complete. A file
// that is there keeps its size unless size says otherwise. With Shrink the size
// of a file follows from the contents alone, and size, if not 0, is a limit; files
// are then always made anew. On a block device size limits how much of it is used.
// A file that is there and lies in the directory that Dir reads is left out of it.
func MakeFiles(ctx context.Context, paths []string, size uint64, o Options) (_ *Result, err error) {
	targets, err := findTargets(paths, size, o)
	if err != nil {
		return nil, err
	}
	own := map[fileKey]bool{}
	for _, t := range targets {
		if t.exist {
			if k := keyOf(t.info); k != (fileKey{}) {
				own[k] = true
			}
		}
	}
	m, err := prepare(ctx, len(paths), o, own)
	if err != nil {
		return nil, err
	}
	defer m.tree.close() //nolint:errcheck // opened for reading
	defer func() {
		for _, t := range targets {
			err = errors.Join(err, t.abandon())
		}
	}()
	room := size
	if m.plan.Shrink {
		// Room for the worst case; the file is sparse and cut off at the end.
		room = roundUp(m.bounds.data*33/32+4*m.bounds.meta+2*m.plan.Free, gib)*uint64(2+len(paths)) + 4*gib + m.plan.Slack
	}
	var devs []blockdev.Device
	for _, t := range targets {
		if err := t.open(int64(room)); err != nil {
			return nil, err
		}
		if size != 0 && t.tmp == "" {
			m.plan.ByteCount = min(size, uint64(t.dev.Size()))
		}
		devs = append(devs, t.dev)
	}
	r, err := m.make(ctx, devs)
	if err != nil {
		return nil, err
	}
	for i := range targets {
		if m.plan.Shrink && size != 0 && r.DeviceSizes[i] > size {
			return nil, &SizeError{Have: size, Need: r.DeviceSizes[i], Err: ErrNoSpace}
		}
	}
	for i, t := range targets {
		if err := t.keep(m.plan.Shrink, int64(r.DeviceSizes[i])); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// findTargets looks at the paths without changing anything.
func findTargets(paths []string, size uint64, o Options) ([]*target, error) {
	var out []*target
	for i, p := range paths {
		if slices.Contains(paths[:i], p) {
			return nil, &OptionError{fmt.Errorf("%s is named twice", p)}
		}
		t := &target{path: p, mode: 0o666}
		fi, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if size == 0 && !o.Shrink {
				return nil, &OptionError{fmt.Errorf("%s does not exist, and there is no size to make it with", p)}
			}
		case err != nil:
			return nil, err
		default:
			t.exist, t.mode, t.info = true, fi.Mode(), fi
			if err := t.inspect(o.Force); err != nil {
				return nil, err
			}
		}
		if !t.exist || (o.Shrink && t.mode.IsRegular()) {
			real, err := realPath(p)
			if err != nil {
				return nil, err
			}
			t.path = real
			t.tmp = filepath.Join(filepath.Dir(real), fmt.Sprintf(".%s.%d.tmp", filepath.Base(real), os.Getpid()))
		} else if size != 0 && t.mode.IsRegular() {
			t.size = int64(size)
		}
		out = append(out, t)
	}
	return out, nil
}

// realPath follows symbolic links at the end of a path, so that a rename replaces
// the file and not the link.
func realPath(p string) (string, error) {
	real, err := filepath.EvalSymlinks(p)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	return real, err
}

// inspect refuses what already holds something.
func (t *target) inspect(force bool) error {
	if force {
		return nil
	}
	d, err := blockdev.OpenFile(t.path, blockdev.FileOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	return errors.Join(refuseUsed(d), d.Close())
}

func (t *target) open(room int64) (err error) {
	if t.tmp == "" {
		t.dev, err = blockdev.OpenFile(t.path, blockdev.FileOptions{Size: t.size})
		return err
	}
	t.dev, err = blockdev.OpenFile(t.tmp, blockdev.FileOptions{Create: true, Truncate: true, Size: room})
	return err
}

// keep gives a finished file its size and name.
func (t *target) keep(shrink bool, size int64) error {
	d := t.dev
	t.dev = nil
	if err := d.Close(); err != nil {
		return err
	}
	if t.tmp == "" {
		// Only now: until here an error leaves a file that is there its length.
		if t.size != 0 && t.size < t.info.Size() {
			return os.Truncate(t.path, t.size)
		}
		return nil
	}
	if shrink {
		if err := os.Truncate(t.tmp, size); err != nil {
			return err
		}
	}
	if t.exist {
		if err := os.Chmod(t.tmp, t.mode.Perm()); err != nil {
			return err
		}
	}
	if err := os.Rename(t.tmp, t.path); err != nil {
		return err
	}
	t.tmp = ""
	return syncDir(filepath.Dir(t.path))
}

// abandon removes what is not finished.
func (t *target) abandon() (err error) {
	if t.dev != nil {
		err = t.dev.Close()
		t.dev = nil
	}
	if t.tmp != "" {
		if e := os.Remove(t.tmp); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// syncDir makes a rename durable, where directories can be synced.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return nil //nolint:nilerr // not readable, so nothing to be done
	}
	defer d.Close() //nolint:errcheck // opened for reading
	if err := d.Sync(); err != nil && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, errors.ErrUnsupported) {
		return nil //nolint:nilerr // some filesystems cannot; the file itself is durable
	}
	return nil
}
