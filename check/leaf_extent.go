package check

import (
	"fmt"

	"gobtrfs/disk"
)

// edge is where the ranges of a leaf begin and end, for comparison with the
// leaves beside it.
type edge struct {
	any        bool
	start, end uint64
}

func (e *edge) add(start, end uint64) {
	if !e.any {
		e.any, e.start = true, start
	}
	e.end = end
}

// visitExtent reads a leaf of the extent tree.
func (c *checker) visitExtent(w *worker, info *nodeInfo, n disk.Node) {
	e := &info.edge
	for i := range n.NrItems() {
		k := n.Key(i)
		switch k.Type {
		case disk.KeyExtentItem, disk.KeyMetadataItem:
			w.extentItem(info, k, n.ItemData(i), e)
		case disk.KeyTreeBlockRef, disk.KeySharedBlockRef, disk.KeyExtentDataRef, disk.KeySharedDataRef:
			if r, err := disk.ParseKeyedRef(k, n.ItemData(i)); err == nil {
				if k.Type == disk.KeyExtentDataRef && disk.DataRefHash(r.Root, r.ObjectID, r.Offset) != k.Offset {
					w.probableHash(info, k, &r)
				}
				w.declare(uint64(k.ObjectID), &r)
			}
		case disk.KeyBlockGroupItem:
			c.blockGroup(n.Owner(), info, k, n.ItemData(i))
		}
	}
}

// probableHash reports a data reference that does not stand where a search for
// it looks. A colliding one stands at one of the next offsets.
func (w *worker) probableHash(info *nodeInfo, k disk.Key, r *disk.ExtentRef) {
	const collisions = 64
	if h := disk.DataRefHash(r.Root, r.ObjectID, r.Offset); k.Offset > h && k.Offset-h < collisions {
		return
	}
	w.c.find.add(Finding{Code: CodeExtentBackref, Place: Place{Tree: disk.TreeExtent, Key: keyOf(k), Logical: info.addr},
		What: "the key of a data reference is not the hash of its fields", Expected: fmt.Sprint(disk.DataRefHash(r.Root, r.ObjectID, r.Offset)), Found: fmt.Sprint(k.Offset)})
}

func (w *worker) extentItem(info *nodeInfo, k disk.Key, b []byte, e *edge) {
	it, err := disk.ParseExtentItem(b)
	if err != nil {
		return
	}
	addr, length, level := uint64(k.ObjectID), k.Offset, 0
	data := it.Flags&disk.ExtentFlagData != 0
	switch {
	case k.Type == disk.KeyMetadataItem:
		length, level, data = uint64(w.c.geo.NodeSize), int(k.Offset), false
	case !data:
		if len(b) >= 24 {
			if t, err := disk.ParseTreeBlockInfo(b[24:]); err == nil {
				level = int(t.Level)
			}
		}
	}
	if !data && it.Flags&disk.ExtentFlagFullBackref != 0 {
		w.full.put(w.c.fullBlocks, disk.Logical(addr))
	}
	w.item(addr, length, level, data, &it)
	refs, err := disk.InlineRefs(k, b)
	for err == nil && len(refs) > 0 {
		var r disk.ExtentRef
		var n int
		if r, n, err = disk.ParseInlineRef(refs); err == nil {
			w.declare(addr, &r)
			refs = refs[n:]
		}
	}
	if w.collect != nil {
		return
	}
	e.add(addr, addr+length)
	w.stats.Extents++
	w.stats.BytesUsed += length
	w.place(k, addr, length, data)
}

// place enters an extent in its block group and checks that it may stand there.
func (w *worker) place(k disk.Key, addr, length uint64, data bool) {
	c := w.c
	bad := func(code Code, what string, args ...any) {
		w.bad(code, Place{Tree: disk.TreeExtent, Key: keyOf(k), Logical: disk.Logical(addr)}, fmt.Sprintf(what, args...))
	}
	i := w.chunkOf(addr)
	if i < 0 && c.lost {
		if data {
			w.span(spanAllocated, addr, length, 0)
		}
		return
	}
	if i < 0 {
		bad(CodeExtentPlace, "an extent of %d bytes is in no chunk", length)
		return
	}
	chunk := &c.chunks[i]
	off := addr - uint64(chunk.Logical)
	if length > chunk.Length-off {
		bad(CodeExtentPlace, "an extent of %d bytes reaches behind the end of its chunk at %d", length, uint64(chunk.End()))
		length = chunk.Length - off
	}
	w.groups[i].used += length
	w.groups[i].extents += c.hash.position(addr+length) - c.hash.position(addr)
	switch {
	case data:
		w.stats.DataBytes += length
		w.span(spanAllocated, addr, length, 0)
		if chunk.Type&disk.BlockGroupData == 0 {
			bad(CodeExtentPlace, "data in a chunk of type %v", chunk.Type)
		}
	case chunk.Type&(disk.BlockGroupMetadata|disk.BlockGroupSystem) == 0:
		bad(CodeExtentPlace, "a tree block in a chunk of type %v", chunk.Type)
	case off/disk.StripeLen != (off+length-1)/disk.StripeLen:
		bad(CodeNodePlace, "a tree block crosses a stripe boundary")
	}
}

// blockGroup keeps a block group item for comparison with the chunks.
func (c *checker) blockGroup(tree disk.ObjectID, info *nodeInfo, k disk.Key, b []byte) {
	g, err := disk.ParseBlockGroupItem(b)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blockGroups = append(c.blockGroups, groupRecord{tree: tree, key: k, item: g, from: info.addr})
}

// groupRecord is a block group item with its place.
type groupRecord struct {
	tree disk.ObjectID
	key  disk.Key
	item disk.BlockGroupItem
	from disk.Logical
}
