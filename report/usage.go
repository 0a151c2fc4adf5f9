package report

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/btree"
)

// Usage is how a filesystem's space is used, in bytes.
type Usage struct {
	Label string
	FSID  disk.UUID

	DeviceSize  uint64 // sum over all devices
	Allocated   uint64 // of it in chunks
	Unallocated uint64
	Missing     uint64 // size of the devices that are not there
	Slack       uint64 // what devices have beyond what the filesystem uses of them
	UsedRaw     uint64 // on the devices, copies and parity included

	Free            uint64 // estimate for data: free in chunks, and new chunks of data's profile
	FreeMin         uint64 // the same with the most wasteful profile in use
	DataRatio       float64
	MetadataRatio   float64
	MultipleProfile bool

	Groups  []GroupUsage // data, metadata, system; single before other profiles
	Devices []DeviceUsage
}

// GroupUsage is one kind of block group with one profile.
type GroupUsage struct {
	Type    string // "Data", "Metadata", "System", or "Data+Metadata"
	Profile string
	Flags   disk.BlockGroupFlags
	Size    uint64 // logical
	Used    uint64 // logical
	Raw     uint64 // on the devices
	Chunks  int
}

// DeviceUsage is one device.
type DeviceUsage struct {
	ID          disk.DevID
	Name        string
	Missing     bool
	Size        uint64 // as the filesystem has it
	Slack       uint64
	Unallocated uint64
	Raw         []uint64 // parallel to Usage.Groups
}

// ReadUsage looks at the chunks, the devices and the block group items.
func ReadUsage(ctx context.Context, f *btrfs.FS) (*Usage, error) {
	vol := f.Store().Volume()
	u := &Usage{Label: f.Label(), FSID: f.UUID()}
	for _, d := range vol.Devices() {
		du := DeviceUsage{ID: d.ID, Name: d.Name, Missing: d.Missing, Size: d.Item.TotalBytes}
		if d.Missing {
			u.Missing += du.Size
		} else {
			du.Slack = d.Size - min(d.Size, du.Size)
		}
		u.DeviceSize += du.Size
		u.Slack += du.Slack
		u.Devices = append(u.Devices, du)
	}
	if err := u.addChunks(ctx, f); err != nil {
		return nil, err
	}
	for i := range u.Devices {
		d := &u.Devices[i]
		var raw uint64
		for _, n := range d.Raw {
			raw += n
		}
		d.Unallocated = d.Size - min(d.Size, raw)
		u.Unallocated += d.Unallocated
	}
	u.estimate()
	return u, nil
}

func (u *Usage) addChunks(ctx context.Context, f *btrfs.FS) error {
	chunks := f.Store().Volume().Chunks()
	used, err := blockGroupUse(ctx, f)
	if err != nil {
		return err
	}
	index := map[disk.BlockGroupFlags]int{}
	for i := range chunks {
		flags := chunks[i].Type
		if _, ok := index[flags]; !ok {
			index[flags] = 0
			u.Groups = append(u.Groups, GroupUsage{Type: typeName(flags), Profile: profileName(flags), Flags: flags})
		}
	}
	slices.SortFunc(u.Groups, func(a, b GroupUsage) int {
		if t := typeOrder(a.Flags) - typeOrder(b.Flags); t != 0 {
			return t
		}
		return int(a.Flags.Profile()) - int(b.Flags.Profile())
	})
	for i, g := range u.Groups {
		index[g.Flags] = i
	}
	devIndex := map[disk.DevID]int{}
	for i := range u.Devices {
		u.Devices[i].Raw = make([]uint64, len(u.Groups))
		devIndex[u.Devices[i].ID] = i
	}
	for i := range chunks {
		c := &chunks[i]
		g := &u.Groups[index[c.Type]]
		g.Chunks++
		g.Size += c.Length
		n := used(c)
		g.Used += n
		stripe := c.StripeLength()
		raw := stripe * uint64(len(c.Stripes))
		g.Raw += raw
		u.Allocated += raw
		for _, s := range c.Stripes {
			if d, ok := devIndex[s.DevID]; ok {
				u.Devices[d].Raw[index[c.Type]] += stripe
			}
		}
	}
	return nil
}

