package space

import "gobtrfs/disk"

// InfoStats counts what happened in an info since it was made.
type InfoStats struct {
	Tickets, Granted, Failed, Cancelled uint64 // requests that had to wait, and how that ended
	Flights, ChunksMade, ChunksRemoved  uint64
	Stages                              uint64 // reclaim stages that ran
}

// Usage is the state of an info, or the sum of its groups of one profile.
type Usage struct {
	Type    disk.BlockGroupFlags
	Profile disk.BlockGroupFlags // of the next chunk, or of the groups
	Groups  int
	Total, Used, Reserved, Pinned, ReadOnly,
	Promised Bytes // promised without a place; only of a whole info
	Overcommit  Bytes // what may be promised beyond the groups
	LargestHole Bytes // an upper bound while groups are unread
	IndexMemory Bytes // of the free-space index
	Waiting     int   // tickets
	Gen         Gen
	Stats       InfoStats
}

// DeviceUsage is the state of a device.
type DeviceUsage struct {
	DeviceSpec
	Allocated   Bytes // in chunks
	Unallocated Bytes // not in chunks, without the reserved start
	Pending     Bytes // of Unallocated: usable only after the next commit
	LargestHole Bytes
	Chunks      map[disk.BlockGroupFlags]Bytes // raw bytes by type and profile
}

// Snapshot is the state of a filesystem's space. Each info is consistent in
// itself; what happens while it is taken may be in one and not in the other.
type Snapshot struct {
	Infos   []Usage // metadata, system, data
	Parts   []Usage // by info and profile, in order of first group
	Devices []DeviceUsage
	Epoch   Epoch
	// SystemArray is how much of the superblock's 2048 bytes is taken.
	SystemArray int
	// Growable is how many logical bytes each info could still grow by, if
	// it alone did.
	Growable map[disk.BlockGroupFlags]Bytes
}

// Usage is the state of the info.
func (i *Info) Usage() Usage {
	profile := i.nextProfile()
	gs := *i.groups.Load()
	u := Usage{Type: i.flags, Profile: profile, Groups: len(gs)}
	for _, g := range gs {
		p := g.usage()
		u.LargestHole, u.IndexMemory = max(u.LargestHole, p.LargestHole), u.IndexMemory+p.IndexMemory
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.c
	u.Total, u.Used, u.Reserved, u.Pinned, u.ReadOnly = c.total, c.used, c.reserved, c.pinned, c.readOnly
	u.Promised, u.Overcommit = i.mayUse(), i.allow
	u.Waiting, u.Gen, u.Stats = i.proto.Queued(), i.proto.Gen(), i.stats
	return u
}

// Usage is the state of the group.
func (g *Group) Usage() Usage { return g.usage() }

func (g *Group) usage() Usage {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := Usage{
		Type: g.chunk.Flags.Type(), Profile: g.chunk.Flags.Profile(), Groups: 1,
		Total: g.chunk.Length, Used: g.used, Reserved: g.reserved, Pinned: g.pinned, ReadOnly: g.superBytes,
	}
	if g.readOnly > 0 {
		u.ReadOnly += g.idle()
	} else {
		u.LargestHole = Bytes(g.hint.Load())
	}
	if g.free != nil {
		u.IndexMemory = g.free.memory()
	}
	for _, p := range g.pins {
		u.IndexMemory += p.memory()
	}
	return u
}

// Snapshot takes the state of everything.
func (fs *FS) Snapshot() Snapshot {
	s := Snapshot{Epoch: Epoch(fs.epoch.Load()), Growable: make(map[disk.BlockGroupFlags]Bytes)}
	for _, i := range fs.infos {
		s.Infos = append(s.Infos, i.Usage())
		for _, g := range *i.groups.Load() {
			s.addPart(g.usage())
		}
	}
	raw := make(map[disk.DevID]map[disk.BlockGroupFlags]Bytes)
	for _, g := range fs.Groups() {
		for _, st := range g.chunk.Stripes {
			if raw[st.Dev] == nil {
				raw[st.Dev] = make(map[disk.BlockGroupFlags]Bytes)
			}
			raw[st.Dev][g.chunk.Flags] += g.chunk.StripeSize
		}
	}
	profiles := make([]*disk.Profile, len(fs.infos))
	for k, i := range fs.infos {
		profiles[k] = disk.ProfileOf(i.nextProfile())
	}
	fs.devMu.Lock()
	defer fs.devMu.Unlock()
	for k, i := range fs.infos {
		s.Growable[i.flags] = estimate(profiles[k], fs.roomLocked())
	}
	s.SystemArray = fs.sysArray
	for _, d := range fs.devs {
		_, hole := d.hole(noBytes)
		u := DeviceUsage{DeviceSpec: d.DeviceSpec, LargestHole: hole, Unallocated: d.unallocated(), Chunks: raw[d.ID]}
		u.Pending = u.Unallocated - d.usable
		for _, e := range d.busy {
			if !e.freed {
				u.Allocated += e.length
			}
		}
		s.Devices = append(s.Devices, u)
	}
	return s
}

func (s *Snapshot) addPart(u Usage) {
	for k := range s.Parts {
		p := &s.Parts[k]
		if p.Type == u.Type && p.Profile == u.Profile {
			p.Groups++
			p.Total, p.Used, p.Reserved, p.Pinned, p.ReadOnly = p.Total+u.Total, p.Used+u.Used, p.Reserved+u.Reserved, p.Pinned+u.Pinned, p.ReadOnly+u.ReadOnly
			p.LargestHole, p.IndexMemory = max(p.LargestHole, u.LargestHole), p.IndexMemory+u.IndexMemory
			return
		}
	}
	s.Parts = append(s.Parts, u)
}

// spaceErrorLocked explains why t failed, as far as the info knows; the rest
// is added by withDevices. mu must be held.
func (i *Info) spaceErrorLocked(t Ticket) *SpaceError {
	e := &SpaceError{
		Type: i.flags, Need: t.Bytes, Piece: t.Piece,
		Free: i.free.load() - i.allow, Overcommit: i.allow + (ledger{i}).extra(t.Class), Pinned: i.c.pinned,
	}
	if t.Class == ClassNoWait || t.Class == ClassEmergency {
		return e
	}
	e.GrowthFailed = i.growthSaid
	for n, s := range i.stages {
		if i.proto.stages(t.Class)&(1<<n) != 0 {
			e.Tried = append(e.Tried, s.Name)
		}
	}
	return e
}

// withDevices completes the explanation. No lock may be held.
func (e *SpaceError) withDevices(i *Info) *SpaceError {
	e.Profile = i.nextProfile()
	for _, g := range *i.groups.Load() {
		e.LargestHole = max(e.LargestHole, g.usage().LargestHole)
	}
	i.fs.devMu.Lock()
	defer i.fs.devMu.Unlock()
	for _, d := range i.fs.devs {
		_, hole := d.hole(noBytes)
		e.Unallocated = append(e.Unallocated, DeviceFree{d.ID, d.unallocated(), hole})
	}
	return e
}
