package txn

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/clock"
	"gobtrfs/internal/lockrank"
	"gobtrfs/internal/space"
	"gobtrfs/internal/volume"
)

// ErrAborted is wrapped by every error after a change failed half-way: the
// disk stays at the last commit and can be read.
var ErrAborted = errors.New("filesystem aborted, open it again")

// Defaults of Options.
const (
	DefaultCommitInterval = 30 * time.Second
	DefaultDirtyNodeBytes = 128 << 20
)

// Options of an FS.
type Options struct {
	// Clock is where times come from. With a clock.Manual operations also wait
	// for every commit that comes before them, so that what is written does not
	// depend on scheduling. Default: clock.System.
	Clock clock.Clock
	Rand  io.Reader // for UUIDs. Default: crypto/rand.
	// Committed is called at each commit when its superblock is durable, and
	// before anything that the one before refers to can be overwritten.
	// An error aborts. It runs beside operations of the next transaction and
	// must not start one.
	Committed func(sb *disk.Superblock) error
	// Flush is called when space is short, before a commit: to turn promises
	// for contents that wait in memory into extents. It must not wait for a
	// reservation. Nil: there is nothing of that kind.
	Flush func(ctx context.Context) error
	// Waiting is how many bytes of contents each subvolume has that no
	// operation has put in place, so that its qgroups go on promising room for
	// them. It is called under the writer. Nil: there are none.
	Waiting func() map[disk.ObjectID]uint64
	// Replay opens a filesystem with a pending log tree, which the caller then
	// replays (Replaying). Default: such a filesystem is refused.
	Replay bool
	// CommitInterval is how long a change may wait before it is committed
	// though nobody asks. Negative, or with a clock.Manual: for ever. Default:
	// DefaultCommitInterval.
	CommitInterval time.Duration
	// DirtyNodeBytes is how many bytes of tree blocks a transaction may gather
	// before it is committed though nobody asks. While the one before is still
	// being written, operations wait at five quarters of it. Default:
	// DefaultDirtyNodeBytes.
	DirtyNodeBytes int64
	// Space are events of the allocator.
	Space space.Events
	// Discard gives back to the devices what a commit has freed. Default: it is
	// only used again.
	Discard bool
	// DiscardFailed is told of discards that failed. Nil: nobody is.
	DiscardFailed func(volume.DeviceError)
	// Degraded writes although members are missing or have missed commits,
	// as far as the profiles in use do without them. Default: all must be there.
	Degraded bool
}

// FS is a filesystem that is open for writing. It is safe for concurrent use:
// operations take turns, readers of the running state share it between them,
// and a commit is written beside both.
type FS struct {
	// Immutable.
	vol           *volume.Volume
	cache         *block.Cache
	space         *space.FS
	opts          Options
	geometry      disk.Geometry
	nodeFSID      disk.UUID
	chunkTreeUUID disk.UUID
	hasUUIDGen    bool // the UUID tree is known to be complete
	inStep        bool // operations wait for commits, so that scheduling does not reach the disk
	members       members

	state rwLock // of the running transaction: who holds it for writing is "the writer"
	// shape is held for reading by joint operations, and for writing by one that
	// changes more of a tree than the contents of a leaf.
	shape   rwLock
	latches btree.Latches
	growth  chan struct{} // a semaphore: the chunk tree
	// admission is held by operations from before their promise until they end:
	// for writing by one that is alone because space is short.
	admission rwLock
	// contents is shared by those who write contents, which Still keeps out.
	contents rwLock

	failure   atomic.Pointer[error]
	abortOnce sync.Once
	// touched says that something changed in the running transaction. Set under
	// the writer or growth, cleared under both.
	touched atomic.Bool
	trans   atomic.Uint64 // the running transaction; changes under the writer and growth
	cycle   cycle
	kept    atomic.Pointer[keptRoots]
	// replaying, not nil: nothing may be committed. Cleared under the writer.
	replaying atomic.Pointer[Replay]

	dirty  *block.Dirty
	refs   refs
	stats  devStats
	mender mender

	treesMu lockrank.Mutex
	trees   map[disk.ObjectID]*Tree // protected by treesMu; gaining one needs the state at least for reading

	// Of the writer.
	root       *Tree
	extent     *Tree
	dev        *Tree
	csum       *Tree                 // nil: there is none
	groupTree  *Tree                 // where block group items are
	quota      atomic.Pointer[quota] // nil: there are none; changed by the writer
	fst        *freeTree
	groups     []*group // in order of address
	bytesUsed  uint64
	pool       space.Bytes // promised to the running operation
	committing bool
	// cacheDistrusted: a free-space cache of version 1 is marked as stale. Of the
	// writer.
	cacheDistrusted bool
	lastSubvol      disk.ObjectID // highest id given out
	changes         uint64        // counts changes, so that a failed operation can say whether it made any

	// Of growth.
	chunk    *Tree
	super    *disk.Superblock // of the next commit; the writer fills in the rest
	devItems map[disk.DevID]disk.DevItem
	system   *space.Reserve // pays for nodes of the chunk tree
	leaving  []disk.Logical // chunks removed in this transaction
	// unwritten are the chunks that were recorded and whose groups were not:
	// the allocator shows a group only some time after InsertChunk.
	unwritten []disk.Logical
	// chunkTrans is the transaction in which the last chunk was made.
	chunkTrans disk.TransID

	log *Log // of whoever took the cycle; nil: there is none
}

