package space

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/clock"
	"gobtrfs/internal/lockrank"
)

// Ranks of the package's locks; see "Lock order" in the package comment.
const (
	rankGroup lockrank.Rank = 10 + iota
	rankFS
	rankDevices
	rankInfo
	rankReserve
)

// ChunkWriter is what growth needs from the trees. Phase 1 of a chunk is
// InsertChunk; phase 2 is written by the caller when it likes, see NewGroups.
type ChunkWriter interface {
	// InsertChunk records c in the running transaction: the chunk item, the
	// device items' used bytes, and for a SYSTEM chunk the entry in the
	// superblock's array. Feature bits of the profile are its business too.
	//
	// It must join the running transaction in whatever state that is, and
	// must not wait for a transaction to begin or to end, nor take a lock of
	// the extent, device, block-group or free-space trees: somebody who holds
	// them may be waiting for this chunk. Nodes of the chunk tree come out of
	// system, which holds enough for the worst case.
	//
	// On error the trees are as before, and the error wraps ErrNoSpace,
	// ErrTransient, ErrAborted (if the filesystem was aborted), or is final.
	InsertChunk(ctx context.Context, c *Chunk, system *Reserve) (disk.TransID, error)
}

// FreeSpaceLoader reads the free space of a group as of the last commit: the
// complement of its extent items, superblock areas included.
type FreeSpaceLoader interface {
	LoadFreeSpace(ctx context.Context, c *Chunk, yield func(Range) error) error
}

// Stage is a way to make room without growing.
type Stage struct {
	Name string
	Lane Lane // LanePatient if it may wait for a transaction to end
	// BeforeGrowth: try it before a chunk is made. For what is cheap.
	BeforeGrowth bool
	// Run makes room; want is how much the waiting tickets lack. It returns
	// when what it could do is done. Room that was made is reported through
	// the ordinary calls (Release, CommitDone …), not here. An error is for
	// what broke, not for having found nothing.
	Run func(ctx context.Context, i *Info, want Bytes) error
}

// Events are called, where set, with no mutex held, from the goroutine in which
// the event happened. They must not block: the next chunk waits for them.
type Events struct {
	ChunkMade    func(c *Chunk, t disk.TransID)
	ChunkRemoved func(c *Chunk, t disk.TransID)
	GrowthFailed func(t disk.BlockGroupFlags, err error)
}

// Config says what a filesystem is like. The zero value of a field with a
// default is that default.
type Config struct {
	SectorSize Bytes // Default: 4096.
	NodeSize   Bytes // Default: 16384.
	Mixed      bool  // data and metadata share groups
	Writer     ChunkWriter
	// Loader is needed if groups are loaded without their free space.
	Loader FreeSpaceLoader
	// DataStages and MetadataStages make room, in this order. At most 8 each.
	// Mixed groups use MetadataStages.
	DataStages, MetadataStages []Stage
	Events                     Events
	Clock                      clock.Clock // Default: clock.System.

	GrowAttempts int           // flights in a row that may fail transiently. Default: 4.
	RetryDelay   time.Duration // before the first retry; doubles. Default: 1 ms.
	// DataChunkSize and MetadataChunkSize replace the largest size of a chunk.
	// Default: as the kernel.
	DataChunkSize, MetadataChunkSize Bytes
}

func (c Config) withDefaults() (Config, error) {
	c.SectorSize = cmp.Or(c.SectorSize, 4096)
	c.NodeSize = cmp.Or(c.NodeSize, 16384)
	c.GrowAttempts = cmp.Or(c.GrowAttempts, 4)
	c.RetryDelay = cmp.Or(c.RetryDelay, time.Millisecond)
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	switch {
	case c.SectorSize < 512 || c.SectorSize&(c.SectorSize-1) != 0 || c.SectorSize > stripeLen:
		return c, corruptf("sector size %d", c.SectorSize)
	case c.NodeSize < c.SectorSize || c.NodeSize&(c.NodeSize-1) != 0 || c.NodeSize > stripeLen:
		return c, corruptf("node size %d", c.NodeSize)
	case len(c.DataStages) > 8 || len(c.MetadataStages) > 8:
		return c, errors.New("more than 8 reclaim stages")
	}
	return c, nil
}

