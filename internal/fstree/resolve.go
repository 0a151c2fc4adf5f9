package fstree

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"gobtrfs/disk"
)

// Place is where a path leads in the running transaction.
type Place struct {
	Sub  disk.ObjectID // subvolume that the name is in
	Dir  disk.ObjectID // directory that the name is in; 0 for a top directory
	Name []byte
	// What has the name; Ino is 0 if nothing does. The top directory of a
	// nested subvolume is inode 256 of Child.
	Ino   disk.ObjectID
	Type  uint8 // disk.FtRegFile …
	Child disk.ObjectID
	// Stub: an empty directory stands for a subvolume that a snapshot did not
	// take along. Ino is disk.EmptySubvolDir, which is no inode.
	Stub bool
}

// Exists says whether something has the name.
func (p *Place) Exists() bool { return p.Ino != 0 }

// Entry is the name, which need not exist.
func (p *Place) Entry() Entry { return Entry{Sub: p.Sub, Dir: p.Dir, Name: p.Name} }

// Missing is the error of a place that must exist and does not.
func (p *Place) Missing() error {
	if len(p.Name) > disk.MaxNameLen {
		return fmt.Errorf("name of %d bytes: %w", len(p.Name), syscall.ENAMETOOLONG)
	}
	return syscall.ENOENT
}

// Target is the inode that the path leads to, and its subvolume.
func (p *Place) Target() (sub, ino disk.ObjectID) {
	if p.Child != 0 {
		return p.Child, disk.RootDirObjectID
	}
	return p.Sub, p.Ino
}

// splitPath is the names in a path.
func splitPath(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}

// Resolve follows a path from the top directory of a subvolume. Its last
// component need not exist; those before must be directories. Symbolic links
// are not followed.
func (w *Writer) Resolve(ctx context.Context, sub disk.ObjectID, path string) (Place, error) {
	p := Place{Sub: sub, Ino: disk.RootDirObjectID, Type: disk.FtDir}
	err := w.tx.Look(ctx, func(ctx context.Context) error {
		e, err := w.edit(ctx, sub)
		if err != nil {
			return err
		}
		parts := splitPath(path)
		for i, part := range parts {
			switch {
			case !p.Exists():
				return fmt.Errorf("%q: %w", strings.Join(parts[:i], "/"), syscall.ENOENT)
			case p.Type != disk.FtDir:
				return fmt.Errorf("%q: %w", strings.Join(parts[:i], "/"), syscall.ENOTDIR)
			case len(part) > disk.MaxNameLen && i < len(parts)-1:
				return fmt.Errorf("name of %d bytes: %w", len(part), syscall.ENAMETOOLONG)
			}
			if e, err = w.step(ctx, e, &p, []byte(part)); err != nil {
				return err
			}
		}
		return nil
	})
	return p, err
}

// step goes from a directory to one of its names.
func (w *Writer) step(ctx context.Context, e *edit, p *Place, name []byte) (*edit, error) {
	dir := p.Ino
	if p.Child != 0 {
		var err error
		if e, err = w.edit(ctx, p.Child); err != nil {
			return nil, err
		}
		dir = disk.RootDirObjectID
	}
	stub := p.Stub
	var d disk.DirItem
	var ok bool
	if !stub {
		var err error
		if d, ok, err = e.lookup(ctx, dir, name); err != nil {
			return nil, err
		}
	}
	*p = Place{Sub: e.t.ID(), Dir: dir, Name: name}
	if !ok {
		return e, nil
	}
	p.Type, p.Ino = d.Type, d.Location.ObjectID
	if d.Location.Type == disk.KeyRootItem {
		stub, err := e.isStub(ctx, d.Location.ObjectID)
		if err != nil {
			return nil, err
		}
		if p.Stub = stub; stub {
			p.Ino = disk.EmptySubvolDir
		} else {
			p.Ino, p.Child = disk.RootDirObjectID, d.Location.ObjectID
		}
	}
	return e, nil
}
