package mkfs

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"gobtrfs/disk"
)

// Bits of st_mode, the same on every system that this runs on.
const (
	modeType    = 0o170000
	modeRegular = 0o100000
	modeDir     = 0o040000
	modeSymlink = 0o120000
	modeChar    = 0o020000
	modeBlock   = 0o060000
	modeFifo    = 0o010000
	modeSocket  = 0o140000
	modePerm    = 0o007777
)

// inodeID and nameID are indexes into tree.inodes and tree.names. Index 0 is the
// top directory, and no name.
type (
	inodeID uint32
	nameID  uint32
)

// inode is a file of any type in the source. There is one for every file, so
// fields are kept small.
type inode struct {
	size     int64 // contents of a regular file, in bytes
	sec      int64 // mtime
	handle   uint64
	rdev     uint64
	nsec     uint32
	mode     uint32
	uid, gid uint32
	// names is the list of names, newest first; kids, while loading, that of
	// a directory's entries. After number, kids and count are a range of
	// tree.order.
	names nameID
	kids  nameID
	count uint32
	num   uint32 // inode number less 256; 0: none yet
	owner uint16 // index of the subvolume that num belongs to
	from  uint8  // index into tree.openers
	layer uint8  // that gave the entry
	flags uint8  // flagNoDataCow, flagNoDataSum
}

func (i *inode) isDir() bool     { return i.mode&modeType == modeDir }
func (i *inode) isRegular() bool { return i.mode&modeType == modeRegular }

// name is a directory entry.
type name struct {
	text   string
	parent inodeID
	inode  inodeID
	next   nameID // in the same directory
	link   nameID // of the same inode
	pos    uint32 // place among its siblings
	subvol uint16 // index of the subvolume that begins here; 0: none
	layer  uint8
	dead   bool
}

// xattr is an extended attribute with its full name.
type xattr struct {
	name  string
	value []byte
}

// times are what stands in an inode beside mtime, where it was asked for.
type times struct{ atime, ctime, otime disk.Time }

// content is an open regular file. ReadAt keeps io.ReaderAt's contract.
type content interface {
	io.ReaderAt
	io.Closer
	// xattrs gives the attributes, where they were left for when the file is
	// open anyway; else the tree has them.
	xattrs() ([]xattr, error)
	// check says whether the file is still what was listed.
	check(size int64) error
}

// opener opens the regular files of one source. It is used by several goroutines,
// each with its own session.
type opener interface {
	session() session
}

// session opens files for one goroutine.
type session interface {
	open(t *tree, id inodeID) (content, error)
	close() error
}

// tree is everything to be put into the filesystem, contents excepted.
type tree struct {
	inodes  []inode
	names   []name
	order   []nameID // entries by directory, sorted by name: see number
	openers []opener
	target  map[inodeID]string
	xattrs  map[inodeID][]xattr
	times   map[inodeID]times
	index   map[childKey]nameID // while loading, and only for sources that look names up
	layer   uint8
	closers []io.Closer
}

type childKey struct {
	dir  inodeID
	text string
}

func newTree(top inode) *tree {
	return &tree{
		inodes: []inode{top}, names: make([]name, 1),
		target: map[inodeID]string{}, xattrs: map[inodeID][]xattr{}, times: map[inodeID]times{},
	}
}

// close releases what the sources hold.
func (t *tree) close() (err error) {
	for _, c := range t.closers {
		if e := c.Close(); err == nil {
			err = e
		}
	}
	t.closers = nil
	return err
}

// addInode adds a file without a name.
func (t *tree) addInode(i inode) (inodeID, error) {
	if uint64(len(t.inodes)) >= 1<<32-1 {
		return 0, fmt.Errorf("more than %d files", uint64(1<<32-1))
	}
	t.inodes = append(t.inodes, i)
	return inodeID(len(t.inodes) - 1), nil
}

// addName enters an inode into a directory.
func (t *tree) addName(dir inodeID, text string, id inodeID) (nameID, error) {
	if uint64(len(t.names)) >= 1<<32-1 {
		return 0, fmt.Errorf("more than %d names", uint64(1<<32-1))
	}
	n := nameID(len(t.names))
	t.names = append(t.names, name{
		text: text, parent: dir, inode: id, next: t.inodes[dir].kids, link: t.inodes[id].names, layer: t.layer,
	})
	t.inodes[dir].kids, t.inodes[id].names = n, n
	if t.index != nil {
		t.index[childKey{dir, text}] = n
	}
	return n, nil
}

// makeIndex prepares for lookups.
func (t *tree) makeIndex() {
	if t.index != nil {
		return
	}
	t.index = make(map[childKey]nameID, len(t.names))
	for i := range t.names[1:] {
		if n := &t.names[i+1]; !n.dead {
			t.index[childKey{n.parent, n.text}] = nameID(i + 1)
		}
	}
}

// lookup finds an entry of a directory; the tree needs its index.
func (t *tree) lookup(dir inodeID, text string) (nameID, bool) {
	n, ok := t.index[childKey{dir, text}]
	return n, ok
}

// remove takes a name away. What is below a directory goes with it, because
// nothing leads there any more.
func (t *tree) remove(n nameID) {
	e := &t.names[n]
	e.dead = true
	delete(t.index, childKey{e.parent, e.text})
	if !t.inodes[e.inode].isDir() {
		return
	}
	for k := t.inodes[e.inode].kids; k != 0; k = t.names[k].next {
		if !t.names[k].dead {
			t.remove(k)
		}
	}
}

// pathOf is the path of a file from the top, by the first of its names that is
// still there; "" for the top.
func (t *tree) pathOf(id inodeID) string {
	if id == 0 {
		return ""
	}
	n := t.inodes[id].names
	for n != 0 && t.names[n].dead {
		n = t.names[n].link
	}
	if n == 0 {
		return "(removed)"
	}
	return path.Join(t.pathOf(t.names[n].parent), t.names[n].text)
}

// find walks a slash-separated path from the top; the tree needs its index.
func (t *tree) find(p string) (inodeID, nameID, bool) {
	id, last := inodeID(0), nameID(0)
	for part := range strings.SplitSeq(strings.Trim(path.Clean("/"+p), "/"), "/") {
		if part == "" {
			continue
		}
		n, ok := t.lookup(id, part)
		if !ok {
			return 0, 0, false
		}
		id, last = t.names[n].inode, n
	}
	return id, last, true
}

// newest is the latest time in the tree, 1970 if there is none.
func (t *tree) newest() time.Time {
	var best disk.Time
	for k := range t.inodes {
		i := &t.inodes[k]
		if i.sec > best.Sec || (i.sec == best.Sec && i.nsec > best.Nsec) {
			best = disk.Time{Sec: i.sec, Nsec: i.nsec}
		}
	}
	return time.Unix(best.Sec, int64(best.Nsec))
}

// fingerprint is a hash over names and attributes of a numbered tree. Contents
// are not in it: they are not read yet.
func (t *tree) fingerprint() []byte {
	h := sha256.New()
	var b []byte
	for _, n := range t.order {
		e := &t.names[n]
		i := &t.inodes[e.inode]
		b = append(b[:0], e.text...)
		for _, v := range [...]uint64{0, uint64(t.ino(e.parent)), uint64(t.ino(e.inode)), uint64(i.mode), uint64(i.uid), uint64(i.gid), uint64(i.size), uint64(i.sec), uint64(i.nsec), i.rdev} {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
		h.Write(append(b, t.target[e.inode]...))
	}
	return h.Sum(nil)
}
