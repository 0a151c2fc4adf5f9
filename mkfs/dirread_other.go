//go:build !linux && !darwin && !freebsd

package mkfs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gobtrfs/disk"
)

func statTop(root string) (found, error) {
	fi, err := os.Stat(root)
	if err != nil {
		return found{}, err
	}
	return fromInfo(fi), nil
}

func readDir(root, rel string, m *mapping) ([]found, error) {
	dir := filepath.Join(root, filepath.FromSlash(rel))
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []found
	for _, d := range list {
		if m.excluded(joinRel(rel, d.Name())) {
			continue
		}
		fi, err := d.Info()
		if err != nil {
			return nil, err
		}
		e := fromInfo(fi)
		if fi.Mode()&fs.ModeSymlink != 0 {
			if e.target, err = os.Readlink(filepath.Join(dir, d.Name())); err != nil {
				return nil, err
			}
			e.target = filepath.ToSlash(e.target)
		}
		out = append(out, e)
	}
	return out, nil
}

// fromInfo describes a file where the system has no owners, attributes or link
// counts for us.
func fromInfo(fi fs.FileInfo) found {
	at := disk.Time{Sec: fi.ModTime().Unix(), Nsec: uint32(fi.ModTime().Nanosecond())}
	e := found{name: fi.Name(), nlink: 1, times: times{at, at, at}}
	e.i = inode{mode: fsMode(fi.Mode()), sec: at.Sec, nsec: at.Nsec}
	if e.i.isRegular() {
		e.i.size = fi.Size()
	}
	return e
}

// keyOf cannot tell files apart here: the zero key is that of no file.
func keyOf(fs.FileInfo) fileKey { return fileKey{} }

type dirOpener struct{ root string }

func (o *dirOpener) session() session { return dirSession{o.root} }

type dirSession struct{ root string }

func (dirSession) close() error { return nil }

func (s dirSession) open(t *tree, id inodeID) (content, error) {
	f, err := os.Open(filepath.Join(s.root, filepath.FromSlash(t.pathOf(id))))
	if err != nil {
		return nil, err
	}
	return fileContent{f, disk.Time{Sec: t.inodes[id].sec, Nsec: t.inodes[id].nsec}}, nil
}

type fileContent struct {
	*os.File
	mtime disk.Time // when it was listed
}

func (fileContent) xattrs() ([]xattr, error) { return nil, nil }

func (c fileContent) check(size int64) error {
	fi, err := c.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || fi.Size() != size {
		return fmt.Errorf("%w: it had %d bytes and has %d", ErrChanged, size, fi.Size())
	}
	if e := fromInfo(fi); e.i.sec != c.mtime.Sec || e.i.nsec != c.mtime.Nsec {
		return fmt.Errorf("%w: it was written to", ErrChanged)
	}
	return nil
}
