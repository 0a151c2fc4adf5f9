package mkfs

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"gobtrfs/disk"
)

// subvolume is one file tree that will be written.
type subvolume struct {
	id       disk.ObjectID
	top      inodeID
	inodes   []inodeID // by inode number, from 257
	path     string
	readOnly bool
	isDflt   bool
	// parent is the subvolume whose directory entry at leads here; the
	// top-level one has none.
	parent uint16
	at     nameID
}

// firstIno is the number of a subvolume's top directory.
const firstIno = uint64(disk.RootDirObjectID)

// number puts everything into its canonical order. Within a subvolume the
// entries of a directory get consecutive inode numbers in the byte order of their
// names, then the same is done for each directory among them, in that order. So
// both a listing and a walk go forward through the tree and the data.
func (t *tree) number(subvols []*subvolume) error {
	t.index = nil
	t.order = make([]nameID, 0, len(t.names))
	if len(subvols) > 1<<16-1 {
		return fmt.Errorf("more than %d subvolumes", 1<<16-1)
	}
	for i := range subvols {
		if err := t.numberSubvolume(subvols, uint16(i)); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) numberSubvolume(subvols []*subvolume, sv uint16) error {
	s := subvols[sv]
	t.inodes[s.top].owner = sv
	clones := map[inodeID]inodeID{}
	stack := []inodeID{s.top}
	for len(stack) > 0 {
		dir := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		kids := t.sortKids(dir)
		first := len(stack)
		for _, n := range kids {
			if t.names[n].subvol != 0 {
				continue
			}
			id := t.names[n].inode
			id, err := t.numberInode(s, sv, n, id, clones)
			if err != nil {
				return err
			}
			switch i := &t.inodes[id]; {
			case i.isDir():
				i.flags |= t.inodes[dir].flags
				stack = append(stack, id)
			case i.isRegular():
				i.flags |= t.inodes[dir].flags
			}
		}
		slices.Reverse(stack[first:])
	}
	return nil
}

// sortKids turns the directory's list of entries into a sorted range of order.
func (t *tree) sortKids(dir inodeID) []nameID {
	d := &t.inodes[dir]
	begin := len(t.order)
	for n := d.kids; n != 0; n = t.names[n].next {
		if !t.names[n].dead {
			t.order = append(t.order, n)
		}
	}
	kids := t.order[begin:]
	slices.SortFunc(kids, func(a, b nameID) int { return cmp.Compare(t.names[a].text, t.names[b].text) })
	for i, n := range kids {
		t.names[n].pos = uint32(i)
	}
	d.kids, d.count = nameID(begin), uint32(len(kids))
	return kids
}

// numberInode gives the inode under a name its number, unless another name did.
// A file with names in several subvolumes becomes one file in each.
func (t *tree) numberInode(s *subvolume, sv uint16, n nameID, id inodeID, clones map[inodeID]inodeID) (inodeID, error) {
	if c, ok := clones[id]; ok {
		id = c
		t.moveName(n, id)
		return id, nil
	}
	if t.inodes[id].num != 0 {
		if t.inodes[id].isDir() {
			return 0, errors.New("directory with two names")
		}
		if t.inodes[id].owner == sv {
			return id, nil
		}
		c, err := t.addInode(t.inodes[id])
		if err != nil {
			return 0, err
		}
		t.copyDetails(id, c)
		clones[id] = c
		t.moveName(n, c)
		id = c
	}
	s.inodes = append(s.inodes, id)
	t.inodes[id].num = uint32(len(s.inodes))
	t.inodes[id].owner = sv
	return id, nil
}

// moveName makes a name belong to a clone. It stays in the list that both share.
func (t *tree) moveName(n nameID, to inodeID) { t.names[n].inode = to }

func (t *tree) copyDetails(from, to inodeID) {
	if v, ok := t.target[from]; ok {
		t.target[to] = v
	}
	if v, ok := t.xattrs[from]; ok {
		t.xattrs[to] = v
	}
	if v, ok := t.times[from]; ok {
		t.times[to] = v
	}
}

// ino is the inode number of a numbered inode.
func (t *tree) ino(id inodeID) disk.ObjectID {
	return disk.ObjectID(firstIno + uint64(t.inodes[id].num))
}

// kidsOf is the sorted entries of a numbered directory.
func (t *tree) kidsOf(id inodeID) []nameID {
	d := &t.inodes[id]
	return t.order[d.kids : d.kids+nameID(d.count)]
}

// namesOf calls fn for each name of a file that is still there.
func (t *tree) namesOf(id inodeID, fn func(nameID)) {
	for n := t.inodes[id].names; n != 0; n = t.names[n].link {
		if !t.names[n].dead && t.names[n].inode == id {
			fn(n)
		}
	}
}
