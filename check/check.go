package check

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/volume"
)

// Options says what to check.
type Options struct {
	// VerifyData reads all data: every copy of what has a checksum is verified,
	// copies without one are compared, and parity is computed anew. Default:
	// metadata only.
	VerifyData bool
	// Degraded says that devices are known to be missing: that alone is no
	// damage then, what cannot be read without them still is. Default: a
	// missing device is an error.
	Degraded bool
	// MaxFindings is how many findings of one code are kept; all are counted.
	// Default: DefaultMaxFindings.
	MaxFindings int
	// Workers is the number of goroutines. Default: GOMAXPROCS.
	Workers int
	// Memory is about how many bytes the check takes, whatever the size of the
	// filesystem: what does not fit goes to a temporary file. The chunks, devices
	// and subvolumes themselves come on top, at about 1 KiB each, and so do
	// findings. Default: DefaultMemory.
	Memory int64
	// TempDir is where the temporary file is made, if one is needed. Default:
	// os.TempDir.
	TempDir string
	// NoPaths leaves out the search for the paths of files. Default: they are
	// looked up for every finding that is kept.
	NoPaths bool
	// Finding is called as soon as a finding is made, without its path; it must
	// be safe for concurrent use. Default: nobody is told.
	Finding func(Finding)
	// Progress is called now and then, from any goroutine, one at a time.
	// Default: nobody is told.
	Progress func(Progress)
}

// Progress is how far a check has come.
type Progress struct {
	Phase string `json:"phase"`
	Done  uint64 `json:"done"`  // bytes
	Total uint64 `json:"total"` // bytes, estimated from the block groups; 0: unknown
}

// checker is one run.
type checker struct {
	ctx  context.Context
	o    Options
	vol  *volume.Volume
	sb   *disk.Superblock
	geo  disk.Geometry
	find *collector
	hash *hasher

	chunks        []disk.ChunkMapping
	chunkTreeUUID disk.UUID
	scan          *scanner
	workers       []*worker
	inodes        inodeRules
	stats         Stats
	progressMu    sync.Mutex    // one call of Progress at a time
	treeBytes     atomic.Uint64 // read so far
	treeTotal     atomic.Uint64 // 0: not known yet
	broken        atomic.Bool   // some tree block could not be read
	lost          bool          // chunks are missing, because the chunk tree is damaged

	limits     limits
	pool       *pool
	fullBlocks *sorter[disk.Logical]    // tree blocks whose references are by parent
	full       *paged[disk.Logical]     // the same, once they are all known
	spans      [spanKinds]*sorter[span] // what is known of data

	forests     [3]forest                     // system trees; extents; the rest
	logs        [2]forest                     // the tree of log trees; log trees
	groups      map[disk.Logical]*groupRecord // block groups that have a chunk
	results     []rootResult
	brokenTrees map[disk.ObjectID]bool // trees of which something could not be read, as far as asked for
	links       []link                 // the batch that is being read
	slots       []slot                 // what was found in it
	marks       int32                  // searches for the leaves of a tree
	rares       rareBudget
	badGroups   []int // chunks whose free space is not the complement

	mu           sync.Mutex // protects what follows while leaves are visited
	blockGroups  []groupRecord
	devItems     []disk.DevItem
	chunkItems   []disk.ChunkMapping
	devExtents   []devExtent
	rootItems    []rootRecord
	rootRefs     []rootLink
	rootBackrefs []rootLink
	rootOrphans  map[disk.ObjectID]bool
	caches       []cacheHeader
	cacheInodes  map[uint64]cacheInode
	cacheExtents []cacheExtent
	freeInfos    []freeInfo
	uuids        []uuidItem
	quota        quotaState
	logRoots     []rootRecord
}

// Run checks the filesystem on devs. The error is about the check itself, a
// cancelled context say; damage is in the report, that the filesystem cannot be
// opened included. Nothing is written.
func Run(ctx context.Context, devs []blockdev.Device, o Options) (*Report, error) {
	find := newCollector(o.maxFindings(), o.Finding)
	checkSupers(devs, find)
	vol, damaged, err := open(ctx, devs, find)
	switch {
	case err != nil:
		return nil, err
	case vol == nil:
		return find.report(), nil
	}
	return run(ctx, vol, find, damaged, o)
}

// RunVolume is Run for a volume that is open.
func RunVolume(ctx context.Context, vol *volume.Volume, o Options) (*Report, error) {
	find := newCollector(o.maxFindings(), o.Finding)
	var devs []blockdev.Device
	for _, d := range vol.Devices() {
		if !d.Missing {
			devs = append(devs, d.Device)
		}
	}
	checkSupers(devs, find)
	return run(ctx, vol, find, false, o)
}

func (o *Options) maxFindings() int {
	if o.MaxFindings > 0 {
		return o.MaxFindings
	}
	return DefaultMaxFindings
}