// Open makes the filesystem on v, whose committed state cache holds, writable.
// It refuses by name (*volume.UnsupportedError) what cannot be written.
func Open(ctx context.Context, v *volume.Volume, cache *block.Cache, o Options) (*FS, error) {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.CommitInterval == 0 {
		o.CommitInterval = DefaultCommitInterval
	}
	_, manual := o.Clock.(*clock.Manual)
	if manual {
		o.CommitInterval = -1
	}
	if o.DirtyNodeBytes <= 0 {
		o.DirtyNodeBytes = DefaultDirtyNodeBytes
	}
	sb := v.Super()
	if err := v.MayWrite(); err != nil {
		return nil, err
	}
	f := &FS{
		vol: v, cache: cache, opts: o, geometry: sb.Geometry(), nodeFSID: sb.NodeFSID(),
		hasUUIDGen: sb.UUIDTreeGeneration == uint64(sb.Generation), inStep: manual,
		growth: make(chan struct{}, 1), dirty: block.NewDirty(),
		trees: make(map[disk.ObjectID]*Tree), bytesUsed: sb.BytesUsed,
		super: sb.Clone(), devItems: make(map[disk.DevID]disk.DevItem),
	}
	f.trans.Store(uint64(sb.Generation) + 1)
	f.state.init()
	f.shape.init()
	f.shape.yields = shapeYields
	f.state.yields = stateYields
	f.latches.Init()
	f.admission.init()
	f.contents.init()
	f.refs.init()
	f.treesMu.Init(rankTrees, 0)
	f.cycle.init(sb.Generation)
	f.mender.mu.Init(rankMender, 0)
	f.mender.suspected = make(map[disk.Logical]int)
	f.members = membersOf(v)
	v.SetCommitted(f.committedBytes)
	if err := f.gate(); err != nil {
		return nil, err
	}
	if err := f.loadTrees(ctx); err != nil {
		return nil, err
	}
	if err := f.gateTrees(ctx); err != nil {
		return nil, err
	}
	if err := f.loadStats(ctx); err != nil {
		return nil, err
	}
	if err := f.loadQuota(ctx); err != nil {
		return nil, err
	}
	if err := f.openSpace(ctx); err != nil {
		return nil, err
	}
	if sb.LogRoot != 0 {
		f.replaying.Store(&Replay{fs: f, fresh: make(map[disk.Logical]int), used: make(map[int]bool)})
	}
	v.SetSuspected(f.suspect)
	return f, nil
}

func (f *FS) openSpace(ctx context.Context) error {
	var err error
	commit := space.Stage{
		Name: "commit", Lane: space.LanePatient,
		Run: func(ctx context.Context, _ *space.Info, _ space.Bytes) error { return f.Tidy(ctx) },
	}
	data, metadata := []space.Stage{commit}, []space.Stage{commit}
	if f.opts.Flush != nil {
		flush := space.Stage{
			Name: "flush", Lane: space.LanePatient,
			Run: func(ctx context.Context, _ *space.Info, _ space.Bytes) error { return f.opts.Flush(ctx) },
		}
		data = []space.Stage{flush, commit}
		// What contents in memory promise of metadata is a worst case that is
		// hardly ever used, so it goes before a chunk is made for it.
		flush.BeforeGrowth = true
		metadata = []space.Stage{flush, commit}
	}
	f.space, err = space.New(space.Config{
		SectorSize: space.Bytes(f.geometry.SectorSize), NodeSize: space.Bytes(f.geometry.NodeSize),
		Mixed: f.geometry.IncompatFlags&disk.IncompatMixedGroups != 0, Writer: f,
		DataStages: data, MetadataStages: metadata, Events: f.opts.Space, Clock: f.opts.Clock,
	})
	if err != nil {
		return err
	}
	if err := f.loadDevices(ctx); err != nil {
		return err
	}
	f.resizeReserves(f.reserveSizes())
	f.space.Open()
	return nil
}

