package fusefs

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	btrfs "gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// spaceTotals is what statfs(2) tells, in bytes of file contents: the devices'
// bytes divided by what the profile of the data makes of them.
type spaceTotals struct {
	size, free, avail uint64
}

// usage is the block groups of one kind: logical bytes.
type usage struct {
	profile disk.BlockGroupFlags
	total   uint64
	used    uint64
	raw     uint64 // bytes on devices
}

// readTotals adds the filesystem up.
//
//	size   all bytes of all devices, at the price of the data's profile
//	free   size without what data and metadata use
//	avail  what can be written into files: free space in data block groups, and
//	       what chunks of the data's profile can still be made of the devices'
//	       unallocated bytes
func readTotals(ctx context.Context, fsys *btrfs.FS) (spaceTotals, error) {
	groups, err := readUsage(ctx, fsys)
	if err != nil {
		return spaceTotals{}, err
	}
	var holes []uint64
	var raw uint64
	for _, d := range fsys.Store().Volume().Devices() {
		raw += d.Item.TotalBytes
		if !d.Missing {
			holes = append(holes, d.Item.TotalBytes-min(d.Item.BytesUsed, d.Item.TotalBytes))
		}
	}
	return totals(groups, raw, func(data disk.BlockGroupFlags) uint64 { return allocatable(disk.ProfileOf(data), holes) }), nil
}

// runningTotals adds up a filesystem that is open for writing, as it is now:
// what was promised to writers counts as used.
func runningTotals(snap space.Snapshot) spaceTotals {
	var groups []usage
	var raw uint64
	rawOf := map[disk.BlockGroupFlags]uint64{}
	for _, d := range snap.Devices {
		raw += uint64(d.Allocated + d.Unallocated)
		for flags, n := range d.Chunks {
			rawOf[flags] += uint64(n)
		}
	}
	for _, p := range snap.Parts {
		flags := p.Type | p.Profile
		groups = append(groups, usage{profile: flags, total: uint64(p.Total), used: uint64(p.Used + p.Reserved + p.ReadOnly), raw: rawOf[flags]})
	}
	var promised, growable uint64
	for _, i := range snap.Infos {
		if i.Type&disk.BlockGroupData != 0 {
			promised, growable = uint64(i.Promised), uint64(snap.Growable[i.Type])
		}
	}
	t := totals(groups, raw, func(disk.BlockGroupFlags) uint64 { return growable })
	t.free, t.avail = t.free-min(promised, t.free), t.avail-min(promised, t.avail)
	return t
}

func totals(groups []usage, raw uint64, growable func(data disk.BlockGroupFlags) uint64) (t spaceTotals) {
	data := disk.BlockGroupData
	var most, dataTotal, dataRaw, usedRaw uint64
	for _, u := range groups {
		used := min(u.used, u.total)
		usedRaw += scale(used, u.raw, u.total)
		if u.profile&disk.BlockGroupData == 0 {
			continue
		}
		if u.total > most { // the profile of most of the data
			data, most = u.profile, u.total
		}
		t.avail += u.total - used
		dataTotal, dataRaw = dataTotal+u.total, dataRaw+u.raw
	}
	t.avail += growable(data)
	switch {
	case dataRaw > 0:
		t.size, t.free = scale(raw, dataTotal, dataRaw), scale(raw-min(usedRaw, raw), dataTotal, dataRaw)
	default: // a filesystem without data yet
		t.size, t.free = raw, raw-min(usedRaw, raw)
	}
	t.avail = min(t.avail, t.size)
	t.free = max(t.free, t.avail)
	return t
}

// scale is n*num/den; the product need not fit 64 bits.
func scale(n, num, den uint64) uint64 {
	if den == 0 {
		return n
	}
	return uint64(float64(n) * (float64(num) / float64(den)))
}

// readUsage adds up the block groups by type and profile.
func readUsage(ctx context.Context, fsys *btrfs.FS) ([]usage, error) {
	store := fsys.Store()
	id := disk.TreeExtent
	if fsys.Super().CompatROFlags&disk.CompatROBlockGroupTree != 0 {
		id = disk.TreeBlockGroup
	}
	tree, _, err := store.Tree(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read block groups: %w", err)
	}
	var out []usage
	for _, c := range store.Volume().Chunks() {
		k := disk.Key{ObjectID: disk.ObjectID(c.Logical), Type: disk.KeyBlockGroupItem, Offset: c.Length}
		data, ok, err := tree.Get(ctx, k)
		if err != nil {
			return nil, fmt.Errorf("read block groups: %w", err)
		}
		var item disk.BlockGroupItem
		if ok {
			if item, err = disk.ParseBlockGroupItem(data); err != nil {
				return nil, fmt.Errorf("read block groups: %w", &btrfs.CorruptError{Tree: id, Key: k, What: "item", Err: err})
			}
		}
		i := slices.IndexFunc(out, func(u usage) bool { return u.profile == c.Type })
		if i < 0 {
			i = len(out)
			out = append(out, usage{profile: c.Type})
		}
		out[i].total += c.Length
		out[i].used += item.Used
		out[i].raw += c.StripeLength() * uint64(len(c.Stripes))
	}
	return out, nil
}

// allocatable is how many bytes of contents fit into chunks of a profile that
// are made of the devices' unallocated bytes.
func allocatable(p *disk.Profile, holes []uint64) (sum uint64) {
	if p == nil {
		return 0
	}
	holes = slices.DeleteFunc(slices.Clone(holes), func(n uint64) bool { return n < uint64(p.DevStripes)*minStripe })
	if len(holes) == 0 {
		return 0
	}
	turn := max(turn, slices.Max(holes)/maxTurns)
	// Each round takes from the emptiest devices as much as the fullest of them
	// has, so a device leaves the game and the loop ends.
	for len(holes) >= p.DevsMin && len(holes) > 0 {
		slices.SortFunc(holes, func(a, b uint64) int { return cmp.Compare(b, a) })
		n := len(holes) - len(holes)%p.Increment
		if p.DevsMax > 0 {
			n = min(n, p.DevsMax)
		}
		if n < p.DevsMin || n == 0 {
			break
		}
		// All devices in use give the same, the smallest what it has; where more
		// devices are there than a chunk takes, they give in turns.
		take := holes[n-1] / uint64(p.DevStripes)
		if n < len(holes) {
			if over := (holes[n-1] - holes[n]) / uint64(p.DevStripes); over > 0 {
				take = min(take, over)
			} else {
				take = min(take, turn)
			}
		}
		sum += take * uint64(p.DataStripes(n*p.DevStripes))
		for i := range n {
			holes[i] -= take * uint64(p.DevStripes)
		}
		holes = slices.DeleteFunc(holes, func(n uint64) bool { return n < uint64(p.DevStripes)*minStripe })
	}
	return sum
}

const (
	// minStripe is the least that a device gives to a chunk (the kernel's
	// BTRFS_STRIPE_LEN).
	minStripe = 64 << 10
	// turn is what equally full devices give before others have their turn, as
	// much as a chunk takes of a device.
	turn uint64 = 1 << 30
	// maxTurns bounds the turns of devices that claim to be huge.
	maxTurns = 1024
)
