package mkfs

import (
	"fmt"
	"strings"

	"gobtrfs/disk"
)

// features is a set of feature bits.
type features struct{ incompat, compatRO uint64 }

// Feature is a feature that can be chosen, by its name in btrfs-progs.
type Feature struct {
	Name    string
	Text    string
	Default bool

	incompat, compatRO uint64
}

// Features lists what Options.Features may name.
var Features = []Feature{
	{"mixed-bg", "data and metadata in the same block groups", false, disk.IncompatMixedGroups, 0},
	{"extref", "more than a node full of names for one inode in one directory", true, disk.IncompatExtendedIref, 0},
	{"skinny-metadata", "small extent items for tree blocks", true, disk.IncompatSkinnyMetadata, 0},
	{"no-holes", "no items for holes in files", true, disk.IncompatNoHoles, 0},
	{"raid56", "RAID5 and RAID6", false, disk.IncompatRAID56, 0},
	{"raid1c34", "RAID1 with three and four copies", false, disk.IncompatRAID1C34, 0},
	{"free-space-tree", "free space in a tree of its own", true, 0, disk.CompatROFreeSpaceTree | disk.CompatROFreeSpaceTreeValid},
	{"block-group-tree", "block group items in a tree of their own", true, 0, disk.CompatROBlockGroupTree},
}

// refused are features that btrfs-progs can make and this package does not, with
// the reason.
var refused = map[string]string{
	"quota":            "quotas are not made here",
	"squota":           "simple quotas are not made here",
	"zoned":            "zoned filesystems are not supported",
	"extent-tree-v2":   "extent-tree-v2 is not supported",
	"raid-stripe-tree": "the raid-stripe-tree is not made here",
	"remap-tree":       "remap-tree is not supported",
	"default-subvol":   "it is set when a default subvolume is chosen",
	"compress-lzo":     "it is set when lzo is used",
	"compress-zstd":    "it is set when zstd is used",
	"metadata-uuid":    "it is for changing the UUID of an existing filesystem",
	"big-metadata":     "it follows from the node size",
	"mixed-backref":    "it is always set",
}

// parseFeatures reads lists of feature names, separated by commas; "^" before a
// name turns it off, and "none" turns off all defaults.
func parseFeatures(lists ...string) (features, error) {
	f := features{incompat: disk.IncompatMixedBackref}
	for _, d := range Features {
		if d.Default {
			f.incompat |= d.incompat
			f.compatRO |= d.compatRO
		}
	}
	for _, list := range lists {
		for word := range strings.SplitSeq(list, ",") {
			if err := f.apply(strings.TrimSpace(word)); err != nil {
				return features{}, err
			}
		}
	}
	if f.compatRO&disk.CompatROBlockGroupTree != 0 && (f.compatRO&disk.CompatROFreeSpaceTree == 0 || f.incompat&disk.IncompatNoHoles == 0) {
		return features{}, fmt.Errorf("feature block-group-tree needs free-space-tree and no-holes")
	}
	return f, nil
}

func (f *features) apply(word string) error {
	name, off := strings.CutPrefix(word, "^")
	switch name {
	case "":
		return nil
	case "none":
		*f = features{incompat: disk.IncompatMixedBackref}
		return nil
	case "bgt":
		name = "block-group-tree"
	case "fst":
		name = "free-space-tree"
	}
	for _, d := range Features {
		if d.Name != name {
			continue
		}
		if off {
			f.incompat &^= d.incompat
			f.compatRO &^= d.compatRO
			if name == "free-space-tree" {
				f.compatRO &^= disk.CompatROBlockGroupTree
			}
			if name == "no-holes" {
				f.compatRO &^= disk.CompatROBlockGroupTree
			}
		} else {
			f.incompat |= d.incompat
			f.compatRO |= d.compatRO
		}
		return nil
	}
	if why, ok := refused[name]; ok {
		return fmt.Errorf("feature %s: %s", name, why)
	}
	return fmt.Errorf("unknown feature %q", name)
}

func (f features) noHoles() bool        { return f.incompat&disk.IncompatNoHoles != 0 }
func (f features) skinny() bool         { return f.incompat&disk.IncompatSkinnyMetadata != 0 }
func (f features) extref() bool         { return f.incompat&disk.IncompatExtendedIref != 0 }
func (f features) freeSpaceTree() bool  { return f.compatRO&disk.CompatROFreeSpaceTree != 0 }
func (f features) blockGroupTree() bool { return f.compatRO&disk.CompatROBlockGroupTree != 0 }
