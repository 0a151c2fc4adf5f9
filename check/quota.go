package check

import "gobtrfs/disk"

// qgroupInfo is a QGROUP_INFO item.
type qgroupInfo struct {
	id uint64
	disk.QgroupInfo
}

type qgroupRelation struct{ member, parent uint64 }

// quotaState is what the quota tree says.
type quotaState struct {
	status    disk.QgroupStatus
	hasStatus bool
	infos     []qgroupInfo
	limits    []uint64
	parents   []qgroupRelation
	relations []disk.Key
}

func (c *checker) checkQuota() {}
