package check

import (
	"cmp"
	"fmt"
	"slices"

	"gobtrfs/disk"
)

// stripeRange is a chunk's extent on one device.
type stripeRange struct {
	dev           disk.DevID
	start, length uint64
	chunk         disk.Logical
}

func compareStripes(a, b stripeRange) int {
	return cmp.Or(cmp.Compare(a.dev, b.dev), cmp.Compare(a.start, b.start), cmp.Compare(a.chunk, b.chunk), cmp.Compare(a.length, b.length))
}

// checkDevices compares chunks, device extents and device items: a bijection
// (I8), no overlap, within the devices, and every byte counted.
func (c *checker) checkDevices() {
	var want, got []stripeRange
	for i := range c.chunks {
		ch := &c.chunks[i]
		for _, s := range ch.Stripes {
			want = append(want, stripeRange{s.DevID, s.Offset, ch.StripeLength(), ch.Logical})
		}
	}
	for _, d := range c.devExtents {
		got = append(got, stripeRange{d.dev, d.start, d.Length, d.ChunkOffset})
	}
	slices.SortFunc(want, compareStripes)
	slices.SortFunc(got, compareStripes)
	c.matchStripes(want, got)
	c.overlaps(got)
	c.checkDevItems(got)
	c.checkSystemArray()
}

func (c *checker) matchStripes(want, got []stripeRange) {
	if c.lost || c.treeBroken(disk.TreeDev) {
		return
	}
	for len(want) > 0 || len(got) > 0 {
		d := 0
		switch {
		case len(want) == 0:
			d = 1
		case len(got) == 0:
			d = -1
		default:
			d = compareStripes(want[0], got[0])
		}
		switch {
		case d < 0:
			w := want[0]
			c.find.add(Finding{Code: CodeDevExtent, Place: Place{Dev: w.dev, Physical: w.start, Logical: w.chunk, Tree: disk.TreeDev},
				What: fmt.Sprintf("a stripe of a chunk, %d bytes, has no device extent that agrees", w.length)})
			want = want[1:]
		case d > 0:
			g := got[0]
			c.find.add(Finding{Code: CodeDevExtent, Place: Place{Dev: g.dev, Physical: g.start, Logical: g.chunk, Tree: disk.TreeDev},
				What: fmt.Sprintf("a device extent of %d bytes belongs to no stripe of a chunk", g.length)})
			got = got[1:]
		default:
			want, got = want[1:], got[1:]
		}
	}
}

func (c *checker) overlaps(got []stripeRange) {
	for i := 1; i < len(got); i++ {
		if p, g := got[i-1], got[i]; p.dev == g.dev && g.start < p.start+p.length {
			c.find.add(Finding{Code: CodeDevExtent, Place: Place{Dev: g.dev, Physical: g.start, Logical: g.chunk, Tree: disk.TreeDev}, What: "device extents overlap"})
		}
	}
}

func (c *checker) checkDevItems(got []stripeRange) {
	used := make(map[disk.DevID]uint64)
	end := make(map[disk.DevID]uint64)
	for _, g := range got {
		used[g.dev] += g.length
		end[g.dev] = max(end[g.dev], g.start+g.length)
	}
	var total uint64
	sector := uint64(c.geo.SectorSize)
	for i := range c.devItems {
		d := &c.devItems[i]
		k := disk.Key{ObjectID: disk.DevItemsObjectID, Type: disk.KeyDevItem, Offset: uint64(d.DevID)}
		at := Place{Dev: d.DevID, Tree: disk.TreeChunk, Key: keyOf(k)}
		total += d.TotalBytes
		if d.BytesUsed != used[d.DevID] && !c.treeBroken(disk.TreeDev) {
			c.find.add(Finding{Code: CodeDeviceBytes, Place: at, What: "the bytes in use on a device are not the sum of its device extents",
				Expected: fmt.Sprint(used[d.DevID]), Found: fmt.Sprint(d.BytesUsed)})
		}
		if end[d.DevID] > d.TotalBytes {
			c.find.add(Finding{Code: CodeDevExtent, Place: at, What: "a device extent reaches behind the end of its device",
				Expected: fmt.Sprintf("at most %d", d.TotalBytes), Found: fmt.Sprint(end[d.DevID])})
		}
		if d.TotalBytes%sector != 0 {
			c.find.add(Finding{Code: CodeDeviceItem, Severity: Warning, Place: at, What: "the size of a device is not whole sectors", Found: fmt.Sprint(d.TotalBytes)})
		}
		delete(used, d.DevID)
	}
	for dev := range used {
		if c.lost {
			break
		}
		c.find.add(Finding{Code: CodeDevExtent, Place: Place{Dev: dev, Tree: disk.TreeDev}, What: "device extents of a device that has no device item"})
	}
	if !c.lost && total != c.sb.TotalBytes && len(c.devItems) > 0 {
		f := Finding{Code: CodeSuper, What: "the size of the filesystem is not the sum of its devices' sizes", Expected: fmt.Sprint(total), Found: fmt.Sprint(c.sb.TotalBytes)}
		c.find.add(f)
	}
	c.checkSuperDevItems()
}

