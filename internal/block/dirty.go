package block

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// SetGeneration says that the superblock is now of transaction t. Nodes that
// are newer than the superblock's next transaction are refused.
func (c *Cache) SetGeneration(t disk.TransID) { c.generation.Store(uint64(t)) }

// ErrStale says that what is read has been overwritten, or may have been, by a
// later transaction.
var ErrStale = fmt.Errorf("the filesystem has changed since, open it again: %w", syscall.ESTALE)

// view is another cache seen in a certain way.
type view struct {
	base  *Cache
	over  *Dirty       // looked at first; nil: nothing
	stale *atomic.Bool // nothing of base may be used once it is true; nil: never
}

// Over is a view of the cache in which d's nodes are seen too: what a reader
// of the running transaction uses. Views can do nothing but Get and Prefetch.
func (c *Cache) Over(d *Dirty) *Cache { return &Cache{view: &view{base: c, over: d}} }

// Until is a view of the cache that ends, with ErrStale, when stale becomes
// true: what a reader of a commit uses that is not the last one for ever.
func (c *Cache) Until(stale *atomic.Bool) *Cache { return &Cache{view: &view{base: c, stale: stale}} }

func (v *view) get(ctx context.Context, addr disk.Logical, e Expect) (disk.Node, error) {
	if v.over != nil {
		if n, _ := v.over.Get(addr); n != nil {
			return n, nil
		}
	}
	n, err := v.base.Get(ctx, addr, e)
	// Asked afterwards: what was read while it was false is what it was.
	if v.stale != nil && v.stale.Load() {
		return nil, ErrStale
	}
	return n, err
}

// Put enters a node that was written, in the place of what was known of its
// address. The cache keeps n; it must not be changed any more.
func (c *Cache) Put(n disk.Node) {
	ent := &entry{addr: n.Bytenr(), done: make(chan struct{}), node: n}
	ent.used.Store(true)
	close(ent.done)
	s := c.shard(ent.addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.entries[ent.addr]; old != nil {
		s.dropLocked(old)
	}
	s.entries[ent.addr] = ent
	s.insertLocked(ent, c.perShard)
}

// forget drops an entry that turned out to be of the past.
func (c *Cache) forget(s *shard, ent *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[ent.addr] == ent {
		s.dropLocked(ent)
	}
}

// dropLocked forgets an entry. Its place in the ring goes to the last one.
func (s *shard) dropLocked(ent *entry) {
	delete(s.entries, ent.addr)
	i := slices.Index(s.ring, ent)
	if i < 0 {
		return // its read is under way, or it was evicted
	}
	last := len(s.ring) - 1
	s.ring[i] = s.ring[last]
	s.ring[last] = nil
	s.ring = s.ring[:last]
	if s.hand >= len(s.ring) {
		s.hand = 0
	}
}

// Dirty holds the nodes that are newer than the last commit: those that the
// running transaction has made, and those of the one before while it is being
// written. They are not in the cache.
//
//	Add ──> private ──Freeze──> frozen ──Settle──> in the cache
//
// A frozen node never changes again. Dirty is safe for concurrent use; private
// nodes are changed by whoever holds the tree they are part of. Finding a node
// takes no lock: every step down a tree does it.
type Dirty struct {
	sets atomic.Pointer[dirtySets]
	mu   sync.Mutex // held by whoever changes a set or sets
}

// dirtySets is both sets at one moment. The frozen one is never changed.
type dirtySets struct{ private, frozen *nodeTable }

// NewDirty makes an empty set.
func NewDirty() *Dirty {
	d := new(Dirty)
	d.sets.Store(&dirtySets{newNodeTable(0), newNodeTable(0)})
	return d
}

// Get finds a node, private or frozen; nil if there is none.
func (d *Dirty) Get(a disk.Logical) (n disk.Node, private bool) {
	s := d.sets.Load()
	if n := s.private.get(a); n != nil {
		return n, true
	}
	return s.frozen.get(a), false
}

// Private finds a node that the running transaction has made; nil if it is
// none.
func (d *Dirty) Private(a disk.Logical) disk.Node { return d.sets.Load().private.get(a) }

// Add enters a private node.
func (d *Dirty) Add(n disk.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sets.Load()
	if s.private.full() {
		s = &dirtySets{s.private.grown(), s.frozen}
		d.sets.Store(s)
	}
	s.private.put(n.Bytenr(), n)
}

// Remove forgets a private node: nobody needs it written.
func (d *Dirty) Remove(a disk.Logical) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sets.Load().private.remove(a)
}

// Len is the number of private nodes.
func (d *Dirty) Len() int { return int(d.sets.Load().private.live.Load()) }

// Freeze ends a transaction: what is private is frozen, and nothing is private.
// Write and Settle come next, in any goroutine.
//
// REQUIRES: nothing is frozen.
func (d *Dirty) Freeze() {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sets.Load()
	d.sets.Store(&dirtySets{newNodeTable(int(s.private.live.Load()) / 2), s.private})
}

// maxWrite bounds one write of neighbouring nodes, in bytes.
const maxWrite = 1 << 20

// Write puts the checksums of the frozen nodes in and writes them, in order of
// address and neighbours together.
func (c *Cache) Write(ctx context.Context, d *Dirty) error {
	nodes := d.sorted()
	t := c.geometry.CsumType
	var buf []byte
	for i := 0; i < len(nodes); {
		start := nodes[i].Bytenr()
		buf = buf[:0]
		for i < len(nodes) && len(buf) < maxWrite && nodes[i].Bytenr() == start+disk.Logical(len(buf)) {
			n := nodes[i]
			if chunk, ok := c.vol.Chunk(start); len(buf) > 0 && (!ok || n.Bytenr() >= chunk.End()) {
				break
			}
			sum := csum.Sum(t, n.Body())
			copy(n.Csum(), sum[:])
			buf = append(buf, n...)
			i++
		}
		if err := c.vol.Write(ctx, start, buf); err != nil {
			return err
		}
	}
	return nil
}

// Settle moves the frozen nodes, which were written, to the cache.
func (c *Cache) Settle(d *Dirty) {
	for _, n := range d.sorted() {
		c.Put(n)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sets.Store(&dirtySets{d.sets.Load().private, newNodeTable(0)})
}

// sorted is the frozen nodes in order of address.
func (d *Dirty) sorted() []disk.Node {
	nodes := d.sets.Load().frozen.all()
	slices.SortFunc(nodes, func(a, b disk.Node) int { return cmp.Compare(a.Bytenr(), b.Bytenr()) })
	return nodes
}
