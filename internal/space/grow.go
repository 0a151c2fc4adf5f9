package space

import (
	"errors"
	"fmt"

	"gobtrfs/disk"
)

// scarceChunks is the number of unallocated data chunks below which holes of
// the wrong size class are used before a new chunk is made (D4).
const scarceChunks = 10

// grow makes one chunk for the info. growSem is held; nothing else is.
//
// The order matters: what can say "no space" comes before anything is touched
// (room on the devices, floors, the array in the superblock, space for the
// chunk tree), then the device extents are taken, then the trees are changed,
// and only then may anybody see the group.
func (fs *FS) grow(i *Info, spec GrowSpec) GrowResult {
	if fs.cfg.Writer == nil {
		return GrowResult{Outcome: GrowNoSpace, Err: errors.New("the filesystem cannot grow")}
	}
	epoch := Epoch(fs.epoch.Load())
	if i.flags == disk.BlockGroupData {
		defer fs.refreshAllowances() // planning lowered them
	}
	c, none := fs.planChunk(i, spec)
	system := fs.System().NewReserve()
	defer system.Close()
	if none == nil {
		made, err := fs.ensureSystem(len(c.Stripes), system)
		if err != nil {
			return fs.classify(err, epoch)
		}
		if made { // it may lie where c was to lie
			c, none = fs.planChunk(i, spec)
		}
	}
	if none != nil {
		none.Outcome, none.Epoch = GrowNoSpace, epoch
		return *none
	}
	c.Start = fs.nextLogical()
	if err := fs.occupyChunk(c); err != nil {
		fs.Abort(err)
		return GrowResult{Outcome: GrowAborted}
	}
	undo := true
	defer func() {
		if undo {
			fs.vacateChunk(c)
		}
	}()
	trans, err := fs.cfg.Writer.InsertChunk(fs.ctx, c, system)
	if err != nil {
		return fs.classify(err, epoch)
	}
	undo = false
	system.Close() // whoever is granted from the group finds nothing promised to its flight
	if err := fs.publishNew(i, c); err != nil {
		fs.Abort(err)
		return GrowResult{Outcome: GrowAborted}
	}
	if fs.cfg.Events.ChunkMade != nil {
		fs.cfg.Events.ChunkMade(c, trans)
	}
	return GrowResult{Outcome: GrowMade, Epoch: epoch}
}

// publishNew makes the group of a chunk that was just made, counts and shows it.
func (fs *FS) publishNew(i *Info, c *Chunk) error {
	g := fs.newGroup(i, *c)
	g.fresh = true
	if err := g.initialFree(GroupSpec{Chunk: *c}); err != nil {
		return err
	}
	fs.publish(g)
	fs.refreshAllowances()
	i.mu.Lock()
	i.stats.ChunksMade++
	i.mu.Unlock()
	if i == fs.Metadata() && fs.floorHeld.Swap(false) {
		fs.newEpoch() // metadata is not low any more: data may grow
	}
	return nil
}

// planChunk chooses the layout of the next chunk, or says what growth could
// still give. Nothing is touched.
func (fs *FS) planChunk(i *Info, spec GrowSpec) (*Chunk, *GrowResult) {
	profile := i.nextProfile()
	metaProfile := fs.Metadata().nextProfile()
	fs.devMu.Lock()
	defer fs.devMu.Unlock()
	rules := fs.rulesLocked(i, profile)
	// What is lacking was counted with overcommit, which chunks replace.
	limit := estimate(disk.ProfileOf(profile), fs.roomLocked()) - i.overcommit(spec.Class)
	c, err := plan(fs.devs, rules)
	if err != nil {
		return nil, &GrowResult{Err: err}
	}
	if i.flags == disk.BlockGroupData {
		if c, err = fs.keepFloorsLocked(c, rules, metaProfile); err != nil {
			fs.floorHeld.Store(true)
			return nil, &GrowResult{Err: err}
		}
	}
	piece := longestUsable(c)
	switch {
	case limit < spec.Need:
		err = fmt.Errorf("%v are missing, unallocated space can become %v", spec.Need, limit)
	case piece < spec.Piece:
		err = fmt.Errorf("the next chunk would have %v in one piece, not %v", piece, spec.Piece)
	default:
		return c, nil
	}
	return nil, &GrowResult{Err: err, Limit: limit, Piece: piece}
}

