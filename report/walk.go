package report

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"syscall"

	"gobtrfs"
	"gobtrfs/disk"
)

// Node is one file that Walk comes to.
type Node struct {
	Path string      // below the top, "" for the top itself
	File *btrfs.File // nil together with an error about opening it
}

// ErrLoop says that a directory has been reached by two ways. In a sound
// filesystem it has one name; Walk does not enter it again, so that a circle
// ends.
var ErrLoop = fmt.Errorf("directory is reached twice: %w", syscall.ELOOP)

// ErrBadName says that a name cannot be the name of a file: it would lead out of
// its directory.
var ErrBadName = fmt.Errorf("name is not allowed in a directory: %w", btrfs.ErrCorrupt)

// Walk goes over top and everything below it, depth first, names in byte order.
// An error is about the path that comes with it; the walk goes on after it if
// the caller does. Memory: the entries of the directories on the way down, and
// one small record for each directory.
func Walk(ctx context.Context, top *btrfs.File) iter.Seq2[Node, error] {
	return func(yield func(Node, error) bool) {
		w := walk{ctx: ctx, yield: yield, seen: map[inode]struct{}{}}
		w.visit(top, "")
	}
}

// CheckName refuses names that would lead anywhere but into their directory.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return ErrBadName
	}
	return nil
}

// inode names a file within the filesystem.
type inode struct {
	tree, ino disk.ObjectID
}

type walk struct {
	ctx   context.Context
	yield func(Node, error) bool
	seen  map[inode]struct{} // directories
}

// visit yields f and all below it, and says whether to go on.
func (w *walk) visit(f *btrfs.File, path string) bool {
	dir := f.Mode().IsDir()
	if dir && !f.IsStub() {
		id := inode{f.Subvolume().ID(), f.Ino()}
		if _, again := w.seen[id]; again {
			return w.yield(Node{path, f}, &fs.PathError{Op: "read directory", Path: path, Err: ErrLoop})
		}
		w.seen[id] = struct{}{}
	}
	if !w.yield(Node{path, f}, nil) {
		return false
	}
	if !dir {
		return true
	}
	entries, err := Entries(w.ctx, f)
	if err != nil && !w.yield(Node{path, f}, &fs.PathError{Op: "read directory", Path: path, Err: err}) {
		return false
	}
	for i := range entries {
		sub := entries[i].Name
		if path != "" {
			sub = path + "/" + sub
		}
		child, err := openEntry(w.ctx, f, &entries[i])
		if err != nil {
			if !w.yield(Node{Path: sub}, &fs.PathError{Op: "open", Path: sub, Err: err}) {
				return false
			}
			continue
		}
		if !w.visit(child, sub) {
			return false
		}
	}
	return true
}

func openEntry(ctx context.Context, dir *btrfs.File, e *btrfs.DirEntry) (*btrfs.File, error) {
	if err := CheckName(e.Name); err != nil {
		return nil, err
	}
	return dir.OpenEntry(ctx, e)
}

// Entries lists a directory, names in byte order. With an error come those
// entries that could be read.
func Entries(ctx context.Context, dir *btrfs.File) ([]btrfs.DirEntry, error) {
	var entries []btrfs.DirEntry
	var err error
	for e, rerr := range dir.ReadDir(ctx, 0) {
		if rerr != nil {
			err = rerr
			break
		}
		entries = append(entries, *e)
	}
	slices.SortFunc(entries, func(a, b btrfs.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	return entries, err
}
