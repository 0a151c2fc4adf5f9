package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
)

// Found is a device with a btrfs superblock that Scan came across.
type Found struct {
	Path  string
	Super *disk.Superblock // the newest valid copy; must not be changed
}

// Scan looks at every regular file and block device in dir, but not in its
// subdirectories, and returns those that have a superblock, in the order of
// their names. What cannot be opened or read is passed over: /dev is full of
// devices without a medium.
func Scan(ctx context.Context, dir string) ([]Found, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []Found
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		path := filepath.Join(dir, e.Name())
		fi, err := os.Stat(path) // follows links: /dev/disk/by-id is made of them
		if err != nil || !scannable(fi.Mode()) {
			continue
		}
		if sb := superOf(path); sb != nil {
			out = append(out, Found{Path: path, Super: sb})
		}
	}
	return out, nil
}

// scannable leaves out what blocks or has side effects when it is opened.
func scannable(m fs.FileMode) bool {
	return m.IsRegular() || m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
}

func superOf(path string) *disk.Superblock {
	d, err := blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: true})
	if err != nil {
		return nil
	}
	defer d.Close()
	return newestCopy(ReadSuperCopies(d))
}

// Members picks from what Scan found the other devices of the filesystem that
// first belongs to: its members, and the devices of the seeds under it, which
// only the chunk tree names. So it opens what was found, for reading, and
// closes it again. The device that first is, found under whatever name, is not
// among the result.
func Members(ctx context.Context, first blockdev.Device, found []Found) (paths []string, err error) {
	devs := []blockdev.Device{first}
	defer func() {
		for _, d := range devs[1:] {
			err = errors.Join(err, d.Close())
		}
	}()
	for _, f := range found {
		d, err := blockdev.OpenFile(f.Path, blockdev.FileOptions{ReadOnly: true})
		if err != nil {
			return nil, err
		}
		devs = append(devs, d)
	}
	v, err := Open(ctx, devs, Options{Degraded: true})
	if err != nil {
		return nil, err
	}
	for _, d := range v.devices {
		if d.dev != nil && d.dev != first {
			paths = append(paths, d.name)
		}
	}
	return paths, nil
}
