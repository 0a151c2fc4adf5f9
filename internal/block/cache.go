// Package block reads tree blocks: it verifies each once, when it comes from a
// device, and keeps it in a bounded cache.
//
// A cached node never changes and stays valid for as long as somebody holds
// it, so readers take no reference and give nothing back: eviction only makes
// the cache forget.
//
// Lock order:
//
//	shard.mu   (the shard's map and ring; no I/O under it)
package block

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"gobtrfs/disk"
	"gobtrfs/internal/volume"
)

// DefaultCacheBytes is the size of the node cache if Options gives none.
const DefaultCacheBytes = 256 << 20

// Options of a Cache.
type Options struct {
	// Bytes bounds the memory for nodes. Default: DefaultCacheBytes. At least
	// one node per shard is kept whatever it says.
	Bytes int64
}

// AnyLevel in Expect.Level accepts a node of any level.
const AnyLevel = -1

// Expect is what the reader knows of a node before it reads it. A mismatch on
// one mirror sends the read to the next one.
type Expect struct {
	Level      int           // exact, or AnyLevel
	Generation disk.TransID  // exact; 0: not known
	Owner      disk.ObjectID // tree that is walked; 0: not known. See checkOwner
	FirstKey   *disk.Key     // first key; nil: not known
}

const shardCount = 64

// Cache holds nodes by logical address. It is safe for concurrent use, and
// readers of different shards never meet.
type Cache struct {
	vol      *volume.Volume
	geometry disk.Geometry
	perShard int
	ahead    chan struct{} // bounds prefetches under way

	view *view // of another cache; nil: a cache of its own

	hits, misses atomic.Uint64
	generation   atomic.Uint64 // of the superblock, if it moved on since New; written by SetGeneration

	shards [shardCount]shard
}

type shard struct {
	mu      sync.RWMutex
	entries map[disk.Logical]*entry
	ring    []*entry // CLOCK order
	hand    int
}

// entry is a node, or a read under way until done is closed; node and err do
// not change after that.
type entry struct {
	addr disk.Logical
	done chan struct{}
	node disk.Node
	err  error
	used atomic.Bool // second chance
}

// New makes an empty cache over v.
func New(v *volume.Volume, o Options) *Cache {
	if o.Bytes <= 0 {
		o.Bytes = DefaultCacheBytes
	}
	sb := v.Super()
	c := &Cache{
		vol:      v,
		geometry: sb.Geometry(),
		perShard: max(1, int(o.Bytes/int64(sb.NodeSize)/shardCount)),
		ahead:    make(chan struct{}, 8),
	}
	for i := range c.shards {
		c.shards[i].entries = make(map[disk.Logical]*entry)
	}
	return c
}

// Stats says how often Get found a node and how often it had to read one.
func (c *Cache) Stats() (hits, misses uint64) { return c.hits.Load(), c.misses.Load() }

func (c *Cache) shard(a disk.Logical) *shard {
	// Addresses are multiples of the node size, mostly 16 KiB.
	h := uint64(a) >> 12 * 0x9e3779b97f4a7c15
	return &c.shards[h>>58]
}

