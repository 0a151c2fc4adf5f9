package txn

import (
	"maps"
	"slices"
	"sync/atomic"

	"gobtrfs/disk"
	"gobtrfs/internal/lockrank"
)

// dataLevel is the level of a head that is not a tree block.
const dataLevel = -1

// head is what is pending for one extent.
type head struct {
	addr     disk.Logical
	size     uint64
	level    int           // dataLevel for data
	insert   bool          // the extent tree has no item for it yet
	maker    disk.ObjectID // of a new extent: the tree that it was made for
	setFlags uint64
	deltas   map[disk.ExtentRef]int // by reference, Count 0
}

// sum is by how much the number of references changes.
func (h *head) sum() int {
	n := 0
	for _, d := range h.deltas {
		n += d
	}
	return n
}

// refs are the delayed refs. They are kept per extent and cancel each other
// out, so what an extent tree update costs is paid once per extent and commit.
type refs struct {
	mu    lockrank.Mutex
	heads map[disk.Logical]*head // protected by mu
	count atomic.Int64           // of heads; changed under mu
	// seen are the extents of subvolumes whose references may have changed in
	// this transaction; nil: nobody wants to know. Protected by mu.
	seen map[disk.Logical]struct{}
}

// rankRefs: no lock is taken under refs.mu.
const rankRefs lockrank.Rank = 90

func (r *refs) init() {
	r.mu.Init(rankRefs, 0)
	r.heads = make(map[disk.Logical]*head)
}

// add notes one change. It returns the head if the extent thereby came to
// nothing: it was made in this transaction, the extent tree has not seen it,
// and nobody refers to it.
func (r *refs) add(addr disk.Logical, size uint64, level int, ref disk.ExtentRef, delta int, insert bool) (dead bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.heads[addr]
	if h == nil {
		h = &head{addr: addr, size: size, level: level, insert: insert, deltas: make(map[disk.ExtentRef]int, 2)}
		r.heads[addr] = h
		r.count.Add(1)
	}
	if insert {
		h.maker = ref.Root
	}
	if r.seen != nil && (ref.Parent != 0 || ref.Root.IsSubvolume()) {
		r.seen[addr] = struct{}{}
	}
	ref.Count = 0
	if h.deltas[ref] += delta; h.deltas[ref] == 0 {
		delete(h.deltas, ref)
	}
	if h.insert && len(h.deltas) == 0 && level != dataLevel {
		delete(r.heads, addr)
		r.count.Add(-1)
		return true
	}
	return false
}

// watch begins to note which extents of subvolumes are touched.
func (r *refs) watch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = make(map[disk.Logical]struct{})
}

// unwatch ends that.
func (r *refs) unwatch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = nil
}

// touch notes an extent.
func (r *refs) touch(addr disk.Logical) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen != nil {
		r.seen[addr] = struct{}{}
	}
}

// watched is how many extents were noted.
func (r *refs) watched() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// touched takes what was noted, in rising order.
func (r *refs) touched() []disk.Logical {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Sorted(maps.Keys(r.seen))
	clear(r.seen)
	return out
}

// setFlags notes flags that the extent item is to get.
func (r *refs) setFlags(addr disk.Logical, size uint64, level int, flags uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.heads[addr]
	if h == nil {
		h = &head{addr: addr, size: size, level: level, deltas: make(map[disk.ExtentRef]int, 1)}
		r.heads[addr] = h
		r.count.Add(1)
	}
	h.setFlags |= flags
}

// pending is what is to be added to an extent's count and flags; made says
// that the extent tree does not know it yet.
func (r *refs) pending(addr disk.Logical) (delta int, flags uint64, made bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.heads[addr]; h != nil {
		return h.sum(), h.setFlags, h.insert
	}
	return 0, 0, false
}

// deltas are the changes that are pending for an extent; made is as for pending.
func (r *refs) deltas(addr disk.Logical) (d map[disk.ExtentRef]int, made bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.heads[addr]; h != nil {
		return maps.Clone(h.deltas), h.insert
	}
	return nil, false
}

// addrs are the extents with something pending, in rising order, so that the
// extent tree is walked once and the outcome does not depend on map order.
func (r *refs) addrs() []disk.Logical {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.heads))
}

// take removes and returns a head, nil if it came to nothing meanwhile.
func (r *refs) take(addr disk.Logical) *head {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.heads[addr]
	if h != nil {
		delete(r.heads, addr)
		r.count.Add(-1)
	}
	return h
}

func (r *refs) len() int { return int(r.count.Load()) }

// treeRef is the reference of a tree, or of a node with full backrefs, to a
// tree block.
func treeRef(root disk.ObjectID, parent disk.Logical) disk.ExtentRef {
	if parent != 0 {
		return disk.ExtentRef{Type: disk.KeySharedBlockRef, Parent: parent}
	}
	return disk.ExtentRef{Type: disk.KeyTreeBlockRef, Root: root}
}

// dataRef is the reference of a file, or of a leaf with full backrefs, to
// data. offset is where the file would have the extent's first byte.
func dataRef(root, ino disk.ObjectID, offset uint64, parent disk.Logical) disk.ExtentRef {
	if parent != 0 {
		return disk.ExtentRef{Type: disk.KeySharedDataRef, Parent: parent}
	}
	return disk.ExtentRef{Type: disk.KeyExtentDataRef, Root: root, ObjectID: ino, Offset: offset}
}