// FS is the space of one filesystem. Create it with New, add devices and
// groups, then Open it. Safe for concurrent use after Open.
type FS struct {
	// Immutable.
	cfg    Config
	sector Bytes
	units  Units
	infos  []*Info // metadata, system, data; without data if mixed
	global *Reserve
	commit *Reserve

	ctx    context.Context // of flights and stages; ends at Abort and Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // flights and stages
	// growSem is held while a chunk is made: one grower per filesystem. A
	// channel, because I/O happens under it.
	growSem chan struct{}

	epoch      atomic.Uint64
	floorHeld  atomic.Bool  // data growth was refused by a floor
	chunksLeft atomic.Int64 // data chunks that the unallocated space would make
	groups     atomic.Pointer[[]*Group]

	mu        lockrank.Mutex
	newGroups []*Group // protected by mu: phase 2 is due, in order of creation
	pinnedIn  map[disk.TransID]map[*Group]bool
	targets   map[disk.BlockGroupFlags]*disk.Profile // conversion under way, by type
	opened    bool

	devMu    lockrank.Mutex
	devs     []*device // protected by devMu, as everything below; by ID
	leaving  []leaving // chunks removed, their transaction not durable
	sysArray int       // bytes of the array in the superblock that are taken
}

// leaving is a chunk that was removed in a transaction which is not yet durable.
type leaving struct {
	trans disk.TransID
	chunk Chunk
}

// New makes an empty filesystem. Add its devices, then its groups, then Open.
func New(cfg Config) (*FS, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	fs := &FS{
		cfg: cfg, sector: cfg.SectorSize, units: Units{cfg.NodeSize},
		growSem:  make(chan struct{}, 1),
		pinnedIn: make(map[disk.TransID]map[*Group]bool),
		targets:  make(map[disk.BlockGroupFlags]*disk.Profile),
	}
	fs.ctx, fs.cancel = context.WithCancelCause(context.Background())
	fs.mu.Init(rankFS, 0)
	fs.devMu.Init(rankDevices, 0)
	fs.groups.Store(new([]*Group))
	fs.epoch.Store(1)
	system := newInfo(fs, disk.BlockGroupSystem, nil)
	if cfg.Mixed {
		fs.infos = []*Info{newInfo(fs, disk.BlockGroupMixed, cfg.MetadataStages), system}
	} else {
		fs.infos = []*Info{
			newInfo(fs, disk.BlockGroupMetadata, cfg.MetadataStages), system,
			newInfo(fs, disk.BlockGroupData, cfg.DataStages),
		}
	}
	fs.global = fs.Metadata().standing(true)
	fs.commit = fs.Metadata().standing(false)
	return fs, nil
}

// Metadata is the info that tree nodes come from.
func (fs *FS) Metadata() *Info { return fs.infos[0] }

// System is the info that nodes of the chunk tree come from. It does not grow
// by request: the grower keeps enough of it for its own needs.
func (fs *FS) System() *Info { return fs.infos[1] }

// Data is the info that file contents come from; with mixed groups it is the
// same as Metadata.
func (fs *FS) Data() *Info {
	if fs.cfg.Mixed {
		return fs.infos[0]
	}
	return fs.infos[2]
}

// GlobalReserve pays for what makes room and for trees without a reservation.
func (fs *FS) GlobalReserve() *Reserve { return fs.global }

// CommitReserve holds one commit's worst case.
func (fs *FS) CommitReserve() *Reserve { return fs.commit }

// info is the info of a group's flags, nil if there is none. Beside mixed groups
// Linux takes those of data or metadata alone and counts them together.
func (fs *FS) info(flags disk.BlockGroupFlags) *Info {
	t := flags.Type()
	if fs.cfg.Mixed && (t == disk.BlockGroupData || t == disk.BlockGroupMetadata) {
		t = disk.BlockGroupMixed
	}
	for _, i := range fs.infos {
		if i.flags == t {
			return i
		}
	}
	return nil
}

