package check

import (
	"fmt"

	"gobtrfs/disk"
)

// visitChunk reads a leaf of the chunk tree.
func (c *checker) visitChunk(info *nodeInfo, n disk.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n.NrItems() {
		k := n.Key(i)
		switch k.Type {
		case disk.KeyDevItem:
			if d, err := disk.ParseDevItem(n.ItemData(i)); err == nil {
				c.devItems = append(c.devItems, d)
			}
		case disk.KeyChunkItem:
			if ch, err := disk.ParseChunk(n.ItemData(i)); err == nil {
				c.chunkItems = append(c.chunkItems, disk.ChunkMapping{Logical: disk.Logical(k.Offset), Chunk: ch})
			}
		default:
			c.find.add(Finding{Code: CodeItem, Place: Place{Tree: disk.TreeChunk, Key: keyOf(k), Logical: info.addr}, What: "an item that the chunk tree does not hold"})
		}
	}
}

// devExtent is a device extent with its key.
type devExtent struct {
	dev   disk.DevID
	start uint64
	disk.DevExtent
}

// visitDev reads a leaf of the device tree.
func (c *checker) visitDev(info *nodeInfo, n disk.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n.NrItems() {
		k := n.Key(i)
		switch k.Type {
		case disk.KeyDevExtent:
			if d, err := disk.ParseDevExtent(n.ItemData(i)); err == nil {
				c.devExtents = append(c.devExtents, devExtent{disk.DevID(k.ObjectID), k.Offset, d})
			}
		case disk.KeyDevReplace:
			if r, err := disk.ParseDevReplaceItem(n.ItemData(i)); err == nil && r.UnderWay() {
				c.find.add(Finding{Code: CodeReplacePending, Place: Place{Tree: disk.TreeDev, Key: keyOf(k), Logical: info.addr}, What: "a device replacement has not finished"})
			}
		}
	}
}

// rootRecord is a root item with its place.
type rootRecord struct {
	key  disk.Key
	item disk.RootItem
	from disk.Logical
}

// rootLink is a ROOT_REF or a ROOT_BACKREF.
type rootLink struct {
	parent, child disk.ObjectID
	dir, index    uint64
	name          string
	from          disk.Logical
}

// cacheHeader is the header of a v1 free-space cache.
type cacheHeader struct {
	group disk.Logical
	disk.FreeSpaceHeader
}

// visitRoot reads a leaf of the root tree: what it says about trees, and the
// files in it.
func (c *checker) visitRoot(w *worker, s *slot, n disk.Node) {
	info := &s.info
	c.visitFile(w, s, n)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n.NrItems() {
		k, b := n.Key(i), n.ItemData(i)
		switch {
		case k.Type == disk.KeyRootItem:
			if r, err := disk.ParseRootItem(b); err == nil {
				c.rootItems = append(c.rootItems, rootRecord{k, r, info.addr})
			}
		case k.Type == disk.KeyRootRef || k.Type == disk.KeyRootBackref:
			r, err := disk.ParseRootRef(b)
			if err != nil {
				continue
			}
			l := rootLink{k.ObjectID, disk.ObjectID(k.Offset), uint64(r.DirID), r.Sequence, string(r.Name), info.addr}
			if k.Type == disk.KeyRootRef {
				c.rootRefs = append(c.rootRefs, l)
				continue
			}
			l.parent, l.child = l.child, l.parent
			c.rootBackrefs = append(c.rootBackrefs, l)
		case k.Type == disk.KeyOrphanItem && k.ObjectID == disk.OrphanObjectID:
			c.rootOrphans[disk.ObjectID(k.Offset)] = true
		case k.ObjectID == disk.FreeSpaceObjectID && k.Type == 0:
			if h, err := disk.ParseFreeSpaceHeader(b); err == nil {
				c.caches = append(c.caches, cacheHeader{disk.Logical(k.Offset), h})
			}
		case k.Type == disk.KeyInodeItem || k.Type == disk.KeyExtentData:
			c.noteCacheItem(k, b)
		case k.ObjectID == disk.BalanceObjectID:
			c.find.add(Finding{Code: CodeBalancePending, Place: Place{Tree: disk.TreeRoot, Key: keyOf(k)}, What: "a balance has not finished"})
		}
	}
}

// uuidItem is one subvolume that the UUID tree names.
type uuidItem struct {
	key  disk.Key
	root disk.ObjectID
}

// visitUUID reads a leaf of the UUID tree.
func (c *checker) visitUUID(info *nodeInfo, n disk.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n.NrItems() {
		k := n.Key(i)
		if k.Type != disk.KeyUUIDSubvol && k.Type != disk.KeyUUIDReceivedSubvol {
			// Old versions of mkfs gave the tree a top directory.
			if k.Type != disk.KeyInodeItem && k.Type != disk.KeyInodeRef {
				c.find.add(Finding{Code: CodeItem, Place: Place{Tree: disk.TreeUUID, Key: keyOf(k), Logical: info.addr}, What: "an item that the UUID tree does not hold"})
			}
			continue
		}
		ids, err := disk.ParseUUIDItem(n.ItemData(i))
		if err != nil {
			continue
		}
		for _, id := range ids {
			c.uuids = append(c.uuids, uuidItem{k, id})
		}
	}
}

// visitQuota reads a leaf of the quota tree.
func (c *checker) visitQuota(info *nodeInfo, n disk.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := &c.quota
	for i := range n.NrItems() {
		k, b := n.Key(i), n.ItemData(i)
		switch k.Type {
		case disk.KeyQgroupStatus:
			if s, err := disk.ParseQgroupStatus(b); err == nil {
				q.status, q.hasStatus = s, true
			}
		case disk.KeyQgroupInfo:
			if qi, err := disk.ParseQgroupInfo(b); err == nil {
				q.infos = append(q.infos, qgroupInfo{k.Offset, qi})
			}
		case disk.KeyQgroupRelation:
			if uint64(k.ObjectID)>>48 > k.Offset>>48 {
				if q.above == nil {
					q.above = make(map[uint64][]uint64)
				}
				q.above[k.Offset] = append(q.above[k.Offset], uint64(k.ObjectID))
			}
			q.relations = append(q.relations, k)
		case disk.KeyQgroupLimit:
			q.limits = append(q.limits, k.Offset)
		default:
			c.find.add(Finding{Code: CodeItem, Place: Place{Tree: disk.TreeQuota, Key: keyOf(k), Logical: info.addr}, What: fmt.Sprintf("an item of type %v in the quota tree", k.Type)})
		}
	}
}
