package fstree

import (
	"context"
	"fmt"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// Entry is a name in a directory of a subvolume.
type Entry struct {
	Sub, Dir disk.ObjectID
	Name     []byte
}

// RenameFlags are those of renameat2(2), with its values.
type RenameFlags uint32

// What renameat2(2) can be asked for.
const (
	RenameNoReplace RenameFlags = 1 << iota // the new name must not exist (EEXIST)
	RenameExchange                          // both names must exist, and swap what they name
	RenameWhiteout                          // the old name becomes a whiteout: a character device 0:0
)

// Check refuses flags that rename(2) does not know, or not together (EINVAL).
func (f RenameFlags) Check() error {
	const known = RenameNoReplace | RenameExchange | RenameWhiteout
	if f&^known != 0 || f&RenameExchange != 0 && f != RenameExchange {
		return fmt.Errorf("rename flags %#x: %w", uint32(f), syscall.EINVAL)
	}
	return nil
}

// RenameArgs is what Rename needs to know.
type RenameArgs struct {
	From, To Entry
	Flags    RenameFlags
	UID, GID uint32 // who owns the whiteout
}

// Rename moves a name to another place. What had the new name is replaced, as
// rename(2) says, unless a flag says otherwise. Between subvolumes only the
// names of subvolumes move (EXDEV).
func (w *Writer) Rename(ctx context.Context, a RenameArgs) error {
	if err := a.Flags.Check(); err != nil {
		return err
	}
	var rest disk.ObjectID
	err := w.tx.Do(ctx, itemsName*2+itemsCreate+itemsRemove, space.ClassNormal, func(ctx context.Context) error {
		e, err := w.edit(ctx, a.From.Sub)
		if err != nil {
			return err
		}
		m := move{from: side{edit: e, dir: a.From.Dir, name: a.From.Name}, to: side{edit: e, dir: a.To.Dir, name: a.To.Name}, args: &a}
		if a.To.Sub != a.From.Sub {
			if m.to.edit, err = w.edit(ctx, a.To.Sub); err != nil {
				return err
			}
		}
		err = m.check(ctx)
		if err != nil || m.same {
			return err
		}
		rest, err = m.run(ctx)
		return err
	})
	if err != nil || rest == 0 {
		return err
	}
	return w.Evict(ctx, a.To.Sub, rest)
}

// side is one of the two names of a rename.
type side struct {
	*edit
	dir    disk.ObjectID
	name   []byte
	parent *disk.InodeItem // the directory's inode; one and the same for both sides if the directory is
	what   disk.DirItem    // what has the name
	exists bool
	stub   bool   // what has the name stands for a subvolume that is not here
	index  uint64 // of the entry that addName makes
}

// isSubvol says whether the name is that of a subvolume, or of a stub of one.
func (s *side) isSubvol() bool { return s.exists && s.what.Location.Type != disk.KeyInodeItem }

func (s *side) isDir() bool { return s.what.Type == disk.FtDir }

// object is the inode that has the name, and its subvolume.
func (s *side) object() (sub, ino disk.ObjectID) {
	if s.isSubvol() {
		return s.what.Location.ObjectID, disk.RootDirObjectID
	}
	return s.t.ID(), s.what.Location.ObjectID
}

// read looks up the name.
func (s *side) read(ctx context.Context) (err error) {
	if s.what, s.exists, err = s.lookup(ctx, s.dir, s.name); err == nil && s.isSubvol() {
		s.stub, err = s.isStub(ctx, s.what.Location.ObjectID)
	}
	return err
}

// mayMove fails if the inode that has the name must keep it.
func (s *side) mayMove(ctx context.Context) error {
	if err := s.mayEdit(); err != nil {
		return err
	}
	if err := mayChange(s.dir, s.parent, true); err != nil || s.stub {
		return err
	}
	e := s.edit
	if s.isSubvol() {
		top, err := s.w.edit(ctx, s.what.Location.ObjectID)
		if err != nil {
			return err
		}
		e = top
	}
	_, ino := s.object()
	item, err := e.inode(ctx, ino)
	if err == nil && item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0 {
		err = fmt.Errorf("%q is immutable: %w", s.name, syscall.EPERM)
	}
	return err
}

// mayChangeParent fails if what moves to another directory is a subvolume that
// is read-only.
func (s *side) mayChangeParent(ctx context.Context) error {
	if !s.isSubvol() || s.stub {
		return nil
	}
	_, err := s.w.editable(ctx, s.what.Location.ObjectID)
	return err
}

// move is a rename.
type move struct {
	from, to side
	args     *RenameArgs
	same     bool // both names are of one inode: nothing to do
}

func (m *move) exchange() bool { return m.args.Flags&RenameExchange != 0 }

// check reads everything and refuses what must not be, before any change.
func (m *move) check(ctx context.Context) error {
	from, err := m.from.directory(ctx, m.from.dir)
	if err != nil {
		return err
	}
	m.from.parent, m.to.parent = &from, &from
	sameDir := m.from.t.ID() == m.to.t.ID() && m.from.dir == m.to.dir
	if !sameDir {
		to, err := m.to.directory(ctx, m.to.dir)
		if err != nil {
			return err
		}
		m.to.parent = &to
	}
	if err := m.from.read(ctx); err != nil {
		return err
	}
	if err := m.to.read(ctx); err != nil {
		return err
	}
	switch {
	case !m.from.exists:
		return fmt.Errorf("%q: %w", m.from.name, (&Place{Name: m.from.name}).Missing())
	case checkName(m.to.name) != nil:
		return checkName(m.to.name)
	case m.to.exists && m.args.Flags&RenameNoReplace != 0:
		return fmt.Errorf("%q: %w", m.to.name, syscall.EEXIST)
	case !m.to.exists && m.exchange():
		return fmt.Errorf("%q: %w", m.to.name, syscall.ENOENT)
	}
	if !sameDir {
		if err := m.checkLoop(ctx); err != nil {
			return err
		}
	}
	if m.same = m.to.exists && m.from.t.ID() == m.to.t.ID() && m.from.what.Location == m.to.what.Location; m.same {
		return nil
	}
	if err := m.from.mayMove(ctx); err != nil {
		return err
	}
	if err := m.to.mayEdit(); err != nil {
		return err
	}
	if m.to.exists {
		err = m.checkOver(ctx)
	} else {
		err = mayChange(m.to.dir, m.to.parent, false)
	}
	if err == nil && !sameDir {
		// The top of a subvolume would have another "..".
		if err = m.from.mayChangeParent(ctx); err == nil && m.exchange() {
			err = m.to.mayChangeParent(ctx)
		}
	}
	if err == nil {
		err = m.checkSubvols()
	}
	if err == nil {
		err = m.checkEmpty(ctx)
	}
	if err == nil {
		err = m.checkRoom(ctx)
	}
	return err
}

// checkSubvols refuses to move between subvolumes, and to replace one.
func (m *move) checkSubvols() error {
	across := m.from.t.ID() != m.to.t.ID()
	switch {
	case across && (!m.from.isSubvol() || m.from.stub || m.exchange() && (!m.to.isSubvol() || m.to.stub)):
		return fmt.Errorf("from subvolume %d to %d: %w", uint64(m.from.t.ID()), uint64(m.to.t.ID()), syscall.EXDEV)
	case m.from.stub || m.to.stub && m.exchange():
		return fmt.Errorf("%q stands for a subvolume that is not here: %w", m.from.name, syscall.ENOTEMPTY)
	case m.to.isSubvol() && !m.to.stub && !m.exchange():
		return fmt.Errorf("%q is a subvolume: %w", m.to.name, syscall.ENOTEMPTY)
	}
	return nil
}

// checkRoom fails if an item that grows has no room.
func (m *move) checkRoom(ctx context.Context) error {
	if !m.to.exists {
		if err := m.to.roomForEntry(ctx, m.to.dir, m.to.name); err != nil {
			return err
		}
	}
	if !m.from.isSubvol() {
		if err := m.from.roomForRef(ctx, m.from.what.Location.ObjectID, m.to.dir, m.to.name); err != nil {
			return err
		}
	}
	if m.exchange() && !m.to.isSubvol() {
		return m.to.roomForRef(ctx, m.to.what.Location.ObjectID, m.from.dir, m.from.name)
	}
	return nil
}

// checkOver says whether what has the new name may go, or may swap.
func (m *move) checkOver(ctx context.Context) error {
	if m.exchange() {
		return m.to.mayMove(ctx)
	}
	if err := m.to.mayMove(ctx); err != nil {
		return err
	}
	switch {
	case m.from.isDir() && !m.to.isDir():
		return fmt.Errorf("%q: %w", m.to.name, syscall.ENOTDIR)
	case !m.from.isDir() && m.to.isDir():
		return fmt.Errorf("%q: %w", m.to.name, syscall.EISDIR)
	}
	return nil
}

// checkEmpty fails if a directory that is to be replaced holds something.
func (m *move) checkEmpty(ctx context.Context) error {
	if !m.to.exists || m.exchange() || m.to.isSubvol() || !m.to.isDir() {
		return nil
	}
	empty, err := m.to.isEmpty(ctx, m.to.what.Location.ObjectID)
	if err == nil && !empty {
		err = fmt.Errorf("%q: %w", m.to.name, syscall.ENOTEMPTY)
	}
	return err
}

// checkLoop fails if a directory would be moved into itself, or onto one that
// it is in.
func (m *move) checkLoop(ctx context.Context) error {
	if m.from.isDir() && !m.from.stub {
		sub, ino := m.from.object()
		if in, err := m.from.w.inside(ctx, m.to.t.ID(), m.to.dir, sub, ino); err != nil {
			return err
		} else if in {
			return fmt.Errorf("%q would be inside itself: %w", m.from.name, syscall.EINVAL)
		}
	}
	if m.to.exists && m.to.isDir() && !m.to.stub {
		sub, ino := m.to.object()
		if in, err := m.from.w.inside(ctx, m.from.t.ID(), m.from.dir, sub, ino); err != nil {
			return err
		} else if in && m.exchange() {
			return fmt.Errorf("%q would be inside itself: %w", m.to.name, syscall.EINVAL)
		} else if in {
			return fmt.Errorf("%q: %w", m.to.name, syscall.ENOTEMPTY)
		}
	}
	return nil
}

// inside says whether directory dir of subvolume sub is another one or
// somewhere below it, also through the names of subvolumes.
func (w *Writer) inside(ctx context.Context, sub, dir, otherSub, other disk.ObjectID) (bool, error) {
	for range maxDepth {
		if sub == otherSub && dir == other {
			return true, nil
		}
		if dir == disk.RootDirObjectID {
			it, ok, err := w.tx.RootTree().Ceil(ctx, disk.Key{ObjectID: sub, Type: disk.KeyRootBackref})
			if err != nil {
				return false, err
			}
			if !ok || it.Key.ObjectID != sub || it.Key.Type != disk.KeyRootBackref {
				return false, nil // the top level
			}
			ref, err := disk.ParseRootRef(it.Data)
			if err != nil {
				return false, w.base.corrupt(disk.TreeRoot, it.Key, err)
			}
			sub, dir = disk.ObjectID(it.Key.Offset), ref.DirID
			continue
		}
		e, err := w.edit(ctx, sub)
		if err != nil {
			return false, err
		}
		it, ok, err := e.t.Ceil(ctx, disk.Key{ObjectID: dir, Type: disk.KeyInodeRef})
		if err != nil {
			return false, err
		}
		if !ok || it.Key.ObjectID != dir || it.Key.Type != disk.KeyInodeRef {
			return false, e.corrupt(inodeKey(dir), fmt.Errorf("%w: directory without a name", disk.ErrFormat))
		}
		dir = disk.ObjectID(it.Key.Offset)
	}
	return false, syscall.ELOOP
}

// maxDepth bounds the walk to the top directory, which on a damaged filesystem
// might be a circle.
const maxDepth = 1 << 16

// run makes the change; the result is an inode to evict, 0 for none.
func (m *move) run(ctx context.Context) (rest disk.ObjectID, err error) {
	if m.to.exists && !m.exchange() {
		if m.to.stub {
			err = m.to.unlinkStub(ctx, m.to.dir, m.to.parent, m.to.name)
		} else {
			rest, err = m.to.unlink(ctx, m.to.dir, m.to.parent, m.to.what)
		}
		if err != nil {
			return 0, err
		}
	}
	if err := m.from.moveTo(ctx, &m.to); err != nil {
		return 0, err
	}
	if m.exchange() {
		if err := m.to.moveTo(ctx, &m.from); err != nil {
			return 0, err
		}
	}
	if err := m.to.addName(ctx, &m.from.what); err != nil {
		return 0, err
	}
	if m.exchange() {
		if err := m.from.addName(ctx, &m.to.what); err != nil {
			return 0, err
		}
	}
	if err := m.from.putInode(ctx, m.from.dir, m.from.parent); err != nil {
		return 0, err
	}
	if m.from.parent != m.to.parent {
		if err := m.to.putInode(ctx, m.to.dir, m.to.parent); err != nil {
			return 0, err
		}
	}
	if m.args.Flags&RenameWhiteout != 0 {
		_, err = m.from.create(ctx, m.from.dir, m.from.name, Attr{Mode: modeChar, UID: m.args.UID, GID: m.args.GID})
	}
	return rest, err
}

// moveTo takes the name away from its directory, and has what it names know
// the name of the other side instead. The entry there is for addName to make.
func (s *side) moveTo(ctx context.Context, to *side) (err error) {
	if to.index, err = to.newIndex(ctx, to.dir); err != nil {
		return err
	}
	var old uint64
	if s.isSubvol() {
		old, err = s.moveRootRef(ctx, s.what.Location.ObjectID, to)
	} else {
		old, err = s.moveRef(ctx, to)
	}
	if err != nil {
		return err
	}
	return s.removeEntry(ctx, s.dir, s.parent, s.name, old)
}

// addName enters what the other side named under this name.
func (s *side) addName(ctx context.Context, what *disk.DirItem) error {
	return s.addEntry(ctx, s.dir, s.parent, s.name, what.Location, what.Type, s.index)
}

// moveRef renames in the inode; the result is the old index.
func (s *side) moveRef(ctx context.Context, to *side) (old uint64, err error) {
	ino := s.what.Location.ObjectID
	k, old, err := s.findRef(ctx, ino, s.dir, s.name)
	if err != nil {
		return 0, err
	}
	if err := s.removeRef(ctx, k, s.dir, s.name); err != nil {
		return 0, err
	}
	if err := s.addRef(ctx, ino, to.dir, to.name, to.index); err != nil {
		return 0, err
	}
	item, err := s.inode(ctx, ino)
	if err != nil {
		return 0, err
	}
	item.Ctime = s.now
	return old, s.putInode(ctx, ino, &item)
}

// isStub says whether the entry of a subvolume in this one only stands for it:
// a snapshot took the entry along, not the subvolume.
func (e *edit) isStub(ctx context.Context, id disk.ObjectID) (bool, error) {
	down, _ := rootRefKeys(e.t.ID(), id)
	_, ok, err := e.w.tx.RootTree().Get(ctx, down)
	return !ok, err
}

// rootRef is what the root tree says of a subvolume's name in this one.
func (e *edit) rootRef(ctx context.Context, id disk.ObjectID) (disk.RootRef, error) {
	k := disk.Key{ObjectID: e.t.ID(), Type: disk.KeyRootRef, Offset: uint64(id)}
	data, ok, err := e.w.tx.RootTree().Get(ctx, k)
	if err != nil {
		return disk.RootRef{}, err
	}
	if !ok {
		return disk.RootRef{}, fmt.Errorf("subvolume %d is not here: %w", uint64(id), syscall.EINVAL)
	}
	ref, err := disk.ParseRootRef(data)
	if err != nil {
		return ref, e.w.base.corrupt(disk.TreeRoot, k, err)
	}
	return ref, nil
}

// moveRootRef renames a subvolume in the root tree; the result is the old
// index.
func (s *side) moveRootRef(ctx context.Context, id disk.ObjectID, to *side) (uint64, error) {
	old, err := s.rootRef(ctx, id)
	if err != nil {
		return 0, err
	}
	ref := disk.RootRef{DirID: to.dir, Sequence: to.index, Name: to.name}
	root := s.w.tx.RootTree()
	down, up := rootRefKeys(s.t.ID(), id)
	if err := root.Delete(ctx, down); err != nil {
		return 0, err
	}
	if err := root.Delete(ctx, up); err != nil {
		return 0, err
	}
	s.touchRoot()
	down, up = rootRefKeys(to.t.ID(), id)
	if err := root.Insert(ctx, down, ref.Append(nil)); err != nil {
		return 0, err
	}
	return old.Sequence, root.Insert(ctx, up, ref.Append(nil))
}
