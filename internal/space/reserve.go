package space

import (
	"gobtrfs/internal/invariants"
	"gobtrfs/internal/lockrank"
)

// Reserve is a standing stock of promised bytes, for work that must not fail
// for want of space. Its size is charged to its info as a promise, so nobody
// else can have it. The global reserve pays for what makes room, and for trees
// without a reservation of their own; the commit reserve pays for what a
// commit does. Together they are the floor below which metadata is "low".
//
// Safe for concurrent use. Reserve.mu is the innermost lock of the package.
type Reserve struct {
	info      *Info
	stealable bool

	mu   lockrank.Mutex
	size Bytes // protected by mu
	have Bytes // protected by mu; may exceed size after Give
}

// Units are what one operation on a tree can cost at worst, in bytes.
//
// A tree has at most 8 levels; changing an item copies one node of each, and
// inserting one may split each.
type Units struct{ NodeSize Bytes }

const maxTreeLevels = 8

// Update is the worst case of changing or deleting an item.
func (u Units) Update() Bytes { return maxTreeLevels * u.NodeSize }

// Insert is the worst case of inserting an item.
func (u Units) Insert() Bytes { return 2 * maxTreeLevels * u.NodeSize }

// DelayedRef is the worst case of running one delayed ref: the extent tree,
// and with a free-space tree that one too.
func (u Units) DelayedRef(freeSpaceTree bool) Bytes {
	if freeSpaceTree {
		return 2 * u.Insert()
	}
	return u.Insert()
}

// System is what making or removing a chunk with so many stripes can cost in
// the chunk tree: one item, and the items of its devices. They lie side by
// side, so beyond one path they cost at most a leaf and its parent each.
func (u Units) System(stripes int) Bytes {
	n := Bytes(stripes)
	return min(n*u.Update(), 2*n*u.NodeSize+u.Update()) + u.Insert()
}

// GlobalReserveSize is the size of the global reserve: the trees that draw on
// it, at least the worst case of an unlink, at most 512 MiB (kernel:
// btrfs_update_global_block_rsv, 6.x). trees is the sum of the used bytes of
// the root, extent, csum, free-space and block-group trees.
func (u Units) GlobalReserveSize(trees Bytes, freeSpaceTree, blockGroupTree bool) Bytes {
	const unlinkItems = 6
	items := Bytes(1 + 2 + unlinkItems)
	if freeSpaceTree {
		items++
	}
	if blockGroupTree {
		items++
	}
	least := items*u.Insert() + unlinkItems*u.DelayedRef(freeSpaceTree)
	return min(max(trees, least), 512*MiB)
}

// NewReserve makes an empty reserve of size 0.
func (i *Info) NewReserve() *Reserve {
	r := &Reserve{info: i}
	r.mu.Init(rankReserve, 0)
	return r
}

// standing makes a reserve that counts for the info's floor.
func (i *Info) standing(stealable bool) *Reserve {
	r := i.NewReserve()
	r.stealable = stealable
	i.reserves = append(i.reserves, r)
	return r
}

// Size is what the reserve should hold.
func (r *Reserve) Size() Bytes {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.size
}

// Available is what the reserve holds.
func (r *Reserve) Available() Bytes {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.have
}

// Resize sets the size and charges or gives back the difference. It does not
// ask whether the bytes exist: the promise is older than those that must now
// do without. If metadata cannot hold its reserves, one more chunk is asked for.
func (r *Reserve) Resize(size Bytes) {
	i := r.info
	i.mu.Lock()
	r.mu.Lock()
	grow := size - r.size
	r.size = size
	if grow < 0 {
		grow = -max(0, min(-grow, r.have-size))
	}
	r.have += grow
	r.mu.Unlock()
	i.charge(grow)
	if grow < 0 {
		i.perform(i.proto.Freed(ledger{i}, nil))
	}
	low := i.c.total-i.c.hard() < i.standingLocked()
	i.mu.Unlock()
	if low {
		i.wantChunk()
	}
}

// charge takes n from the headroom without asking. mu must be held.
func (i *Info) charge(n Bytes) {
	if invariants.Enabled {
		i.promised.Add(int64(n))
	}
	i.free.add(-n)
}

// Use takes n out of the reserve: the caller now holds the promise.
func (r *Reserve) Use(n Bytes) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.have < n {
		return false
	}
	r.have -= n
	return true
}

// Give puts n promised bytes back; what exceeds the size goes to everybody.
func (r *Reserve) Give(n Bytes) {
	r.mu.Lock()
	r.have += n
	over := min(n, max(0, r.have-r.size))
	r.have -= over
	r.mu.Unlock()
	if over > 0 {
		r.info.Release(over)
	}
}

// Close gives everything back. The reserve is then empty and of size 0.
func (r *Reserve) Close() {
	r.mu.Lock()
	n := r.have
	r.have, r.size = 0, 0
	r.mu.Unlock()
	if n > 0 {
		r.info.Release(n)
	}
}

// refill tops the reserve up from free space. Info.mu must be held.
func (r *Reserve) refill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	want := min(r.size-r.have, max(0, r.info.free.load()))
	if want > 0 && (ledger{r.info}).Take(want, ClassNormal) {
		r.have += want
	}
}

// steal hands n to a ticket if a tenth of the reserve's size stays.
func (r *Reserve) steal(n Bytes) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.have-n < r.size/10 {
		return false
	}
	r.have -= n
	return true
}

// standingLocked is the sum of the sizes of the standing reserves: the info's
// floor. Info.mu must be held.
func (i *Info) standingLocked() Bytes {
	n := Bytes(0)
	for _, r := range i.reserves {
		n += r.Size()
	}
	return n
}