// rulesLocked are the inputs for the info's next chunk. devMu must be held.
func (fs *FS) rulesLocked(i *Info, profile disk.BlockGroupFlags) chunkRules {
	_, writable := fs.writableLocked()
	r := chunkRules{
		flags: i.flags | profile, writable: writable,
		maxChunk: DefaultChunkSize(i.flags, writable), leafMax: leafStripes(fs.cfg.NodeSize),
	}
	switch {
	case i.flags&disk.BlockGroupData != 0 && fs.cfg.DataChunkSize > 0:
		r.maxChunk = fs.cfg.DataChunkSize
	case i.flags == disk.BlockGroupMetadata && fs.cfg.MetadataChunkSize > 0:
		r.maxChunk = fs.cfg.MetadataChunkSize
	}
	return r
}

// overcommit is what a class may be promised beyond the groups.
func (i *Info) overcommit(c Class) Bytes {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.allow + ledger{i}.extra(c)
}

// longestUsable is the longest piece of a new chunk between its superblock areas.
func longestUsable(c *Chunk) Bytes {
	at, best := c.Start, Bytes(0)
	for _, r := range c.SuperblockRanges() {
		best = max(best, Bytes(r.Start-at))
		at = r.End()
	}
	return max(best, Bytes(c.Range().End()-at))
}

// keepFloorsLocked returns c, or a smaller chunk, such that metadata can still
// be given what it has promised and, if it is low, one chunk more (I14). Each
// turn halves the chunk. devMu must be held.
func (fs *FS) keepFloorsLocked(c *Chunk, r chunkRules, metaProfile disk.BlockGroupFlags) (*Chunk, error) {
	for try := 0; ; try++ {
		left := estimate(disk.ProfileOf(metaProfile), fs.roomAfterLocked(c))
		need := fs.metadataNeedLocked(metaProfile, left)
		if left >= need {
			return c, nil
		}
		r.stripe = roundDown(c.StripeSize/2, stripeLen)
		if try == 6 || r.stripe < 16*MiB {
			return nil, fmt.Errorf("the rest of the devices is kept for %v of metadata", need)
		}
		var err error
		if c, err = plan(fs.devs, r); err != nil {
			return nil, err
		}
	}
}

// metadataNeedLocked is what metadata must find on the devices after a data
// chunk is made that leaves it left: what it has promised beyond what it has,
// and one chunk if it has less than its standing reserves. It lowers the
// allowances to what left permits before it reads the promises, so that none
// can be added meanwhile. devMu must be held.
func (fs *FS) metadataNeedLocked(profile disk.BlockGroupFlags, left Bytes) Bytes {
	m := fs.Metadata()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setAllowance(min(m.allow, left/64), min(m.allowHalf, left/2))
	room := m.c.total - m.c.hard()
	need := max(0, m.mayUse()-room)
	if room < m.standingLocked() {
		need += fs.metadataChunkLocked(profile)
	}
	return need
}

// metadataChunkLocked is the size of one metadata chunk, with nothing in its way.
func (fs *FS) metadataChunkLocked(profile disk.BlockGroupFlags) Bytes {
	r := fs.rulesLocked(fs.Metadata(), profile)
	return min(r.maxChunk, roundUp(r.writable/10, 16*MiB))
}

// roomAfterLocked is roomLocked as it would be with c. devMu must be held.
func (fs *FS) roomAfterLocked(c *Chunk) []Bytes {
	var free []Bytes
	for _, d := range fs.devs {
		if d.ReadOnly {
			continue
		}
		n := d.usable
		for _, s := range c.Stripes {
			if s.Dev == d.ID {
				n -= c.StripeSize
			}
		}
		free = append(free, n)
	}
	return free
}

// nextLogical is behind the highest chunk, those included whose removal is not
// yet durable, and aligned: chunks that btrfs-convert makes end anywhere, and
// Linux aligns tree blocks to the start of their group only.
func (fs *FS) nextLogical() disk.Logical {
	end := disk.Logical(deviceStart)
	if gs := *fs.groups.Load(); len(gs) > 0 {
		end = max(end, gs[len(gs)-1].chunk.Range().End())
	}
	fs.devMu.Lock()
	defer fs.devMu.Unlock()
	for _, l := range fs.leaving {
		end = max(end, l.chunk.Range().End())
	}
	return disk.Logical(roundUp(Bytes(end), stripeLen))
}

