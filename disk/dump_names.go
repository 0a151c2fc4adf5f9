package disk

import (
	"fmt"
	"strings"
)

// bitNames lists names by bit number; a space stands between them and "-" for a
// bit without a name.
func bitNames(s string) []string {
	names := strings.Fields(s)
	for i, n := range names {
		if n == "-" {
			names[i] = ""
		}
	}
	return names
}

var (
	inodeFlagNames = bitNames("NODATASUM NODATACOW READONLY NOCOMPRESS PREALLOC SYNC IMMUTABLE APPEND NODUMP NOATIME DIRSYNC COMPRESS" +
		strings.Repeat(" -", 19) + " ROOT_ITEM_INIT VERITY")
	extentFlagNames   = bitNames("DATA TREE_BLOCK - - - - - - FULL_BACKREF")
	rootFlagNames     = bitNames("RDONLY" + strings.Repeat(" -", 47) + " DEAD")
	qgroupStatusNames = bitNames("ON RESCAN INCONSISTENT SIMPLE_MODE")
	qgroupLimitNames  = bitNames("MAX_RFER MAX_EXCL RSV_RFER RSV_EXCL RFER_CMPR EXCL_CMPR")
	freeSpaceNames    = bitNames("USING_BITMAPS")
	headerFlagNames   = bitNames("WRITTEN RELOC")
	groupFlagNames    = bitNames("DATA SYSTEM METADATA RAID0 RAID1 DUP RAID10 RAID5 RAID6 RAID1C3 RAID1C4")
	superFlagNames    = bitNames("WRITTEN RELOC ERROR" + strings.Repeat(" -", 29) +
		" SEEDING METADUMP METADUMP_V2 CHANGING_FSID CHANGING_FSID_V2 - CHANGING_BG_TREE CHANGING_DATA_CSUM CHANGING_META_CSUM")
	incompatNames = bitNames("MIXED_BACKREF DEFAULT_SUBVOL MIXED_GROUPS COMPRESS_LZO COMPRESS_ZSTD BIG_METADATA EXTENDED_IREF RAID56 " +
		"SKINNY_METADATA NO_HOLES METADATA_UUID RAID1C34 ZONED EXTENT_TREE_V2 RAID_STRIPE_TREE - SIMPLE_QUOTA REMAP_TREE")
	compatRONames = bitNames("FREE_SPACE_TREE FREE_SPACE_TREE_VALID VERITY BLOCK_GROUP_TREE")
)

// FileTypeName is the name of a directory entry's type.
func FileTypeName(t uint8) string {
	names := [...]string{"UNKNOWN", "FILE", "DIR", "CHRDEV", "BLKDEV", "FIFO", "SOCK", "SYMLINK", "XATTR"}
	if plain := t &^ FtEncrypted; int(plain) < len(names) {
		if t != plain {
			return names[plain] + "|ENCRYPTED"
		}
		return names[plain]
	}
	return fmt.Sprintf("DIR_ITEM.%d", t)
}

func (t FileExtentType) String() string {
	switch t {
	case FileExtentInline:
		return "inline"
	case FileExtentRegular:
		return "regular"
	case FileExtentPrealloc:
		return "prealloc"
	}
	return fmt.Sprintf("type-%d", uint8(t))
}

// QgroupID is "level/id" of a qgroup's number.
func QgroupID(id uint64) string { return fmt.Sprintf("%d/%d", id>>48, id&(1<<48-1)) }

// KeyText is a key for people, with names where an objectid or offset has one:
// "(EXTENT_CSUM EXTENT_CSUM 13631488)".
func KeyText(k Key) string {
	id, off := fmt.Sprint(uint64(k.ObjectID)), fmt.Sprint(k.Offset)
	switch k.Type {
	case KeyExtentItem, KeyMetadataItem, KeySharedBlockRef, KeySharedDataRef, KeyBlockGroupItem,
		KeyFreeSpaceInfo, KeyFreeSpaceExtent, KeyFreeSpaceBitmap, KeyRaidStripe:
		// both are numbers
	case KeyTreeBlockRef:
		off = ObjectID(k.Offset).String()
	case KeyExtentDataRef:
		off = fmt.Sprintf("%#x", k.Offset)
	case KeyDevItem:
		id = "DEV_ITEMS"
	case KeyChunkItem:
		id = "FIRST_CHUNK_TREE"
	case KeyPersistentItem:
		id = "DEV_STATS"
	case KeyDevExtent:
	case KeyUUIDSubvol, KeyUUIDReceivedSubvol:
		id, off = fmt.Sprintf("%#x", uint64(k.ObjectID)), fmt.Sprintf("%#x", k.Offset)
	case KeyQgroupInfo, KeyQgroupLimit:
		off = QgroupID(k.Offset)
	case KeyQgroupRelation:
		id, off = QgroupID(uint64(k.ObjectID)), QgroupID(k.Offset)
	case KeyRootItem:
		id = k.ObjectID.String()
		if k.ObjectID == TreeReloc || k.ObjectID == TreeLog {
			off = ObjectID(k.Offset).String()
		}
	case KeyRootRef, KeyRootBackref:
		id, off = k.ObjectID.String(), ObjectID(k.Offset).String()
	default:
		id = k.ObjectID.String()
	}
	name := k.Type.String()
	if k.Type == 0 {
		name = "UNTYPED"
	}
	return "(" + id + " " + name + " " + off + ")"
}