func (f *FS) loadTrees(ctx context.Context) error {
	sb := f.super
	f.root = f.newTree(disk.TreeRoot, btree.Root{Bytenr: sb.Root, Level: int(sb.RootLevel), Generation: sb.Generation})
	f.chunk = f.newTree(disk.TreeChunk, btree.Root{Bytenr: sb.ChunkRoot, Level: int(sb.ChunkRootLevel), Generation: sb.ChunkRootGen})
	n, err := f.cache.Get(ctx, sb.ChunkRoot, block.Expect{Level: int(sb.ChunkRootLevel), Owner: disk.TreeChunk})
	if err != nil {
		return err
	}
	f.chunkTreeUUID = n.ChunkTreeUUID()
	if f.extent, err = f.Tree(ctx, disk.TreeExtent); err != nil {
		return err
	}
	if f.dev, err = f.Tree(ctx, disk.TreeDev); err != nil {
		return err
	}
	if f.csum, err = f.Tree(ctx, disk.TreeCsum); err != nil {
		return err
	}
	f.kept.Store(&keptRoots{f.extent.Root()})
	f.groupTree = f.extent
	if sb.CompatROFlags&disk.CompatROBlockGroupTree != 0 {
		if f.groupTree, err = f.Tree(ctx, disk.TreeBlockGroup); err != nil {
			return err
		}
	}
	if sb.CompatROFlags&disk.CompatROFreeSpaceTree != 0 {
		t, err := f.Tree(ctx, disk.TreeFreeSpace)
		if err != nil {
			return err
		}
		f.fst = &freeTree{tree: t, sector: uint64(f.geometry.SectorSize), partial: sb.CompatROFlags&disk.CompatROFreeSpaceTreeValid == 0}
	}
	return nil
}

// gate refuses what the superblock and the devices say cannot be written yet.
func (f *FS) gate() error {
	unsupported := func(what string) error { return &volume.UnsupportedError{Feature: "writing to " + what} }
	sb := f.super
	switch {
	case sb.LogRoot != 0 && !f.opts.Replay:
		return unsupported("a filesystem with a pending log tree that is not to be replayed")
	case sb.IncompatFlags&disk.IncompatMixedBackref == 0:
		return unsupported("a filesystem with extent references of version 0 (from before Linux 2.6.31)")
	}
	return f.gateMembers()
}

// gateTrees refuses what the trees say cannot be written yet.
func (f *FS) gateTrees(ctx context.Context) error {
	unsupported := func(what string) error {
		return &volume.UnsupportedError{Feature: "writing to a filesystem with " + what}
	}
	it, ok, err := f.root.Floor(ctx, disk.Key{ObjectID: disk.TreeReloc, Type: disk.KeyRootItem, Offset: 1<<64 - 1})
	if err != nil {
		return err
	}
	if ok && it.Key.ObjectID == disk.TreeReloc {
		return unsupported("a relocation that was interrupted")
	}
	it, ok, err = f.root.Ceil(ctx, disk.Key{ObjectID: disk.BalanceObjectID, Type: disk.KeyTemporaryItem})
	if err != nil {
		return err
	}
	if ok && it.Key.ObjectID == disk.BalanceObjectID {
		return unsupported("a balance that is under way")
	}
	data, ok, err := f.dev.Get(ctx, disk.Key{Type: disk.KeyDevReplace})
	if err != nil || !ok {
		return err
	}
	item, err := disk.ParseDevReplaceItem(data)
	if err == nil && item.UnderWay() {
		return unsupported("a device replacement under way")
	}
	return err
}

