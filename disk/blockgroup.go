package disk

import "strings"

// BlockGroupFlags is the type and the profile of a chunk or block group.
type BlockGroupFlags uint64

// Block group types and profiles. No profile bit means "single".
const (
	BlockGroupData     BlockGroupFlags = 1 << 0
	BlockGroupSystem   BlockGroupFlags = 1 << 1
	BlockGroupMetadata BlockGroupFlags = 1 << 2
	BlockGroupRAID0    BlockGroupFlags = 1 << 3
	BlockGroupRAID1    BlockGroupFlags = 1 << 4
	BlockGroupDUP      BlockGroupFlags = 1 << 5
	BlockGroupRAID10   BlockGroupFlags = 1 << 6
	BlockGroupRAID5    BlockGroupFlags = 1 << 7
	BlockGroupRAID6    BlockGroupFlags = 1 << 8
	BlockGroupRAID1C3  BlockGroupFlags = 1 << 9
	BlockGroupRAID1C4  BlockGroupFlags = 1 << 10

	BlockGroupTypeMask    = BlockGroupData | BlockGroupSystem | BlockGroupMetadata
	BlockGroupMixed       = BlockGroupData | BlockGroupMetadata
	BlockGroupRAID56Mask  = BlockGroupRAID5 | BlockGroupRAID6
	BlockGroupRAID1Mask   = BlockGroupRAID1 | BlockGroupRAID1C3 | BlockGroupRAID1C4
	BlockGroupProfileMask = BlockGroupRAID0 | BlockGroupDUP | BlockGroupRAID10 | BlockGroupRAID56Mask | BlockGroupRAID1Mask
)

// Type is the type bits alone.
func (f BlockGroupFlags) Type() BlockGroupFlags { return f & BlockGroupTypeMask }

// Profile is the profile bits alone.
func (f BlockGroupFlags) Profile() BlockGroupFlags { return f & BlockGroupProfileMask }

// String is the form of btrfs-progs: "Data|RAID1"; single has no second part.
func (f BlockGroupFlags) String() string {
	var s []string
	for _, t := range []struct {
		bit  BlockGroupFlags
		name string
	}{{BlockGroupData, "DATA"}, {BlockGroupSystem, "SYSTEM"}, {BlockGroupMetadata, "METADATA"}} {
		if f&t.bit != 0 {
			s = append(s, t.name)
		}
	}
	if f.Profile() != 0 {
		for _, p := range Profiles {
			if f&p.Flag != 0 {
				s = append(s, p.Name)
			}
		}
	}
	return strings.Join(s, "|")
}

// Profile says how a chunk of one RAID profile lies on its devices. The values
// are those of the kernel's btrfs_raid_array (volumes.c, Linux 6.18).
type Profile struct {
	Flag       BlockGroupFlags // 0 for single
	Name       string          // as btrfs-progs prints it
	SubStripes int             // stripes that hold the same data side by side (RAID10)
	DevStripes int             // stripes on one device (2 for DUP)
	DevsMax    int             // 0: any number
	DevsMin    int
	Increment  int // devices are used in multiples of this
	Copies     int // how often each byte is stored
	Parity     int // stripes of parity
	Tolerated  int // devices that may be missing
}

// Profiles is the table of all profiles; single is first.
var Profiles = [...]Profile{
	{0, "single", 1, 1, 1, 1, 1, 1, 0, 0},
	{BlockGroupDUP, "DUP", 1, 2, 1, 1, 1, 2, 0, 0},
	{BlockGroupRAID0, "RAID0", 1, 1, 0, 1, 1, 1, 0, 0},
	{BlockGroupRAID1, "RAID1", 1, 1, 2, 2, 2, 2, 0, 1},
	{BlockGroupRAID1C3, "RAID1C3", 1, 1, 3, 3, 3, 3, 0, 2},
	{BlockGroupRAID1C4, "RAID1C4", 1, 1, 4, 4, 4, 4, 0, 3},
	{BlockGroupRAID10, "RAID10", 2, 1, 0, 2, 2, 2, 0, 1},
	{BlockGroupRAID5, "RAID5", 1, 1, 0, 2, 1, 1, 1, 1},
	{BlockGroupRAID6, "RAID6", 1, 1, 0, 3, 1, 1, 2, 2},
}

// ProfileOf is the profile of flags; flags must hold at most one profile bit
// (the validators check it), else the first in the table is taken.
func ProfileOf(f BlockGroupFlags) *Profile {
	for i := range Profiles[1:] {
		if f&Profiles[i+1].Flag != 0 {
			return &Profiles[i+1]
		}
	}
	return &Profiles[0]
}

// ParseProfile finds a profile by its name, in any case.
func ParseProfile(name string) (*Profile, bool) {
	for i := range Profiles {
		if strings.EqualFold(Profiles[i].Name, name) {
			return &Profiles[i], true
		}
	}
	return nil, false
}

// DataStripes is the number of stripes' worth of distinct data that a chunk of
// numStripes stripes holds.
func (p *Profile) DataStripes(numStripes int) int {
	return (numStripes - p.Parity) / p.Copies
}
