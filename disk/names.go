package disk

import "fmt"

// String is the item type's name in the vocabulary of btrfs-progs.
func (t KeyType) String() string {
	switch t {
	case KeyInodeItem:
		return "INODE_ITEM"
	case KeyInodeRef:
		return "INODE_REF"
	case KeyInodeExtref:
		return "INODE_EXTREF"
	case KeyXattrItem:
		return "XATTR_ITEM"
	case KeyVerityDesc:
		return "VERITY_DESC_ITEM"
	case KeyVerityMerkle:
		return "VERITY_MERKLE_ITEM"
	case KeyOrphanItem:
		return "ORPHAN_ITEM"
	case KeyDirLogItem:
		return "DIR_LOG_ITEM"
	case KeyDirLogIndex:
		return "DIR_LOG_INDEX"
	case KeyDirItem:
		return "DIR_ITEM"
	case KeyDirIndex:
		return "DIR_INDEX"
	case KeyExtentData:
		return "EXTENT_DATA"
	case KeyExtentCsum:
		return "EXTENT_CSUM"
	case KeyRootItem:
		return "ROOT_ITEM"
	case KeyRootBackref:
		return "ROOT_BACKREF"
	case KeyRootRef:
		return "ROOT_REF"
	}
	return t.systemName()
}

// systemName names the item types that no subvolume holds.
func (t KeyType) systemName() string {
	switch t {
	case KeyExtentItem:
		return "EXTENT_ITEM"
	case KeyMetadataItem:
		return "METADATA_ITEM"
	case KeyExtentOwnerRef:
		return "EXTENT_OWNER_REF"
	case KeyTreeBlockRef:
		return "TREE_BLOCK_REF"
	case KeyExtentDataRef:
		return "EXTENT_DATA_REF"
	case KeySharedBlockRef:
		return "SHARED_BLOCK_REF"
	case KeySharedDataRef:
		return "SHARED_DATA_REF"
	case KeyBlockGroupItem:
		return "BLOCK_GROUP_ITEM"
	case KeyFreeSpaceInfo:
		return "FREE_SPACE_INFO"
	case KeyFreeSpaceExtent:
		return "FREE_SPACE_EXTENT"
	case KeyFreeSpaceBitmap:
		return "FREE_SPACE_BITMAP"
	case KeyDevExtent:
		return "DEV_EXTENT"
	case KeyDevItem:
		return "DEV_ITEM"
	case KeyChunkItem:
		return "CHUNK_ITEM"
	case KeyRaidStripe:
		return "RAID_STRIPE"
	case KeyQgroupStatus:
		return "QGROUP_STATUS"
	case KeyQgroupInfo:
		return "QGROUP_INFO"
	case KeyQgroupLimit:
		return "QGROUP_LIMIT"
	case KeyQgroupRelation:
		return "QGROUP_RELATION"
	case KeyTemporaryItem:
		return "TEMPORARY_ITEM"
	case KeyPersistentItem:
		return "PERSISTENT_ITEM"
	case KeyDevReplace:
		return "DEV_REPLACE"
	case KeyUUIDSubvol:
		return "UUID_KEY_SUBVOL"
	case KeyUUIDReceivedSubvol:
		return "UUID_KEY_RECEIVED_SUBVOL"
	case KeyStringItem:
		return "STRING_ITEM"
	}
	return fmt.Sprintf("UNKNOWN.%d", uint8(t))
}

// String names the well-known ids, and prints the others as numbers. An id has
// these names only as a tree or objectid: inode numbers print with %d.
func (id ObjectID) String() string {
	switch id {
	case TreeRoot:
		return "ROOT_TREE"
	case TreeExtent:
		return "EXTENT_TREE"
	case TreeChunk:
		return "CHUNK_TREE"
	case TreeDev:
		return "DEV_TREE"
	case TreeFS:
		return "FS_TREE"
	case RootTreeDir:
		return "ROOT_TREE_DIR"
	case TreeCsum:
		return "CSUM_TREE"
	case TreeQuota:
		return "QUOTA_TREE"
	case TreeUUID:
		return "UUID_TREE"
	case TreeFreeSpace:
		return "FREE_SPACE_TREE"
	case TreeBlockGroup:
		return "BLOCK_GROUP_TREE"
	case TreeRaidStripe:
		return "RAID_STRIPE_TREE"
	case TreeRemap:
		return "REMAP_TREE"
	case BalanceObjectID:
		return "BALANCE"
	case OrphanObjectID:
		return "ORPHAN"
	case TreeLog:
		return "TREE_LOG"
	case TreeLogFixup:
		return "TREE_LOG_FIXUP"
	case TreeReloc:
		return "TREE_RELOC"
	case TreeDataReloc:
		return "DATA_RELOC_TREE"
	case ExtentCsumObjectID:
		return "EXTENT_CSUM"
	case FreeSpaceObjectID:
		return "FREE_SPACE"
	case FreeInoObjectID:
		return "FREE_INO"
	case MultipleObjectIDs:
		return "MULTIPLE"
	}
	return fmt.Sprint(uint64(id))
}

// String is "(objectid TYPE offset)".
func (k Key) String() string {
	return fmt.Sprintf("(%d %v %d)", uint64(k.ObjectID), k.Type, k.Offset)
}