// checkSuperDevItems compares each device's own superblock with its item.
func (c *checker) checkSuperDevItems() {
	for _, d := range c.vol.Devices() {
		if d.Missing || d.Stale || d.Super == nil {
			continue
		}
		if d.Seed {
			if d.Item.FSID != d.Super.NodeFSID() {
				c.find.add(Finding{Code: CodeDeviceItem, Place: Place{Dev: d.ID, DevName: d.Name, Physical: d.Super.Bytenr},
					What: "the superblock and the device item differ in the fsid", Expected: d.Super.NodeFSID().String(), Found: d.Item.FSID.String()})
			}
			continue
		}
		own, item := d.Super.DevItem, d.Item
		at := Place{Dev: d.ID, DevName: d.Name, Physical: d.Super.Bytenr}
		diff := func(what string, want, got any) {
			c.find.add(Finding{Code: CodeDeviceItem, Place: at, What: "the superblock and the device item differ in the " + what, Expected: fmt.Sprint(want), Found: fmt.Sprint(got)})
		}
		if own.TotalBytes != item.TotalBytes {
			diff("size of the device", item.TotalBytes, own.TotalBytes)
		}
		if own.BytesUsed != item.BytesUsed && !c.lost {
			diff("bytes in use", item.BytesUsed, own.BytesUsed)
		}
		if own.SectorSize != item.SectorSize || own.IOAlign != item.IOAlign || own.IOWidth != item.IOWidth || own.Type != item.Type {
			diff("device's properties", fmt.Sprint(item.SectorSize, item.IOAlign, item.IOWidth, item.Type), fmt.Sprint(own.SectorSize, own.IOAlign, own.IOWidth, own.Type))
		}
	}
}

// checkSystemArray compares the superblock's system chunks with the chunk tree.
func (c *checker) checkSystemArray() {
	system, err := c.sb.SystemChunks()
	if err != nil {
		return // the volume could not have been opened
	}
	have := make(map[disk.Logical]bool)
	for i := range system {
		have[system[i].Logical] = true
	}
	for i := range c.chunkItems {
		ch := &c.chunkItems[i]
		if ch.Type&disk.BlockGroupSystem != 0 && !have[ch.Logical] {
			c.find.add(Finding{Code: CodeSystemArray, Place: Place{Logical: ch.Logical, Tree: disk.TreeChunk}, What: "a system chunk is not in the superblock"})
		}
		if ch.Owner != disk.TreeExtent {
			c.find.add(Finding{Code: CodeChunk, Place: Place{Logical: ch.Logical, Tree: disk.TreeChunk}, What: "the owner of a chunk", Expected: disk.TreeExtent.String(), Found: ch.Owner.String()})
		}
	}
}

// sumGroups adds up what the workers found in each chunk.
func (c *checker) sumGroups() []groupSums {
	sums := make([]groupSums, len(c.chunks))
	for _, w := range c.workers {
		for i := range sums {
			sums[i].add(&w.groups[i])
		}
	}
	return sums
}