func run(ctx context.Context, vol *volume.Volume, find *collector, damaged bool, o Options) (r *Report, err error) {
	sb := vol.Super()
	c := &checker{
		ctx: ctx, o: o, vol: vol, sb: sb, geo: sb.Geometry(), find: find, hash: newHasher(), chunks: vol.Chunks(),
		rootOrphans: make(map[disk.ObjectID]bool), brokenTrees: make(map[disk.ObjectID]bool), cacheInodes: make(map[uint64]cacheInode),
	}
	if c.o.Workers <= 0 {
		c.o.Workers = runtime.GOMAXPROCS(0)
	}
	c.limits = newLimits(o.Memory, c.o.Workers)
	c.pool = newPool(c.limits.pool, o.TempDir)
	defer func() { err = errors.Join(err, c.pool.close()) }()
	c.fullBlocks = &sorter[disk.Logical]{pool: c.pool, compare: compareAddrs, absorb: sameAddr}
	c.spans = newSpans(c.pool)
	c.inodes = inodeRules{hash: c.hash, find: find, noHoles: sb.IncompatFlags&disk.IncompatNoHoles != 0, sector: uint64(c.geo.SectorSize), gen: sb.Generation, rares: &c.rares}
	c.rares.left.Store(c.limits.rares)
	for range c.o.Workers {
		c.workers = append(c.workers, newWorker(c))
	}
	c.scan = &scanner{vol: vol, sb: sb, geo: c.geo, find: find, workers: c.o.Workers, fsids: c.nodeFSIDs(), stale: make(map[disk.DevID]bool)}
	for _, d := range vol.Devices() {
		c.scan.stale[d.ID] = d.Stale
	}
	if o.Progress != nil {
		c.scan.progress = c.treeProgress
	}
	c.lost = len(vol.Damage()) > 0
	c.broken.Store(c.lost)
	c.notices()
	if err := c.trees(); err != nil {
		return nil, err
	}
	if err := c.compare(); err != nil {
		return nil, err
	}
	r = find.report()
	if !o.NoPaths {
		c.addPaths(r)
	}
	for _, w := range c.workers {
		c.stats.add(&w.stats)
	}
	c.stats.NodeBytes = c.stats.Nodes * uint64(c.geo.NodeSize)
	c.stats.Spilled = c.pool.out * pageBytes
	r.Stats, r.Complete = c.stats, !damaged
	return r, c.pool.failure()
}

// nodeFSIDs are the fsids that tree blocks may have: the filesystem's own, and
// those of its seeds.
func (c *checker) nodeFSIDs() []disk.UUID {
	out := []disk.UUID{c.sb.NodeFSID()}
	for _, d := range c.vol.Devices() {
		if d.Seed {
			out = append(out, d.Item.FSID)
		}
	}
	return out
}

// trees walks all trees: first those that say where the others are, then the
// extent tree, which says how the references of a block are kept, then the rest.
func (c *checker) trees() error {
	sys := &c.forests[0]
	sys.roots = []treeRoot{
		{id: disk.TreeChunk, link: link{addr: c.sb.ChunkRoot, gen: c.sb.ChunkRootGen, owner: disk.TreeChunk, level: int8(c.sb.ChunkRootLevel), root: true, kind: kindChunk}},
		{id: disk.TreeRoot, link: link{addr: c.sb.Root, gen: c.sb.Generation, owner: disk.TreeRoot, level: int8(c.sb.RootLevel), root: true, kind: kindRoot}},
	}
	c.readChunkTreeUUID()
	if err := c.walk(c.ctx, sys); err != nil {
		return err
	}
	c.adviseBackups()
	c.makeRoots()
	if err := c.walk(c.ctx, &c.forests[1]); err != nil {
		return err
	}
	c.collectFull()
	c.estimate()
	if err := c.walk(c.ctx, &c.forests[2]); err != nil {
		return err
	}
	if err := c.walkLogs(); err != nil {
		return err
	}
	for i := range c.forests {
		c.foldForest(&c.forests[i])
	}
	c.settleDeferred()
	return c.pool.failure()
}

// readChunkTreeUUID takes the UUID that all tree blocks carry from the chunk
// root. A filesystem on top of a seed has blocks with the seed's.
func (c *checker) readChunkTreeUUID() {
	for _, d := range c.vol.Devices() {
		if d.Seed {
			return
		}
	}
	b := make([]byte, c.geo.NodeSize)
	if c.vol.ReadNode(c.ctx, c.sb.ChunkRoot, b, nil) == nil {
		c.chunkTreeUUID = disk.Node(b).ChunkTreeUUID()
	}
}

// compare does what needs all trees.
func (c *checker) compare() error {
	c.checkDevices()
	sums := c.sumGroups()
	c.checkGroups(sums)
	if c.sb.CompatROFlags&disk.CompatROFreeSpaceTreeValid != 0 && c.sb.CompatROFlags&disk.CompatROFreeSpaceTree != 0 {
		var maps []bitmapEdge
		for _, w := range c.workers {
			maps = append(maps, w.maps...)
		}
		c.checkFreeSpace(sums, maps)
	}
	c.checkSpaceCaches(sums)
	c.checkRoots()
	if err := c.checkRefs(); err != nil {
		return err
	}
	if err := c.diagnoseFreeSpace(); err != nil {
		return err
	}
	if err := c.checkCsums(); err != nil {
		return err
	}
	if err := c.checkStripes(); err != nil {
		return err
	}
	if err := c.checkQuota(); err != nil || !c.o.VerifyData {
		return err
	}
	return c.verifyData()
}