// Get returns the node at addr, which must not be changed. Its layout and
// items are valid and it meets e. Errors are *volume.CorruptError if every
// copy is bad, *volume.DeviceError if none could be read, or ctx's error.
func (c *Cache) Get(ctx context.Context, addr disk.Logical, e Expect) (disk.Node, error) {
	if c.view != nil {
		return c.view.get(ctx, addr, e)
	}
	s := c.shard(addr)
	for stale := false; ; {
		s.mu.RLock()
		ent := s.entries[addr]
		s.mu.RUnlock()
		mine := ent == nil
		if mine {
			if ent = c.load(ctx, s, addr, e); ent == nil {
				continue
			}
		} else {
			c.hits.Add(1)
		}
		select {
		case <-ent.done:
		default:
			if volume.HoldsRow(ctx) {
				return c.readAlone(ctx, addr, e)
			}
			select {
			case <-ent.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if ent.err != nil && !mine {
			// Whoever read it was cancelled, or expected something else: that
			// is not our error, so read it ourselves.
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			continue
		}
		if ent.err != nil {
			return nil, ent.err
		}
		if !ent.used.Load() {
			ent.used.Store(true)
		}
		// Another parent may have led to the same node before.
		if err := e.check(ent.node); err != nil {
			if !mine && !stale {
				// A read that overlapped a commit may have kept what stood
				// here before: look once at the device.
				stale = true
				c.forget(s, ent)
				continue
			}
			return nil, c.corrupt(addr, e, err)
		}
		return ent.node, nil
	}
}

// readAlone reads addr past the cache, for who must not wait for others' reads:
// one that has to rebuild the node waits for the row that the caller holds.
func (c *Cache) readAlone(ctx context.Context, addr disk.Logical, e Expect) (disk.Node, error) {
	c.misses.Add(1)
	buf := make(disk.Node, c.geometry.NodeSize)
	if err := c.read(ctx, addr, buf, e); err != nil {
		return nil, err
	}
	return buf, nil
}

// load reads addr into a new entry, and returns nil if somebody else was
// faster to claim it.
func (c *Cache) load(ctx context.Context, s *shard, addr disk.Logical, e Expect) *entry {
	ent := &entry{addr: addr, done: make(chan struct{})}
	s.mu.Lock()
	if s.entries[addr] != nil {
		s.mu.Unlock()
		return nil
	}
	s.entries[addr] = ent
	s.mu.Unlock()
	c.misses.Add(1)

	ent.err = errors.New("read of tree block panicked")
	defer func() {
		s.mu.Lock()
		if ent.err != nil {
			delete(s.entries, addr)
		} else {
			s.insertLocked(ent, c.perShard)
		}
		s.mu.Unlock()
		close(ent.done)
	}()
	buf := make(disk.Node, c.geometry.NodeSize)
	ent.err = c.read(ctx, addr, buf, e)
	ent.node = buf
	return ent
}

// insertLocked puts a loaded entry into the ring; where the ring is full, it
// takes the place of the first entry not used since the hand last passed.
func (s *shard) insertLocked(ent *entry, limit int) {
	if len(s.ring) < limit {
		s.ring = append(s.ring, ent)
		return
	}
	for range 2 * len(s.ring) {
		victim := s.ring[s.hand]
		if !victim.used.Swap(false) {
			break
		}
		s.hand = (s.hand + 1) % len(s.ring)
	}
	delete(s.entries, s.ring[s.hand].addr)
	s.ring[s.hand] = ent
	s.hand = (s.hand + 1) % len(s.ring)
}

// read fills buf from a mirror that holds what e expects.
func (c *Cache) read(ctx context.Context, addr disk.Logical, buf disk.Node, e Expect) error {
	g := c.geometry
	g.Generation = max(g.Generation, disk.TransID(c.generation.Load()))
	err := c.vol.ReadNode(ctx, addr, buf, func(n disk.Node) error {
		if err := e.check(n); err != nil {
			return err
		}
		if n.IsLeaf() {
			return disk.CheckLeaf(n, g)
		}
		return disk.CheckNode(n, g)
	})
	if corrupt, ok := errors.AsType[*volume.CorruptError](err); ok {
		c.place(corrupt, e)
	}
	return err
}

// place adds to err where in the trees the node was met.
func (c *Cache) place(err *volume.CorruptError, e Expect) {
	err.Tree = e.Owner
	if e.FirstKey != nil {
		err.Key = *e.FirstKey
	}
}

func (c *Cache) corrupt(addr disk.Logical, e Expect, cause error) error {
	err := &volume.CorruptError{Logical: addr, What: "tree block", Err: cause}
	c.place(err, e)
	return err
}

// Prefetch starts to read addr in the background if few such reads are under
// way; it never waits. Errors are left for the Get that needs the node.
func (c *Cache) Prefetch(ctx context.Context, addr disk.Logical, e Expect) {
	if v := c.view; v != nil {
		if v.over != nil {
			if n, _ := v.over.Get(addr); n != nil {
				return
			}
		}
		v.base.Prefetch(ctx, addr, e)
		return
	}
	s := c.shard(addr)
	s.mu.RLock()
	known := s.entries[addr] != nil
	s.mu.RUnlock()
	if known {
		return
	}
	select {
	case c.ahead <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-c.ahead }()
		c.load(ctx, s, addr, e)
	}()
}

// check compares a node with what was expected of it.
func (e *Expect) check(n disk.Node) error {
	if e.Level != AnyLevel && n.Level() != e.Level {
		return fmt.Errorf("%w: level %d, want %d", disk.ErrFormat, n.Level(), e.Level)
	}
	if e.Generation != 0 && n.Generation() != e.Generation {
		return fmt.Errorf("%w: %w: %d, want %d", disk.ErrFormat, volume.ErrOldNode, n.Generation(), e.Generation)
	}
	if err := checkOwner(n.Owner(), e.Owner); err != nil {
		return err
	}
	if e.FirstKey != nil && (n.NrItems() == 0 || n.NrItems() > disk.LeafDataSize(len(n))/disk.ItemHeaderSize || n.Key(0) != *e.FirstKey) {
		return fmt.Errorf("%w: does not start with key %v", disk.ErrFormat, *e.FirstKey)
	}
	return nil
}

// checkOwner says whether a node made for tree owner may be part of tree want.
// Subvolumes share nodes with their snapshots, and relocation leaves nodes of
// its trees behind; all other trees keep to themselves (btrfs_check_eb_owner,
// Linux 6.18).
func checkOwner(owner, want disk.ObjectID) error {
	switch {
	case want == 0 || owner == want:
		return nil
	case want.IsSubvolume() && (owner.IsSubvolume() || owner == disk.TreeReloc):
		return nil
	case want == disk.TreeReloc || want == disk.TreeDataReloc:
		return nil
	}
	return fmt.Errorf("%w: belongs to tree %v, want %v", disk.ErrFormat, owner, want)
}