// Group finds the group that contains the address, nil if there is none.
func (fs *FS) Group(at disk.Logical) *Group {
	return groupAt(*fs.groups.Load(), at)
}

func groupAt(gs []*Group, at disk.Logical) *Group {
	n, ok := slices.BinarySearchFunc(gs, at, func(g *Group, at disk.Logical) int { return cmp.Compare(g.chunk.Start, at) })
	if ok {
		return gs[n]
	}
	if n > 0 && at < gs[n-1].chunk.Range().End() {
		return gs[n-1]
	}
	return nil
}

// Groups are all groups in order of address. The caller must not change the slice.
func (fs *FS) Groups() []*Group { return *fs.groups.Load() }

// publish makes a group visible and counts it. The caller then tells the info's protocol.
func (fs *FS) publish(g *Group) {
	fs.mu.Lock()
	opened := fs.opened
	for _, list := range []*atomic.Pointer[[]*Group]{&fs.groups, &g.info.groups} {
		next := *list.Load()
		n, _ := slices.BinarySearchFunc(next, g.chunk.Start, func(g *Group, at disk.Logical) int { return cmp.Compare(g.chunk.Start, at) })
		if opened { // readers may hold the old list; while loading there are none
			next = slices.Clone(next)
		}
		next = slices.Insert(next, n, g)
		list.Store(&next)
	}
	if g.fresh {
		fs.newGroups = append(fs.newGroups, g)
	}
	g.info.mu.Lock()
	g.info.change(counters{total: g.chunk.Length, used: g.used, readOnly: g.superBytes}, 0)
	g.info.mu.Unlock()
	fs.mu.Unlock()
	if opened {
		fs.refreshProfiles()
	}
}

// unpublish is the opposite of publish; the group must be empty, and read-only
// if it was ever open to allocations.
func (fs *FS) unpublish(g *Group) {
	defer fs.refreshProfiles()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	drop := func(p *atomic.Pointer[[]*Group]) {
		next := slices.DeleteFunc(slices.Clone(*p.Load()), func(o *Group) bool { return o == g })
		p.Store(&next)
	}
	drop(&fs.groups)
	drop(&g.info.groups)
	fs.newGroups = slices.DeleteFunc(fs.newGroups, func(o *Group) bool { return o == g })
}

// NewGroups are the groups whose phase 2 is due, in order of creation: for
// each, the caller writes the block group item, one device extent per stripe
// and the free-space items, then calls Written. They are usable meanwhile. A
// commit must find none left.
func (fs *FS) NewGroups() []*Group {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return slices.Clone(fs.newGroups)
}

// Written ends phase 2 of the group.
func (fs *FS) Written(g *Group) {
	g.mu.Lock()
	g.fresh = false
	g.mu.Unlock()
	fs.mu.Lock()
	fs.newGroups = slices.DeleteFunc(fs.newGroups, func(o *Group) bool { return o == g })
	fs.mu.Unlock()
}

// Abort ends all waiting and all growth: every waiter, once, and every later
// caller gets err, which then wraps ErrAborted. The first call counts.
func (fs *FS) Abort(err error) {
	if !errors.Is(err, ErrAborted) && !errors.Is(err, ErrClosed) {
		err = fmt.Errorf("%w: %w", ErrAborted, err)
	}
	fs.cancel(err)
	err = context.Cause(fs.ctx)
	for _, i := range fs.infos {
		i.mu.Lock()
		i.perform(i.proto.Abort(err, nil))
		i.mu.Unlock()
	}
}

// Close ends all waiting with ErrClosed and returns when no goroutine of the
// allocator is left (I13).
func (fs *FS) Close() {
	fs.Abort(ErrClosed)
	fs.wg.Wait()
}

// newEpoch says that there may be more room for chunks than before.
func (fs *FS) newEpoch() {
	e := Epoch(fs.epoch.Add(1))
	for _, i := range fs.infos {
		i.mu.Lock()
		i.perform(i.proto.EpochIs(ledger{i}, e, nil))
		i.mu.Unlock()
	}
}