// progress tells how far a phase has come.
func (c *checker) progress(phase string, done, total uint64) {
	if c.o.Progress != nil {
		c.progressMu.Lock()
		defer c.progressMu.Unlock()
		c.o.Progress(Progress{phase, done, total})
	}
}

// estimate takes the bytes of metadata from what the extent tree has in chunks
// that hold nothing else.
func (c *checker) estimate() {
	var total uint64
	for i, g := range c.sumGroups() {
		if c.chunks[i].Type&disk.BlockGroupData == 0 {
			total += g.used
		}
	}
	c.treeTotal.Store(total)
}

// treeProgress counts the tree blocks read.
func (c *checker) treeProgress(_, bytes uint64) {
	c.progress("metadata", c.treeBytes.Add(bytes), c.treeTotal.Load())
}

// roundUp rounds up to whole sectors.
func (c *checker) roundUp(n uint64) uint64 {
	m := uint64(c.geo.SectorSize) - 1
	return (n + m) &^ m
}

// notices turns what the volume found when it was opened into findings.
func (c *checker) notices() {
	for _, n := range c.vol.Notices() {
		f := Finding{Place: Place{Dev: n.Dev, DevName: n.Name}, What: n.Text}
		switch n.Kind {
		case volume.NoticeMissing:
			f.Code = CodeDeviceMissing
			if c.o.Degraded {
				f.Severity = Warning
			}
		case volume.NoticeSystemChunks:
			f.Code = CodeSystemArray
		case volume.NoticeChunkRoot:
			f.Code, f.Severity = CodeBackupRoot, Note
		case volume.NoticeDeviceCount:
			f.Code = CodeSuper
		case volume.NoticeTruncated:
			f.Code = CodeDeviceItem
		case volume.NoticeSuperCopies, volume.NoticeReadOnly:
			continue // checkSupers says more; not damage
		case volume.NoticeStale, volume.NoticeDuplicate, volume.NoticeFSIDChange:
			f.Code = CodeDeviceSet
		default:
			f.Code, f.Severity = CodeDeviceSet, Note
		}
		c.find.add(f)
	}
}

// checkSupers reads all copies of all superblocks.
func checkSupers(devs []blockdev.Device, find *collector) {
	for _, d := range devs {
		var best *disk.Superblock
		copies := volume.ReadSuperCopies(d)
		for _, sc := range copies {
			if sc.Err == nil && (best == nil || sc.Super.Generation > best.Generation && sc.Super.FSID == best.FSID) {
				best = sc.Super
			}
		}
		if best == nil {
			continue // opening it says why
		}
		if err := best.Validate(); err != nil {
			for _, line := range splitErrors(err) {
				find.add(Finding{Code: CodeSuper, Place: Place{Dev: best.DevItem.DevID, DevName: d.Name()}, What: line})
			}
		}
		if best.StripeSize != best.SectorSize {
			find.add(Finding{Code: CodeSuper, Place: Place{Dev: best.DevItem.DevID, DevName: d.Name()}, What: "the stripe size is not the sector size",
				Expected: fmt.Sprint(best.SectorSize), Found: fmt.Sprint(best.StripeSize)})
		}
		if ro := best.CompatROFlags; ro&disk.CompatROFreeSpaceTreeValid != 0 && ro&disk.CompatROFreeSpaceTree == 0 {
			find.add(Finding{Code: CodeSuper, Place: Place{Dev: best.DevItem.DevID, DevName: d.Name()}, What: "the free-space tree is marked as valid, but not as being there"})
		}
		for _, sc := range copies {
			checkSuperCopy(d, best, &sc, find)
		}
	}
}

func checkSuperCopy(d blockdev.Device, best *disk.Superblock, sc *volume.SuperCopy, find *collector) {
	if sc.Mirror > 0 && sc.Offset+disk.SuperInfoSize > best.DevItem.TotalBytes {
		return // behind the filesystem's end
	}
	at := Place{Dev: best.DevItem.DevID, DevName: d.Name(), Physical: sc.Offset}
	severity := Warning
	if sc.Mirror == 0 {
		severity = Error // Linux reads no other one when it mounts
	}
	switch {
	case sc.Err != nil:
		find.add(Finding{Code: CodeSuperCopy, Severity: severity, Place: at, What: fmt.Sprintf("superblock copy %d: %v", sc.Mirror, sc.Err)})
	case sc.Super.Generation != best.Generation || sc.Super.FSID != best.FSID:
		find.add(Finding{Code: CodeSuperCopy, Severity: severity, Place: at, What: fmt.Sprintf("superblock copy %d is of another commit", sc.Mirror),
			Expected: fmt.Sprintf("generation %d", best.Generation), Found: fmt.Sprintf("generation %d", sc.Super.Generation)})
	}
}

// splitErrors takes joined errors apart.
func splitErrors(err error) []string {
	var out []string
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range j.Unwrap() {
			out = append(out, splitErrors(e)...)
		}
		return out
	}
	return []string{err.Error()}
}
