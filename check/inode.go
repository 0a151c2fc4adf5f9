package check

import (
	"fmt"
	"sync/atomic"

	"gobtrfs/disk"
)

// inodeState is what some consecutive items of one inode add up to. States of
// neighbouring pieces of a tree merge, so a leaf is looked at once, wherever it
// stands and however many trees share it.
type inodeState struct {
	ino uint64

	// of the inode item
	size, nbytes, iflags uint64
	nlink, mode          uint32
	has                  stateFlags

	// sums over the other items
	names    uint32 // references: names of this inode
	extents  uint32
	dirSize  uint64 // bytes of the names in this directory, items and indexes
	dirSum   uint64 // terms of the DIR_ITEMs less those of the DIR_INDEXes
	dirCount uint32 // DIR_INDEXes
	found    uint64 // bytes of file extents
	start    uint64 // of the first file extent
	end      uint64 // of the last one
	gap      uint64 // start of the first gap between two extents; noGap
	overlap  uint64 // start of the first extent that overlaps; noGap
	inline   uint64 // length of the inline extent
	where    disk.Logical
}

type stateFlags uint16

const (
	hasItem stateFlags = 1 << iota
	hasInline
	hasCsummed  // extents that should have checksums, in this piece
	hasDirItems // DIR_ITEM or DIR_INDEX
	hasOther    // xattr, verity: nothing to add up
	hasPrealloc
	hasVerity
	hasSelfRef
	hasCompressed
	hasNUL  // at the end of the inline extent
	partial // some of it could not be read
)

const noGap = ^uint64(0)

func newInodeState(ino uint64, where disk.Logical) inodeState {
	return inodeState{ino: ino, gap: noGap, overlap: noGap, where: where}
}

// merge adds the piece that follows s.
func (s *inodeState) merge(o *inodeState) {
	if o.has&hasItem != 0 {
		s.size, s.nbytes, s.iflags, s.nlink, s.mode = o.size, o.nbytes, o.iflags, o.nlink, o.mode
	}
	s.names += o.names
	s.dirSize += o.dirSize
	s.dirSum += o.dirSum
	s.dirCount += o.dirCount
	s.found += o.found
	if o.has&hasInline != 0 {
		s.inline = o.inline
	}
	if o.extents > 0 {
		if s.extents == 0 {
			s.start = o.start
		} else {
			s.join(o.start)
		}
		s.gap, s.overlap = min(s.gap, o.gap), min(s.overlap, o.overlap)
		s.end = max(s.end, o.end)
		s.extents += o.extents
	}
	s.has |= o.has
}

// join notes whether an extent at start follows the last one.
func (s *inodeState) join(start uint64) {
	if start > s.end {
		s.gap = min(s.gap, s.end)
	}
	if start < s.end {
		s.overlap = min(s.overlap, start)
	}
}

// extent adds a file extent [start, end).
func (s *inodeState) extent(start, end uint64) {
	if s.extents == 0 {
		s.start = start
	} else {
		s.join(start)
	}
	s.end = max(s.end, end)
	s.extents++
}

