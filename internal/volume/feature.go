package volume

import (
	"fmt"
	"math/bits"

	"gobtrfs/disk"
)

// featureName is one feature bit by the name that btrfs-progs gives it.
type featureName struct {
	bit  uint64
	name string
}

// supportedIncompat are the incompatible features that can be read.
const supportedIncompat = disk.IncompatMixedBackref | disk.IncompatDefaultSubvol | disk.IncompatMixedGroups |
	disk.IncompatCompressLZO | disk.IncompatCompressZstd | disk.IncompatBigMetadata | disk.IncompatExtendedIref |
	disk.IncompatRAID56 | disk.IncompatSkinnyMetadata | disk.IncompatNoHoles | disk.IncompatMetadataUUID |
	disk.IncompatRAID1C34 | disk.IncompatRaidStripeTree | disk.IncompatSimpleQuota

// supportedCompatRO are the features that a writer would have to know.
const supportedCompatRO = disk.CompatROFreeSpaceTree | disk.CompatROFreeSpaceTreeValid |
	disk.CompatROVerity | disk.CompatROBlockGroupTree

// refusedIncompat are the known features that are refused, by name. Bit 15 is
// what the fscrypt patches use; the mainline kernel leaves it free.
var refusedIncompat = [...]featureName{
	{disk.IncompatZoned, "zoned"},
	{disk.IncompatExtentTreeV2, "extent-tree-v2"},
	{1 << 15, "fscrypt"},
	{disk.IncompatRemapTree, "remap-tree"},
}

// refusedFlags are superblock flags of conversions that stopped half-way and
// left two forms of the same thing on disk. An unfinished fsid change of the
// second kind is not among them: see groupMembers.
var refusedFlags = [...]featureName{
	{disk.SuperFlagChangingFSID, "unfinished fsid change (btrfstune -u)"},
	{disk.SuperFlagChangingBGT, "unfinished block-group-tree conversion (btrfstune)"},
	{disk.SuperFlagChangingData, "unfinished change of the data checksums (btrfstune)"},
	{disk.SuperFlagChangingMeta, "unfinished change of the metadata checksums (btrfstune)"},
}

// gateFeatures refuses what cannot be read, by name, and collects what forbids
// writing.
func (v *Volume) gateFeatures(sb *disk.Superblock) error {
	for _, f := range refusedIncompat {
		if sb.IncompatFlags&f.bit != 0 {
			return &UnsupportedError{Feature: f.name}
		}
	}
	if unknown := sb.IncompatFlags &^ supportedIncompat; unknown != 0 {
		return &UnsupportedError{Feature: fmt.Sprintf("unknown incompat bit %d", bits.TrailingZeros64(unknown))}
	}
	for _, f := range refusedFlags {
		if sb.Flags&f.bit != 0 {
			return &UnsupportedError{Feature: f.name}
		}
	}
	if sb.CsumType.Size() == 0 {
		return &UnsupportedError{Feature: "checksum type " + sb.CsumType.String()}
	}
	if sb.Flags&(disk.SuperFlagMetadump|disk.SuperFlagMetadumpV2) != 0 {
		v.notice(Notice{Kind: NoticeMetadataDump, Text: "restored from a metadata dump (btrfs-image): file contents are not there"})
	}
	for unknown := sb.CompatROFlags &^ supportedCompatRO; unknown != 0; unknown &= unknown - 1 {
		v.forbidWriting(fmt.Sprintf("unknown compat_ro bit %d", bits.TrailingZeros64(unknown)))
	}
	if sb.SectorSize != 4096 {
		v.forbidWriting(fmt.Sprintf("sector size %d", sb.SectorSize))
	}
	if sb.IncompatFlags&disk.IncompatRaidStripeTree != 0 {
		v.forbidWriting("raid-stripe-tree")
	}
	if sb.Flags&disk.SuperFlagSeeding != 0 {
		v.forbidWriting("seed device")
	}
	if sb.Flags&disk.SuperFlagChangingFSID2 != 0 {
		v.forbidWriting("unfinished fsid change (btrfstune -m)")
	}
	return nil
}

func (v *Volume) forbidWriting(why string) {
	v.readOnly = append(v.readOnly, why)
	v.notice(Notice{Kind: NoticeReadOnly, Text: "read-only: " + why})
}
