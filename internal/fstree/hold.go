package fstree

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// holds counts the handles of inodes that are open. An inode that is held
// outlives its last name as an orphan: after a crash whoever opens the
// filesystem next evicts it. A subvolume that is deleted while inodes in it are
// held is dropped with the last of them.
type holds struct {
	mu      sync.Mutex // no I/O under it
	inodes  map[holdKey]*hold
	subvols map[disk.ObjectID]*subvolHold
}

type holdKey struct{ sub, ino disk.ObjectID }

type hold struct {
	n        int
	linkable bool // may be given a name although it has none (O_TMPFILE)
}

type subvolHold struct {
	n       int  // inodes held
	deleted bool // to be dropped when n is 0
}

func (h *holds) has(sub, ino disk.ObjectID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inodes[holdKey{sub, ino}] != nil
}

func (h *holds) linkable(sub, ino disk.ObjectID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.inodes[holdKey{sub, ino}]
	return o != nil && o.linkable
}

func (h *holds) inSubvol(sub disk.ObjectID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.subvols[sub] != nil
}

func (h *holds) add(sub, ino disk.ObjectID, linkable bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := holdKey{sub, ino}
	if h.inodes[k] == nil {
		h.inodes[k] = &hold{linkable: linkable}
		if h.subvols[sub] == nil {
			h.subvols[sub] = &subvolHold{}
		}
		h.subvols[sub].n++
	}
	h.inodes[k].n++
}

// deferDrop says whether the drop of a subvolume must wait for handles.
func (h *holds) deferDrop(sub disk.ObjectID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.subvols[sub]
	if s != nil {
		s.deleted = true
	}
	return s != nil
}

// remove takes a handle away, and says whether it was the inode's last, and
// whether the subvolume is now to be dropped.
func (h *holds) remove(sub, ino disk.ObjectID) (last, drop bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := holdKey{sub, ino}
	o := h.inodes[k]
	if o == nil {
		return false, false
	}
	if o.n--; o.n > 0 {
		return false, false
	}
	delete(h.inodes, k)
	s := h.subvols[sub]
	if s.n--; s.n == 0 {
		delete(h.subvols, sub)
		drop = s.deleted
	}
	return true, drop
}

// Hold keeps an inode alive until Release, even without a name. It counts.
// The error wraps ENOENT if the inode is gone already.
func (w *Writer) Hold(ctx context.Context, sub, ino disk.ObjectID) error {
	return w.tx.Look(ctx, func(ctx context.Context) error {
		e, err := w.edit(ctx, sub)
		if err != nil {
			return err
		}
		item, err := e.inode(ctx, ino)
		if err != nil {
			return err
		}
		if item.Nlink == 0 && !w.holds.has(sub, ino) {
			return fmt.Errorf("inode %d was removed: %w", uint64(ino), syscall.ENOENT)
		}
		w.holds.add(sub, ino, false)
		return nil
	})
}

// Release ends a Hold. The last one of an inode without names removes it, and
// the last one in a deleted subvolume drops that.
func (w *Writer) Release(ctx context.Context, sub, ino disk.ObjectID) error {
	last, drop := w.holds.remove(sub, ino)
	switch {
	case drop:
		return w.dropSubvol(ctx, sub)
	case !last:
		return nil
	}
	gone := false
	err := w.tx.Look(ctx, func(ctx context.Context) error {
		e, err := w.edit(ctx, sub)
		if err != nil {
			return err
		}
		item, err := e.inode(ctx, ino)
		// Held again meanwhile: that handle's Release comes back here.
		gone = err == nil && item.Nlink == 0 && !w.holds.has(sub, ino)
		return err
	})
	if errors.Is(err, syscall.ENOENT) {
		return nil // with its subvolume
	}
	if err != nil || !gone {
		return err
	}
	return w.Evict(ctx, sub, ino)
}

// KeepRemoved has keep asked about every inode that loses its last name: if it
// says so the inode is held, as by one Hold. That serves those who know which
// inodes are in use without a Hold for each. keep runs within an operation and
// must not call the Writer.
//
// REQUIRES: that no operation runs.
func (w *Writer) KeepRemoved(keep func(sub, ino disk.ObjectID) bool) { w.keep = keep }

// outlives says whether an inode without names must stay.
func (w *Writer) outlives(sub, ino disk.ObjectID) bool {
	if w.keep != nil && w.keep(sub, ino) {
		w.holds.add(sub, ino, false)
		return true
	}
	return w.holds.has(sub, ino)
}

// Tmpfile makes a regular file without a name, as open(2) with O_TMPFILE does
// in directory dir, from which it inherits. It is held once. If linkable is
// set, Link can give it a name; else it goes with Release at the latest.
func (w *Writer) Tmpfile(ctx context.Context, sub, dir disk.ObjectID, a Attr, linkable bool) (ino disk.ObjectID, err error) {
	if a.Mode&modeType != modeReg {
		return 0, fmt.Errorf("mode %o: %w", a.Mode, syscall.EINVAL)
	}
	err = w.do(ctx, sub, itemsCreate, space.ClassNormal, func(ctx context.Context, e *edit) error {
		parent, err := e.directory(ctx, dir)
		if err != nil {
			return err
		}
		if err := mayChange(dir, &parent, false); err != nil {
			return err
		}
		inherited, err := e.heritage(ctx, dir, dir)
		if err != nil {
			return err
		}
		if ino, err = e.newIno(ctx); err != nil {
			return err
		}
		item := e.newInode(&parent, a)
		item.Nlink = 0
		if err := e.insertInode(ctx, ino, &item, inherited, a.Umask); err != nil {
			return err
		}
		if err := e.t.Insert(ctx, orphanKey(ino), nil); err != nil {
			return err
		}
		e.touchRoot()
		w.holds.add(sub, ino, linkable)
		return nil
	})
	return ino, err
}