// Parts of st_mode.
const (
	modeType = 0o170000
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

// treeSums are the sums over a piece of a tree; see the package comment.
type treeSums struct {
	names uint64 // DIR_INDEX terms less INODE_REF and INODE_EXTREF terms
	types uint64 // type terms of DIR_INDEXes less those of inodes
}

func (t *treeSums) add(o treeSums) {
	t.names += o.names
	t.types += o.types
}

// segment is what the items of a piece of a tree of files add up to: the first
// and the last inode, which may go on outside, and the rest, which is settled.
type segment struct {
	sums       treeSums
	head, tail inodeState
	single     bool // head is the only inode; tail is not set
	empty      bool
}

// inodeRules finishes inodes.
type inodeRules struct {
	hash    *hasher
	find    *collector
	noHoles bool
	sector  uint64
	gen     disk.TransID
	rares   *rareBudget
}

// special says whether items with this objectid are of no inode, though they
// stand in a tree of files.
func special(ino uint64) bool {
	id := disk.ObjectID(ino)
	return id == disk.OrphanObjectID || id == disk.FreeInoObjectID || id == disk.FreeSpaceObjectID || id == 0 || id > disk.LastFreeObjectID
}

// finish checks an inode of which all items are in s, and adds what its names
// need to sums.
func (r *inodeRules) finish(tree disk.ObjectID, s *inodeState, sums *treeSums, rare **rareItems) {
	if special(s.ino) || s.has&partial != 0 {
		return
	}
	bad := func(code Code, what, want, got string) {
		r.find.add(Finding{Code: code, Place: Place{Tree: tree, Inode: s.ino, Logical: s.where}, What: what, Expected: want, Found: got})
	}
	if s.has&hasItem == 0 {
		if tree == disk.TreeRoot {
			return // most objectids of the root tree are trees
		}
		bad(CodeInodeMissing, fmt.Sprintf("inode item is missing; there are %d names, %d file extents and %d directory entries of it", s.names, s.extents, s.dirCount), "an inode item", "")
		return
	}
	if tree == disk.TreeRoot {
		r.finishCache(s, bad)
		return
	}
	sums.types -= uint64(s.names) * r.hash.fileType(s.ino, disk.FileType(s.mode))
	r.links(tree, s, rare, bad)
	if s.nlink == 0 {
		return // being deleted: what is left need not add up
	}
	if s.mode&modeType == modeDir {
		r.directory(s, bad)
	} else if s.has&hasDirItems != 0 {
		bad(CodeDirEntry, "directory entries below an inode that is no directory", "", fmt.Sprint(s.dirCount))
	}
	r.contents(s, bad)
}

type badFunc func(code Code, what, want, got string)

// links checks the number of names. The inodes of the data relocation tree have
// none.
func (r *inodeRules) links(tree disk.ObjectID, s *inodeState, rare **rareItems, bad badFunc) {
	if disk.ObjectID(s.ino) == disk.RootDirObjectID {
		if s.has&hasSelfRef == 0 {
			bad(CodeInodeRef, "the top directory has no right reference to itself", "name \"..\", index 0", "")
		}
		if s.nlink != 1 {
			bad(CodeInodeNlink, "the link count of the top directory", "1", fmt.Sprint(s.nlink))
		}
		return
	}
	if tree == disk.TreeDataReloc {
		return
	}
	switch {
	case s.nlink == 0:
		if x := r.rares.add(rare); x != nil {
			x.unlinked = append(x.unlinked, s.ino)
		}
		if s.names > 0 {
			bad(CodeInodeNlink, "the link count is wrong", fmt.Sprint(s.names), "0")
		}
	case s.names == 0:
		bad(CodeInodeUnnamed, fmt.Sprintf("inode with a link count of %d has no name", s.nlink), "", "")
	case s.mode&modeType == modeDir && (s.nlink != 1 || s.names != 1):
		bad(CodeInodeNlink, "a directory must have one name and a link count of 1", "1", fmt.Sprintf("link count %d, %d names", s.nlink, s.names))
	case s.nlink != s.names:
		bad(CodeInodeNlink, "the link count is wrong", fmt.Sprint(s.names), fmt.Sprint(s.nlink))
	}
}

func (r *inodeRules) directory(s *inodeState, bad badFunc) {
	if s.dirSum != 0 {
		bad(CodeDirEntry, "the directory's items and its indexes do not name the same entries", "", "")
	}
	if s.size != s.dirSize {
		bad(CodeDirSize, "the directory's size is not the sum of its names", fmt.Sprint(s.dirSize), fmt.Sprint(s.size))
	}
	if s.extents > 0 {
		bad(CodeFileExtent, "a directory has file extents", "", fmt.Sprint(s.extents))
	}
}

// contents checks the file extents of a file, link or device.
func (r *inodeRules) contents(s *inodeState, bad badFunc) {
	t := s.mode & modeType
	if t != modeFile && t != modeLink {
		if t != modeDir && s.extents > 0 {
			bad(CodeFileExtent, fmt.Sprintf("an inode of mode %#o has file extents", s.mode), "", fmt.Sprint(s.extents))
		}
		if t != modeDir && s.nbytes != 0 {
			bad(CodeInodeNbytes, "an inode without contents has a disk usage", "0", fmt.Sprint(s.nbytes))
		}
		if t != modeDir && s.size != 0 {
			bad(CodeInodeItem, "an inode without contents has a size", "0", fmt.Sprint(s.size))
		}
		return
	}
	if s.found != s.nbytes {
		bad(CodeInodeNbytes, "the disk usage is not the sum of the file extents", fmt.Sprint(s.found), fmt.Sprint(s.nbytes))
	}
	if s.overlap != noGap {
		bad(CodeFileOverlap, fmt.Sprintf("file extents overlap at %d", s.overlap), "", "")
	}
	if t == modeLink && s.iflags&(disk.InodeImmutable|disk.InodeAppend) != 0 {
		bad(CodeInodeItem, "a symbolic link must not be immutable or append-only", "", fmt.Sprintf("flags %#x", s.iflags))
	}
	if s.has&hasCompressed != 0 && s.iflags&disk.InodeNoDataSum != 0 {
		bad(CodeFileExtent, "a file without checksums must not have compressed extents", "", "")
	}
	if t == modeLink && s.extents > 1 {
		bad(CodeFileExtent, "a symbolic link has more than one file extent", "1", fmt.Sprint(s.extents))
	}
	// btrfs-convert stores the NUL behind the target too.
	whole := s.inline == s.size || s.has&hasNUL != 0 && s.inline == s.size+1
	if t == modeLink && (s.has&hasInline == 0 || !whole) {
		bad(CodeInodeItem, "a symbolic link's size is not the length of its target", fmt.Sprint(s.inline), fmt.Sprint(s.size))
	}
	if r.noHoles {
		return
	}
	gap := s.gap
	switch {
	case s.extents == 0:
		gap = 0
	case s.start > 0:
		gap = 0
	case s.end < s.size:
		gap = min(gap, s.end)
	}
	if gap < s.size {
		bad(CodeFileGap, fmt.Sprintf("no file extent covers offset %d of a file of %d bytes", gap, s.size), "", "")
	}
}

// finishCache checks an inode of the root tree: a v1 free-space cache, whose
// disk usage Linux does not keep up to date, or the directory of the default
// subvolume.
func (r *inodeRules) finishCache(s *inodeState, bad badFunc) {
	if disk.ObjectID(s.ino) == disk.RootTreeDir {
		if s.size != s.dirSize && s.size != 0 {
			bad(CodeDirSize, "the directory's size is not the sum of its names", fmt.Sprint(s.dirSize), fmt.Sprint(s.size))
		}
		return
	}
	if s.overlap != noGap {
		bad(CodeFileOverlap, fmt.Sprintf("file extents overlap at %d", s.overlap), "", "")
	}
}

// rareItems are what few leaves have, and what has to be known one by one.
type rareItems struct {
	unlinked []uint64 // inodes with a link count of 0
	orphans  []uint64 // inodes that have an orphan item
	subvols  []subvolEntry
}

// done says whether nothing in x has to be known any more.
func (x *rareItems) done() bool {
	return len(x.unlinked)+len(x.orphans)+len(x.subvols) == 0
}

// subvolEntry is a directory index that names a subvolume.
type subvolEntry struct {
	dir, index uint64
	root       disk.ObjectID
	name       string
}

// dataRange is a range of data that a file extent uses.
type dataRange struct {
	start, length uint64
	prealloc      bool
	compressed    bool // has checksums even in an inode without
}

// rareBudget bounds how many rare items are kept. Safe for concurrent use.
type rareBudget struct{ left atomic.Int64 }

// add makes *r if it is not there, for one more item; nil when there are too
// many.
func (b *rareBudget) add(r **rareItems) *rareItems {
	if b.left.Add(-1) < 0 {
		return nil
	}
	if *r == nil {
		*r = new(rareItems)
	}
	return *r
}

// cut says whether some could not be kept.
func (b *rareBudget) cut() bool { return b.left.Load() < 0 }