// blockGroupUse returns a function from a chunk to the bytes in use in it. A
// chunk without a block group item has none: it is about to be used, or about to
// go.
func blockGroupUse(ctx context.Context, f *btrfs.FS) (func(*disk.ChunkMapping) uint64, error) {
	id := disk.TreeExtent
	if f.Super().CompatROFlags&disk.CompatROBlockGroupTree != 0 {
		id = disk.TreeBlockGroup
	}
	tree, _, err := f.Store().Tree(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read block groups: %w", err)
	}
	used := map[disk.Logical]uint64{}
	for _, c := range f.Store().Volume().Chunks() {
		item, err := readBlockGroup(ctx, tree, &c)
		if errors.Is(err, syscall.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read block group %d: %w", uint64(c.Logical), err)
		}
		used[c.Logical] = item.Used
	}
	return func(c *disk.ChunkMapping) uint64 { return used[c.Logical] }, nil
}

func readBlockGroup(ctx context.Context, tree *btree.Tree, c *disk.ChunkMapping) (disk.BlockGroupItem, error) {
	key := disk.Key{ObjectID: disk.ObjectID(c.Logical), Type: disk.KeyBlockGroupItem, Offset: c.Length}
	data, ok, err := tree.Get(ctx, key)
	if err != nil {
		return disk.BlockGroupItem{}, err
	}
	if !ok {
		return disk.BlockGroupItem{}, syscall.ENOENT
	}
	return disk.ParseBlockGroupItem(data)
}

// estimate fills in what follows from the sums, as btrfs-progs reckons it.
func (u *Usage) estimate() {
	var dataSize, dataRaw, dataUsedRaw, metaSize, metaRaw, worst float64
	profiles := map[string]int{}
	for _, g := range u.Groups {
		ratio := 1.0
		if g.Size > 0 {
			ratio = float64(g.Raw) / float64(g.Size)
		}
		u.UsedRaw += uint64(float64(g.Used) * ratio)
		worst = max(worst, ratio)
		profiles[g.Type]++
		if profiles[g.Type] > 1 {
			u.MultipleProfile = true
		}
		if g.Flags&disk.BlockGroupData != 0 {
			dataSize += float64(g.Size)
			dataRaw += float64(g.Raw)
			dataUsedRaw += float64(g.Used) * ratio
		}
		if g.Flags&disk.BlockGroupMetadata != 0 {
			metaSize += float64(g.Size)
			metaRaw += float64(g.Raw)
		}
	}
	u.DataRatio, u.MetadataRatio = 1, 1
	if dataSize > 0 {
		u.DataRatio = dataRaw / dataSize
	}
	if metaSize > 0 {
		u.MetadataRatio = metaRaw / metaSize
	}
	inChunks := (dataRaw - dataUsedRaw) / u.DataRatio
	u.Free = uint64(inChunks + float64(u.Unallocated)/u.DataRatio)
	u.FreeMin = uint64(inChunks + float64(u.Unallocated)/max(1, worst))
}

func typeOrder(f disk.BlockGroupFlags) int {
	switch {
	case f&disk.BlockGroupData != 0:
		return 0
	case f&disk.BlockGroupMetadata != 0:
		return 1
	}
	return 2
}

func typeName(f disk.BlockGroupFlags) string {
	var names []string
	for _, t := range []struct {
		bit  disk.BlockGroupFlags
		name string
	}{{disk.BlockGroupData, "Data"}, {disk.BlockGroupMetadata, "Metadata"}, {disk.BlockGroupSystem, "System"}} {
		if f&t.bit != 0 {
			names = append(names, t.name)
		}
	}
	return strings.Join(names, "+")
}

func profileName(f disk.BlockGroupFlags) string {
	if p := disk.ProfileOf(f); p != nil {
		return p.Name
	}
	return "unknown"
}
