package space

import (
	"cmp"
	"slices"

	"gobtrfs/disk"
)

// GroupSpec describes a block group that exists on disk.
type GroupSpec struct {
	Chunk    Chunk
	Used     Bytes     // of the block group item
	ReadOnly bool      // for instance because its devices are missing
	Class    SizeClass // of data groups, if known
	// Free is the free space, superblock areas included. nil: read through
	// Config.Loader when first needed (not at all for full and empty groups).
	Free []Range
}

// AddDevice adds a device. After Open this is how a filesystem grows: its space
// is used at once.
func (fs *FS) AddDevice(spec DeviceSpec) error {
	if spec.Size < 0 {
		return corruptf("device %d has size %d", spec.ID, spec.Size)
	}
	fs.devMu.Lock()
	i, dup := fs.deviceIndex(spec.ID)
	if !dup {
		fs.devs = slices.Insert(fs.devs, i, newDevice(spec))
	}
	fs.devMu.Unlock()
	if dup {
		return corruptf("device %d exists twice", spec.ID)
	}
	fs.devicesChanged()
	return nil
}

// ChangeDevice replaces the size and the read-only mark of a device. It fails
// if an extent would lie beyond the new size.
func (fs *FS) ChangeDevice(spec DeviceSpec) error {
	if err := fs.replaceSpec(spec); err != nil {
		return err
	}
	fs.devicesChanged()
	return nil
}

func (fs *FS) replaceSpec(spec DeviceSpec) error {
	fs.devMu.Lock()
	defer fs.devMu.Unlock()
	d := fs.deviceLocked(spec.ID)
	if d == nil {
		return corruptf("device %d does not exist", spec.ID)
	}
	next := newDevice(spec)
	for _, e := range d.busy {
		if err := next.occupy(e); err != nil {
			return err
		}
	}
	*d = *next
	return nil
}

// RemoveDevice forgets a device without extents; ErrBusy if it has any, also
// such as wait for a commit.
func (fs *FS) RemoveDevice(id disk.DevID) error {
	fs.devMu.Lock()
	i, ok := fs.deviceIndex(id)
	busy := ok && len(fs.devs[i].busy) > 0
	if ok && !busy {
		fs.devs = slices.Delete(fs.devs, i, i+1)
	}
	fs.devMu.Unlock()
	switch {
	case !ok:
		return corruptf("device %d does not exist", id)
	case busy:
		return ErrBusy
	}
	fs.devicesChanged()
	return nil
}

// AddDeviceExtent occupies a piece of a device that belongs to no group which
// is or will be added: something else keeps it.
func (fs *FS) AddDeviceExtent(dev disk.DevID, off Physical, length Bytes, owner disk.Logical) error {
	fs.devMu.Lock()
	defer fs.devMu.Unlock()
	d := fs.deviceLocked(dev)
	if d == nil {
		return corruptf("device %d does not exist", dev)
	}
	return d.occupy(devExtent{off: off, length: length, chunk: owner})
}

// AddGroup adds a group that exists on disk, with the extents of its chunk on
// the devices, which must have been added before.
func (fs *FS) AddGroup(spec GroupSpec) error {
	i := fs.info(spec.Chunk.Flags)
	switch c := &spec.Chunk; {
	case i == nil:
		return corruptf("block group %d has type %v", c.Start, c.Flags)
	case c.Length <= 0 || c.Length%fs.sector != 0 || Bytes(c.Start)%fs.sector != 0 || c.Length/fs.sector > maxSectors || c.Range().End() < c.Start:
		return corruptf("block group %d has length %d", c.Start, c.Length)
	case spec.Used < 0 || spec.Used > c.Length:
		return corruptf("block group %d uses %d of %d bytes", c.Start, spec.Used, c.Length)
	case c.StripeSize <= 0 || disk.ProfileOf(c.Flags).DataStripes(len(c.Stripes)) <= 0:
		return corruptf("chunk %d has %d stripes of %d bytes", c.Start, len(c.Stripes), c.StripeSize)
	}
	g := fs.newGroup(i, spec.Chunk)
	g.used, g.class = spec.Used, spec.Class
	if err := fs.checkLogical(g); err != nil {
		return err
	}
	if err := g.initialFree(spec); err != nil {
		return err
	}
	if err := fs.occupyChunk(&g.chunk); err != nil {
		return err
	}
	fs.publish(g)
	if spec.ReadOnly {
		g.mu.Lock()
		g.readOnlyLocked()
		g.mu.Unlock()
	}
	return nil
}

