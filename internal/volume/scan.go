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
// first belongs to: its members, and the devices of the seeds under it. The
// device at first's own place, found under whatever name, is not among them.
func Members(first blockdev.Device, found []Found) ([]string, error) {
	sb := newestCopy(ReadSuperCopies(first))
	if sb == nil {
		return nil, &DeviceError{Name: first.Name(), Op: "open", Err: ErrNotBtrfs}
	}
	seeds, err := seedKeys(sb)
	if err != nil {
		return nil, err
	}
	// One device of a seed stands in the system chunks; the rest of that seed
	// has the same fsid.
	seedFSIDs := make(map[disk.UUID]bool)
	for i := range found {
		f := found[i].Super
		if seeds[deviceKey{f.DevItem.DevID, f.DevItem.UUID}] && !sameFilesystem(sb, f) {
			seedFSIDs[f.FSID] = true
		}
	}
	var out []string
	for i := range found {
		f := found[i].Super
		if !sameFilesystem(sb, f) && !seedFSIDs[f.FSID] {
			continue
		}
		if f.DevItem.DevID == sb.DevItem.DevID && f.DevItem.UUID == sb.DevItem.UUID {
			same, err := sameFile(first.Name(), found[i].Path)
			if err != nil {
				return nil, err
			}
			if same {
				continue
			}
		}
		out = append(out, found[i].Path)
	}
	return out, nil
}

// seedKeys is every device that the system chunks name.
func seedKeys(sb *disk.Superblock) (map[deviceKey]bool, error) {
	system, err := sb.SystemChunks()
	if err != nil {
		return nil, &CorruptError{Tree: disk.TreeChunk, What: "system chunk array", Err: err}
	}
	out := make(map[deviceKey]bool)
	for _, c := range system {
		for _, s := range c.Stripes {
			out[deviceKey{s.DevID, s.DevUUID}] = true
		}
	}
	return out, nil
}

// sameFile says whether two names lead to one file. A device without a file
// behind its name (a section, memory) is the same as none.
func sameFile(a, b string) (bool, error) {
	fa, err := os.Stat(a)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	fb, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(fa, fb), nil
}