// ensureSystem fills system with what a chunk of so many stripes can cost in
// the chunk tree, and makes a SYSTEM chunk first if there is not enough.
func (fs *FS) ensureSystem(stripes int, system *Reserve) (made bool, err error) {
	need := fs.units.System(stripes)
	i := fs.System()
	if err := i.Reserve(fs.ctx, need, ClassNoWait); err == nil {
		system.hold(need)
		return false, nil
	}
	if err := fs.growSystem(); err != nil {
		return false, fmt.Errorf("no space for the chunk tree: %w", err)
	}
	if err := i.Reserve(fs.ctx, need, ClassNoWait); err != nil {
		return true, err
	}
	system.hold(need)
	return true, nil
}

// growSystem makes a SYSTEM chunk. Its group is shown before the trees are
// changed, because the chunk tree's new nodes may have to come out of it; only
// the chunk tree takes from it, and only the grower changes the chunk tree.
func (fs *FS) growSystem() error {
	i := fs.System()
	profile := i.nextProfile()
	fs.devMu.Lock()
	c, err := plan(fs.devs, fs.rulesLocked(i, profile))
	if err == nil && fs.sysArray+c.sysArrayEntry() > sysArrayBytes {
		err = fmt.Errorf("the superblock's array has %d bytes left, an entry takes %d", sysArrayBytes-fs.sysArray, c.sysArrayEntry())
	}
	fs.devMu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	c.Start = fs.nextLogical()
	if err := fs.occupyChunk(c); err != nil {
		return fmt.Errorf("%w: %w", ErrAborted, err)
	}
	if err := fs.publishNew(i, c); err != nil {
		return fmt.Errorf("%w: %w", ErrAborted, err)
	}
	g := fs.Group(c.Start)
	need := fs.units.System(len(c.Stripes))
	if err := i.Reserve(fs.ctx, need, ClassNoWait); err != nil {
		return fs.withdraw(g, err)
	}
	system := i.NewReserve()
	system.hold(need)
	defer system.Close()
	trans, err := fs.cfg.Writer.InsertChunk(fs.ctx, c, system)
	if err != nil {
		system.Close()
		return fs.withdraw(g, err)
	}
	if fs.cfg.Events.ChunkMade != nil {
		fs.cfg.Events.ChunkMade(c, trans)
	}
	return nil
}

// withdraw takes back a SYSTEM group whose chunk could not be recorded, for
// the reason err. If nodes lie in it already there is no way back.
func (fs *FS) withdraw(g *Group, err error) error {
	g.mu.Lock()
	empty := g.used == 0 && g.reserved == 0 && g.pinned == 0
	if empty {
		g.readOnly, g.gone = 1, true
		g.account(counters{total: -g.chunk.Length, readOnly: -g.superBytes}, 0)
	}
	g.mu.Unlock()
	if !empty {
		return fmt.Errorf("%w: SYSTEM chunk %d is in use but not recorded: %w", ErrAborted, g.chunk.Start, err)
	}
	fs.unpublish(g)
	fs.vacateChunk(&g.chunk)
	return err
}

// hold puts n bytes that the caller was promised into the reserve.
func (r *Reserve) hold(n Bytes) {
	r.mu.Lock()
	r.size += n
	r.have += n
	r.mu.Unlock()
}

// refreshAllowances recomputes what metadata may promise beyond its groups:
// a part of what the unallocated space could still become, less one data
// chunk (kernel: calc_available_free_space, 7.1). SYSTEM and mixed space are
// never overcommitted: the former must exist before it is needed, and of the
// latter data takes every byte it was promised.
func (fs *FS) refreshAllowances() {
	metaProfile, dataProfile := fs.Metadata().nextProfile(), fs.Data().nextProfile()
	fs.devMu.Lock()
	defer fs.devMu.Unlock()
	_, writable := fs.writableLocked()
	room := fs.roomLocked()
	dataChunk := min(fs.rulesLocked(fs.Data(), dataProfile).maxChunk, writable/10, GiB)
	avail := max(0, estimate(disk.ProfileOf(metaProfile), room)-dataChunk)
	fs.chunksLeft.Store(int64(estimate(disk.ProfileOf(dataProfile), room) / max(1, dataChunk)))
	if fs.cfg.Mixed {
		return
	}
	m := fs.Metadata()
	m.mu.Lock()
	m.setAllowance(max(0, avail/64-1), max(0, avail/2-1))
	m.perform(m.proto.Freed(ledger{m}, nil))
	m.mu.Unlock()
}
