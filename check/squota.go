package check

import (
	"sync"

	"gobtrfs/disk"
)

// checkSimpleQuota compares the counts of simple quotas: each extent made since
// they were turned on counts for the subvolume that made it, whoever uses it
// now. A tree block says itself who that is, data has an owner reference.
func (c *checker) checkSimpleQuota() error {
	since := c.quota.status.EnableGen
	got := make(map[disk.ObjectID]uint64)
	for i := range c.forests {
		c.forests[i].each(func(n *nodeInfo) bool {
			if !n.bad && n.owner.IsSubvolume() && n.gen >= since {
				got[n.owner] += uint64(c.geo.NodeSize)
			}
			return true
		})
	}
	var mu sync.Mutex
	err := c.again(func(n *nodeInfo) bool { return n.kind == kindExtent }, func(_ *worker, _ *nodeInfo, n disk.Node) {
		for i := range n.NrItems() {
			k, b := n.Key(i), n.ItemData(i)
			if k.Type != disk.KeyExtentItem {
				continue
			}
			e, err := disk.ParseExtentItem(b)
			if err != nil || e.Flags&disk.ExtentFlagData == 0 || e.Generation < since {
				continue
			}
			refs, err := disk.InlineRefs(k, b)
			for err == nil && len(refs) > 0 {
				var r disk.ExtentRef
				var size int
				if r, size, err = disk.ParseInlineRef(refs); err != nil {
					break
				}
				if r.Type == disk.KeyExtentOwnerRef && r.Root.IsSubvolume() {
					mu.Lock()
					got[r.Root] += k.Offset
					mu.Unlock()
				}
				refs = refs[size:]
			}
		}
	})
	if err != nil {
		return err
	}
	uses := make(map[uint64]quotaUse)
	steps := 0
	for root, n := range got {
		if steps > maxQuotaSteps {
			c.quotaCut()
			return nil
		}
		for _, q := range c.qgroupsAbove(uint64(root), &steps) {
			u := uses[q]
			u.rfer, u.excl = u.rfer+n, u.excl+n
			uses[q] = u
		}
	}
	c.reportQgroups(uses)
	return nil
}
