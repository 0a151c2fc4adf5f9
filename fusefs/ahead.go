//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"errors"
	"io"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	btrfs "gobtrfs"
)

// Whoever reads the small files of a directory one after the other (tar, cp,
// grep) waits for a request for each, which costs more than the reading: two
// changes of context. So, of a read-only mount, the files that come next are
// put into the kernel's memory before they are asked for (NOTIFY_STORE), which
// nobody waits for.
//
// A mount that is written cannot do that: between the reading here and the
// storing there a program may change the page, and what it wrote through a
// shared mapping nobody but the page knows.
const (
	// aheadFile is the longest file that is stored: longer ones cost more than
	// their request.
	aheadFile = 32 << 10
	// aheadFirst and aheadMost are how many names are gone through at a time: at
	// first, and after it has doubled as often as that was right.
	aheadFirst, aheadMost = 4, 64
	// aheadWalk is from how many on the next directory is taken for a part of a
	// tree that is being read, at the first file.
	aheadWalk = 32
	// aheadPause is how many files are read before the next attempt, after one
	// that was wrong.
	aheadPause = 32
)

// ahead is what is known of how small files are read. At most one goroutine
// stores some.
type ahead struct {
	mu     sync.Mutex
	dir    place  // where the last file that was read has its name; protected by mu, as what follows
	from   uint64 // its index there
	to     uint64 // the index up to which files were stored
	window int    // how many to store next
	pause  int    // how many reads to let pass
	busy   bool
}

// next notes that a file was asked for, and says behind which index of its
// directory how many files are to be stored. The caller then does that, and
// calls done.
func (a *ahead) next(dir place, index uint64) (after uint64, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy {
		return 0, 0
	}
	switch {
	case dir != a.dir: // the next directory of a tree, perhaps
		a.window = max(a.window, aheadFirst)
		a.to = 0
	case index > a.from:
		a.window = min(max(2*a.window, aheadFirst), aheadMost)
	default:
		a.window = 0 // here and there
	}
	first := dir != a.dir
	a.dir, a.from = dir, index
	if a.pause > 0 {
		a.pause--
		return 0, 0
	}
	if a.window == 0 || first && a.window < aheadWalk {
		return 0, 0
	}
	a.busy = true
	return max(index, a.to), a.window
}

// done says how far files are stored. ok is false if the kernel did not know
// one of them: nobody has looked at them, so nobody is about to read them.
func (a *ahead) done(to uint64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.to, a.busy = to, false
	if !ok {
		a.window, a.pause = 0, aheadPause
	}
}

// storeAhead is told of each file that is read from its beginning.
func (s *server) storeAhead(f *btrfs.File) {
	if f.Size() > aheadFile {
		return
	}
	names, err := f.Names(s.ctx)
	if err != nil || len(names) == 0 {
		return // it is advice
	}
	dir := place{f.Subvolume().ID(), names[0].Parent}
	after, n := s.ahead.next(dir, names[0].Index)
	if n == 0 {
		return
	}
	s.work.Go(func() { s.ahead.done(s.store(dir, after, n)) })
}

// store puts the small files among n names behind an index into the kernel's memory. It
// says how far it came, and whether the kernel knew them all. What cannot be
// read is passed over: who asks for it is told.
func (s *server) store(dir place, after uint64, n int) (to uint64, ok bool) {
	to = after
	d, err := s.committed(dir)
	if err != nil {
		return to, false
	}
	buf := make([]byte, aheadFile)
	for e, err := range d.ReadDir(s.ctx, after) {
		if err != nil {
			return to, false
		}
		to = e.Index
		if e.Type.IsRegular() && !s.storeFile(place{dir.subvol, e.Ino}, buf) {
			return to, false
		}
		if n--; n == 0 {
			break
		}
	}
	return to, true
}

// storeFile says whether the kernel knows the file.
func (s *server) storeFile(p place, buf []byte) bool {
	f, err := s.committed(p)
	if err != nil || f.Size() == 0 || f.Size() > aheadFile {
		return true
	}
	id, ok := s.node(p)
	if !ok {
		return false
	}
	n, err := f.ReadAtContext(s.ctx, buf[:f.Size()], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return true
	}
	return s.kernel.InodeNotifyStoreCache(uint64(id), 0, buf[:n]) == fuse.OK
}