// Err is why nothing can be written any more, nil while it can.
func (f *FS) Err() error {
	if p := f.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// abort ends all writing (X3) and returns the error that everybody gets.
func (f *FS) abort(cause error) error {
	f.abortOnce.Do(func() {
		err := fmt.Errorf("%w: %w", ErrAborted, cause)
		f.failure.Store(&err)
		f.space.Abort(err)
	})
	return f.Err()
}

// Fail ends all writing because of a failure that leaves the caller without
// a way on, and returns the error that everybody gets from then on.
func (f *FS) Fail(cause error) error { return f.abort(cause) }

// Close ends all work, once a commit that is being written is done. What was
// not committed is lost.
func (f *FS) Close() {
	f.cycle.close()
	f.abort(space.ErrClosed)
	f.space.Close()
}

// Look runs a function that changes nothing while no operation runs. Others
// may look at the same time, and a commit be written; the function must not
// call Look, Do or Commit.
func (f *FS) Look(ctx context.Context, look func(ctx context.Context) error) error {
	if err := f.state.RLock(ctx); err != nil {
		return err
	}
	defer f.state.RUnlock()
	if err := f.Err(); err != nil {
		return err
	}
	return look(ctx)
}

// Running is the nodes as the running transaction sees them. Trees are read
// through it by the writer, or inside Look.
func (f *FS) Running() *block.Cache { return f.cache.Over(f.dirty) }

// RootTree is the tree of roots.
//
// REQUIRES: the writer, or Look for reading.
func (f *FS) RootTree() *Tree { return f.root }

// Space is the allocator.
func (f *FS) Space() *space.FS { return f.space }

// Volume is the devices.
func (f *FS) Volume() *volume.Volume { return f.vol }

// Trans is the running transaction. It stays the same for as long as the
// caller is inside Do or Look.
func (f *FS) Trans() disk.TransID { return disk.TransID(f.trans.Load()) }

// NeedIncompat sets an incompatible feature in the next commit's superblock.
//
// REQUIRES: the writer.
func (f *FS) NeedIncompat(ctx context.Context, flag uint64) error {
	if err := f.lockGrowth(ctx); err != nil {
		return err
	}
	defer f.unlockGrowth()
	f.super.IncompatFlags |= flag
	f.touch()
	return nil
}

// SetLabel sets the label in the next commit's superblock.
func (f *FS) SetLabel(ctx context.Context, label string) error {
	if len(label) >= disk.LabelSize || strings.ContainsRune(label, 0) {
		return fmt.Errorf("label of %d bytes: %w", len(label), syscall.EINVAL)
	}
	return f.Do(ctx, 1, space.ClassNormal, func(ctx context.Context) error {
		top, err := f.Tree(ctx, disk.TreeFS)
		if err != nil {
			return err
		}
		if err := f.lockGrowth(ctx); err != nil {
			return err
		}
		defer f.unlockGrowth()
		f.super.Label = label
		// A superblock names a root tree of its own generation, so something in
		// the root tree must change.
		top.Touch()
		return nil
	})
}

// Clock tells the time of changes.
func (f *FS) Clock() clock.Clock { return f.opts.Clock }

// CommitInterval is how long a change may wait before it is committed;
// negative: until somebody asks.
func (f *FS) CommitInterval() time.Duration { return f.opts.CommitInterval }

// SectorSize is the unit of file extents, in bytes.
func (f *FS) SectorSize() uint64 { return uint64(f.geometry.SectorSize) }

// Now is the time that changes are stamped with.
func (f *FS) Now() disk.Time { return stamp(f.opts.Clock.Now()) }

func stamp(t time.Time) disk.Time { return disk.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())} }

// NewUUID makes a random UUID.
func (f *FS) NewUUID() (disk.UUID, error) {
	var u disk.UUID
	if _, err := io.ReadFull(f.opts.Rand, u[:]); err != nil {
		return u, fmt.Errorf("make a UUID: %w", err)
	}
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u, nil
}

func acquire(ctx context.Context, sem chan struct{}) error {
	select {
	case sem <- struct{}{}:
		return nil
	default:
	}
	select {
	case sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *FS) lockWriter(ctx context.Context) error {
	if err := f.state.Lock(ctx); err != nil {
		return err
	}
	if err := f.Err(); err != nil {
		f.state.Unlock()
		return err
	}
	return nil
}

func (f *FS) lockGrowth(ctx context.Context) error { return acquire(ctx, f.growth) }

func (f *FS) unlockGrowth() { <-f.growth }

// Insert adds an item; see btree.Editor.
func (t *Tree) Insert(ctx context.Context, k disk.Key, data []byte) error {
	return t.note(t.Editor.Insert(ctx, k, data))
}

// Update replaces an item's data; see btree.Editor.
func (t *Tree) Update(ctx context.Context, k disk.Key, data []byte) error {
	return t.note(t.Editor.Update(ctx, k, data))
}

// Delete removes an item; see btree.Editor.
func (t *Tree) Delete(ctx context.Context, k disk.Key) error {
	return t.note(t.Editor.Delete(ctx, k))
}

// note counts a change that was or may have been made.
func (t *Tree) note(err error) error {
	if errors.Is(err, btree.ErrExists) || errors.Is(err, btree.ErrNotFound) || errors.Is(err, btree.ErrTooLarge) {
		return err
	}
	if t.id != disk.TreeChunk {
		t.fs.changes++
		t.fs.touch()
	}
	return err
}