// checkGroups compares block groups with chunks and with the extents in them.
func (c *checker) checkGroups(sums []groupSums) {
	c.groups = make(map[disk.Logical]*groupRecord, len(c.blockGroups))
	where := disk.TreeExtent
	if c.sb.CompatROFlags&disk.CompatROBlockGroupTree != 0 {
		where = disk.TreeBlockGroup
	}
	slices.SortFunc(c.blockGroups, func(a, b groupRecord) int { return a.key.Compare(b.key) })
	var used uint64
	for i := range c.blockGroups {
		g := &c.blockGroups[i]
		k := g.key
		at := Place{Tree: g.tree, Key: keyOf(k), Logical: disk.Logical(k.ObjectID)}
		if g.tree != where {
			c.find.add(Finding{Code: CodeBlockGroup, Place: at, What: "a block group item stands in the wrong tree", Expected: where.String(), Found: g.tree.String()})
			continue
		}
		n := findChunk(c.chunks, uint64(k.ObjectID))
		if n < 0 || uint64(c.chunks[n].Logical) != uint64(k.ObjectID) || c.chunks[n].Length != k.Offset {
			if c.lost {
				continue
			}
			c.find.add(Finding{Code: CodeBlockGroup, Place: at, What: "a block group has no chunk of the same place and length"})
			continue
		}
		ch := &c.chunks[n]
		c.groups[ch.Logical] = g
		if g.item.Flags != ch.Type {
			c.find.add(Finding{Code: CodeBlockGroup, Place: at, What: "the type of a block group is not that of its chunk", Expected: ch.Type.String(), Found: g.item.Flags.String()})
		}
		if g.item.Used != sums[n].used && !c.treeBroken(disk.TreeExtent) {
			c.find.add(Finding{Code: CodeBlockGroupUsed, Place: at, What: "the bytes in use in a block group", Expected: fmt.Sprint(sums[n].used), Found: fmt.Sprint(g.item.Used)})
		}
		used += sums[n].used
	}
	for i := range c.chunks {
		if ch := &c.chunks[i]; !c.hasGroup(ch.Logical) && !c.lost && !c.treeBroken(where) {
			c.find.add(Finding{Code: CodeBlockGroup, Place: Place{Tree: where, Logical: ch.Logical}, What: fmt.Sprintf("a chunk of type %v has no block group", ch.Type)})
		}
	}
	if !c.lost && used != c.sb.BytesUsed && !c.treeBroken(disk.TreeExtent) && !c.treeBroken(where) {
		c.find.add(Finding{Code: CodeBytesUsed, What: "the bytes in use in the superblock", Expected: fmt.Sprint(used), Found: fmt.Sprint(c.sb.BytesUsed)})
	}
}

func (c *checker) hasGroup(l disk.Logical) bool { return c.groups[l] != nil }

// treeBroken says whether part of a tree could not be read, so that what is
// missing from it means nothing.
func (c *checker) treeBroken(id disk.ObjectID) bool {
	if !c.broken.Load() {
		return false
	}
	if b, ok := c.brokenTrees[id]; ok {
		return b
	}
	b := c.searchBroken(id)
	c.brokenTrees[id] = b
	return b
}

func (c *checker) searchBroken(id disk.ObjectID) bool {
	known := false
	for i := range c.forests {
		f := &c.forests[i]
		for j := range f.roots {
			known = known || f.roots[j].id == id
		}
		broken := false
		f.each(func(n *nodeInfo) bool {
			broken = n.bad && c.ownerOf(f, n) == id
			return !broken
		})
		if broken {
			return true
		}
	}
	return !known // no such tree
}

// ownerOf is the tree that a bad block was to be of.
func (c *checker) ownerOf(f *forest, n *nodeInfo) disk.ObjectID {
	if n.kind == kindFile {
		return 0
	}
	for i := range f.roots {
		if f.roots[i].kind == n.kind {
			return f.roots[i].id
		}
	}
	return 0
}