// newGroup makes an unpublished group. Its superblock areas are found, its free
// space is not.
func (fs *FS) newGroup(i *Info, c Chunk) *Group {
	g := &Group{fs: fs, info: i, chunk: c, loading: make(chan struct{}, 1)}
	g.mu.Init(rankGroup, uint64(c.Start))
	for _, r := range c.SuperblockRanges() {
		g.superAreas = append(g.superAreas, r)
		g.superBytes += r.Length
	}
	return g
}

func (g *Group) initialFree(spec GroupSpec) error {
	if spec.Free == nil && spec.Used == 0 {
		spec.Free = []Range{spec.Chunk.Range()}
	}
	if spec.Used > spec.Chunk.Length-g.superBytes {
		return corruptf("block group %d uses %d bytes, superblock copies leave %d", spec.Chunk.Start, spec.Used, spec.Chunk.Length-g.superBytes)
	}
	if spec.Free == nil && spec.Used < spec.Chunk.Length {
		if g.fs.cfg.Loader == nil {
			return corruptf("free space of block group %d is unknown", spec.Chunk.Start)
		}
		g.hint.Store(int64(spec.Chunk.Length - spec.Used))
		return nil
	}
	return g.initFree(func(yield func(Range) error) error {
		for _, r := range spec.Free {
			if err := yield(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkLogical refuses a group that overlaps another (I8).
func (fs *FS) checkLogical(g *Group) error {
	gs := *fs.groups.Load()
	n, ok := slices.BinarySearchFunc(gs, g.chunk.Start, func(o *Group, at disk.Logical) int { return cmp.Compare(o.chunk.Start, at) })
	if ok || n > 0 && gs[n-1].chunk.Range().overlaps(g.chunk.Range()) || n < len(gs) && gs[n].chunk.Range().overlaps(g.chunk.Range()) {
		return corruptf("block group %d overlaps another", g.chunk.Start)
	}
	return nil
}

// occupyChunk marks the chunk's device extents, all or none.
func (fs *FS) occupyChunk(c *Chunk) error {
	fs.devMu.Lock()
	defer fs.devMu.Unlock()
	for n, s := range c.Stripes {
		d := fs.deviceLocked(s.Dev)
		err := corruptf("chunk %d is on device %d, which does not exist", c.Start, s.Dev)
		if d != nil {
			err = d.occupy(devExtent{off: s.Off, length: c.StripeSize, chunk: c.Start})
		}
		if err != nil {
			for _, s := range c.Stripes[:n] {
				fs.deviceLocked(s.Dev).release(s.Off)
			}
			return err
		}
	}
	if c.Flags&disk.BlockGroupSystem != 0 {
		fs.sysArray += c.sysArrayEntry()
	}
	return nil
}

// vacateChunk undoes occupyChunk of a chunk that was never written.
func (fs *FS) vacateChunk(c *Chunk) {
	fs.devMu.Lock()
	defer fs.devMu.Unlock()
	for _, s := range c.Stripes {
		fs.deviceLocked(s.Dev).release(s.Off)
	}
	if c.Flags&disk.BlockGroupSystem != 0 {
		fs.sysArray -= c.sysArrayEntry()
	}
}

// Open ends loading: profiles, estimates and overcommit are computed.
func (fs *FS) Open() {
	fs.mu.Lock()
	fs.opened = true
	fs.mu.Unlock()
	fs.devicesChanged()
}

// devicesChanged begins a new epoch with new estimates.
func (fs *FS) devicesChanged() {
	fs.mu.Lock()
	opened := fs.opened
	fs.mu.Unlock()
	if !opened {
		return
	}
	fs.refreshProfiles()
	fs.refreshAllowances()
	fs.newEpoch()
}

func (fs *FS) deviceIndex(id disk.DevID) (int, bool) {
	return slices.BinarySearchFunc(fs.devs, id, func(d *device, id disk.DevID) int { return cmp.Compare(d.ID, id) })
}

func (fs *FS) deviceLocked(id disk.DevID) *device {
	if i, ok := fs.deviceIndex(id); ok {
		return fs.devs[i]
	}
	return nil
}

// writableLocked is the number and the sum of sizes of the devices that take
// new chunks. devMu must be held.
func (fs *FS) writableLocked() (n int, size Bytes) {
	for _, d := range fs.devs {
		if !d.ReadOnly {
			n++
			size += d.Size
		}
	}
	return n, size
}

// roomLocked is what each writable device could give to chunks now. devMu must
// be held.
func (fs *FS) roomLocked() []Bytes {
	var free []Bytes
	for _, d := range fs.devs {
		if !d.ReadOnly {
			free = append(free, d.usable)
		}
	}
	return free
}

// SetTarget makes p the profile of new chunks of a type while a conversion is
// under way; nil ends it. Nothing learnt about room holds afterwards.
func (fs *FS) SetTarget(typ disk.BlockGroupFlags, p *disk.Profile) {
	fs.mu.Lock()
	if p == nil {
		delete(fs.targets, typ.Type())
	} else {
		fs.targets[typ.Type()] = p
	}
	fs.mu.Unlock()
	fs.devicesChanged()
}

// refreshProfiles recomputes which profile the next chunk of each type gets:
// it follows from the groups, the devices and the conversion under way. Groups
// without that profile's redundancy are then read-only, as after a mount by the
// kernel: nothing may be allocated in them, so nothing may be promised for them.
// So are those of metadata alone beside mixed ones, which must not get data.
// No lock may be held.
func (fs *FS) refreshProfiles() {
	fs.mu.Lock()
	fs.devMu.Lock()
	devices, _ := fs.writableLocked()
	fs.devMu.Unlock()
	var stale []*Info
	for _, i := range fs.infos {
		var inUse disk.BlockGroupFlags
		unfit := false
		for _, g := range *i.groups.Load() {
			inUse |= g.chunk.Flags.Profile()
		}
		next := reduceProfile(inUse, devices, fs.targets[i.flags])
		i.profile.Store(uint64(next))
		for _, g := range *i.groups.Load() {
			unfit = unfit || g.unfit.Load() != !g.carries(next)
		}
		if unfit {
			stale = append(stale, i)
		}
	}
	fs.mu.Unlock()
	for _, i := range stale {
		for _, g := range *i.groups.Load() {
			g.refit()
		}
	}
}

// carries says whether the group has all that the profile has, and is for all
// that the info is for: beside mixed groups one of metadata alone may stand.
func (g *Group) carries(profile disk.BlockGroupFlags) bool {
	profile |= g.info.flags
	return g.chunk.Flags&profile == profile
}

// refit makes the group read-only for want of the info's profile or type, or ends that.
func (g *Group) refit() {
	g.mu.Lock()
	unfit := !g.carries(g.info.nextProfile())
	changed := g.unfit.Swap(unfit) != unfit && !g.gone
	if changed && unfit {
		g.readOnlyLocked()
	}
	g.mu.Unlock()
	if changed && !unfit {
		g.ClearReadOnly()
	}
}

// nextProfile is the profile of the info's next chunk.
func (i *Info) nextProfile() disk.BlockGroupFlags { return disk.BlockGroupFlags(i.profile.Load()) }
