package disk

import (
	"fmt"
	"io"
	"math/bits"
)

// ItemFields is what an item holds, by name. It decodes whatever it can: on an
// error, which wraps ErrFormat, the fields are those found before it. g tells
// what items with checksums need.
func ItemFields(k Key, data []byte, g Geometry) (Fields, error) {
	switch k.Type {
	case KeyInodeItem:
		i, err := ParseInodeItem(data)
		if err != nil {
			return nil, err
		}
		return inodeFields(&i), nil
	case KeyInodeRef, KeyInodeExtref, KeyDirItem, KeyDirIndex, KeyXattrItem:
		return nameFields(k, data)
	case KeyExtentData:
		return fileExtentFields(data)
	case KeyExtentCsum:
		return csumFields(k, data, g), nil
	case KeyRootItem:
		return rootFields(data)
	case KeyRootRef, KeyRootBackref:
		r, err := ParseRootRef(data)
		if err != nil {
			return nil, err
		}
		return Fields{{"dirid", uint64(r.DirID)}, {"sequence", r.Sequence}, {"name", Text(r.Name)}}, nil
	case KeyExtentItem, KeyMetadataItem:
		return extentItemFields(k, data)
	case KeyTreeBlockRef, KeySharedBlockRef, KeySharedDataRef, KeyExtentDataRef:
		r, err := ParseKeyedRef(k, data)
		if err != nil {
			return nil, err
		}
		return refFields(&r), nil
	}
	return systemItemFields(k, data)
}

// systemItemFields is ItemFields for the types that no subvolume holds, and for
// those that are not known.
func systemItemFields(k Key, data []byte) (Fields, error) {
	switch k.Type {
	case KeyBlockGroupItem:
		g, err := ParseBlockGroupItem(data)
		if err != nil {
			return nil, err
		}
		return Fields{{"used", g.Used}, {"chunk_objectid", uint64(g.ChunkObjectID)}, {"flags", Flags{uint64(g.Flags), groupFlagNames}}}, nil
	case KeyFreeSpaceInfo:
		i, err := ParseFreeSpaceInfo(data)
		if err != nil {
			return nil, err
		}
		return Fields{{"extent_count", i.ExtentCount}, {"flags", Flags{uint64(i.Flags), freeSpaceNames}}}, nil
	case KeyFreeSpaceBitmap:
		set := 0
		for _, b := range data {
			set += bits.OnesCount8(b)
		}
		return Fields{{"sectors", 8 * len(data)}, {"free_sectors", set}}, nil
	case KeyDevExtent:
		d, err := ParseDevExtent(data)
		if err != nil {
			return nil, err
		}
		return Fields{{"chunk_tree", uint64(d.ChunkTree)}, {"chunk_objectid", uint64(d.ChunkObjectID)}, {"chunk_offset", uint64(d.ChunkOffset)},
			{"length", d.Length}, {"chunk_tree_uuid", d.ChunkTreeUUID}}, nil
	case KeyDevItem:
		d, err := ParseDevItem(data)
		if err != nil {
			return nil, err
		}
		return devItemFields(&d), nil
	case KeyChunkItem:
		c, err := ParseChunk(data)
		if err != nil {
			return nil, err
		}
		return chunkFields(&c), nil
	case KeyRaidStripe:
		strides, err := ParseRaidStripe(data)
		if err != nil {
			return nil, err
		}
		list := make([]Fields, len(strides))
		for i, s := range strides {
			list[i] = Fields{{"devid", uint64(s.DevID)}, {"physical", s.Physical}}
		}
		return Fields{{"stripe", list}}, nil
	case KeyQgroupStatus, KeyQgroupInfo, KeyQgroupLimit:
		return qgroupFields(k, data)
	case KeyDirLogItem, KeyDirLogIndex:
		end, err := ParseDirLog(data)
		if err != nil {
			return nil, err
		}
		return Fields{{"end", end}}, nil
	}
	return rareItemFields(k, data)
}

// rareItemFields is ItemFields for items of which a filesystem has few.
func rareItemFields(k Key, data []byte) (Fields, error) {
	switch {
	case k.Type == KeyUUIDSubvol || k.Type == KeyUUIDReceivedSubvol:
		ids, err := ParseUUIDItem(data)
		if err != nil {
			return nil, err
		}
		list := make([]Fields, len(ids))
		for i, id := range ids {
			list[i] = Fields{{"id", uint64(id)}}
		}
		return Fields{{"subvolume", list}}, nil
	case k.Type == KeyPersistentItem && k.ObjectID == DevStatsObjectID:
		s, err := ParseDevStats(data)
		if err != nil {
			return nil, err
		}
		return Fields{{"write_errs", s.WriteErrs}, {"read_errs", s.ReadErrs}, {"flush_errs", s.FlushErrs},
			{"corruption_errs", s.CorruptionErrs}, {"generation_errs", s.GenerationErrs}}, nil
	case k.Type == KeyDevReplace:
		return devReplaceFields(data)
	case k.Type == KeyTemporaryItem && k.ObjectID == BalanceObjectID:
		return balanceFields(data)
	case k.Type == 0 && k.ObjectID == FreeSpaceObjectID:
		h, err := ParseFreeSpaceHeader(data)
		if err != nil {
			return nil, err
		}
		return Fields{{"location", h.Location}, {"generation", uint64(h.Generation)}, {"entries", h.NumEntries}, {"bitmaps", h.NumBitmaps}}, nil
	case k.Type == KeyVerityDesc && k.Offset == 0:
		size, encryption, err := ParseVerityDesc(data)
		if err != nil {
			return nil, err
		}
		return Fields{{"size", size}, {"encryption", encryption}}, nil
	case k.Type == KeyStringItem:
		return Fields{{"string", Text(data)}}, nil
	case len(data) == 0:
		return nil, nil
	}
	return Fields{{"data", Hex(data)}}, nil
}

// NodeFields is the header of a node of at least HeaderSize bytes.
func NodeFields(n Node) Fields {
	f := Fields{
		{"bytenr", uint64(n.Bytenr())}, {"level", n.Level()}, {"owner", TreeID(n.Owner())}, {"generation", uint64(n.Generation())},
		{"nritems", n.NrItems()}, {"flags", Flags{n.Flags() & (1<<HeaderBackrefRevShift - 1), headerFlagNames}},
		{"backref_revision", n.Flags() >> HeaderBackrefRevShift},
		{"fsid", n.FSID()}, {"chunk_tree_uuid", n.ChunkTreeUUID()}, {"csum", Hex(n.Csum())},
	}
	if n.IsLeaf() {
		f.add("free_space", n.LeafFree())
	}
	return f
}

// SlotFields is slot i of a node that passed ValidateLayout: a leaf's item with
// its place and its fields under "item", or an interior node's pointer. The error
// is that of ItemFields; the fields found are there all the same.
func SlotFields(n Node, i int, g Geometry) (Fields, error) {
	if !n.IsLeaf() {
		return Fields{{"slot", i}, {"key", n.Key(i)}, {"block", uint64(n.BlockPtr(i))}, {"generation", uint64(n.PtrGeneration(i))}}, nil
	}
	item, err := ItemFields(n.Key(i), n.ItemData(i), g)
	f := Fields{{"slot", i}, {"key", n.Key(i)}, {"itemoff", n.ItemOffset(i)}, {"itemsize", n.ItemSize(i)}, {"item", item}}
	if err != nil {
		f.add("error", err.Error())
	}
	return f, err
}

// DumpItem writes slot i of a node that passed ValidateLayout in readable form. An
// item that does not decode is written as far as it goes, and says why; the error
// returned is w's.
func DumpItem(w io.Writer, n Node, i int, g Geometry) error {
	var p printer
	if !n.IsLeaf() {
		fmt.Fprintf(&p.b, "\tkey %s block %d gen %d\n", KeyText(n.Key(i)), uint64(n.BlockPtr(i)), n.PtrGeneration(i))
	} else {
		fmt.Fprintf(&p.b, "\titem %d key %s itemoff %d itemsize %d\n", i, KeyText(n.Key(i)), n.ItemOffset(i), n.ItemSize(i))
		f, err := ItemFields(n.Key(i), n.ItemData(i), g)
		p.fields(f, "\t\t")
		if err != nil {
			fmt.Fprintf(&p.b, "\t\terror: %v\n", err)
		}
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}

// DumpNode writes a whole node: its header, then each slot as DumpItem does. Of a
// node whose layout is invalid it writes the header and why.
func DumpNode(w io.Writer, n Node, g Geometry) error {
	if len(n) < HeaderSize {
		_, err := fmt.Fprintf(w, "error: node of %d bytes\n", len(n))
		return err
	}
	kind, room := "leaf", ""
	invalid := n.ValidateLayout()
	if !n.IsLeaf() {
		kind = fmt.Sprintf("node level %d", n.Level())
	} else if invalid == nil {
		room = fmt.Sprintf(" free space %d", n.LeafFree())
	}
	_, err := fmt.Fprintf(w, "%s %d items %d%s generation %d owner %v\n%s %d flags %v backref revision %d\nfs uuid %v\nchunk uuid %v\n",
		kind, uint64(n.Bytenr()), n.NrItems(), room, n.Generation(), n.Owner(),
		kind, uint64(n.Bytenr()), Flags{n.Flags() & (1<<HeaderBackrefRevShift - 1), headerFlagNames}, n.Flags()>>HeaderBackrefRevShift,
		n.FSID(), n.ChunkTreeUUID())
	if err != nil {
		return err
	}
	if invalid != nil {
		_, err := fmt.Fprintf(w, "\terror: %v\n", invalid)
		return err
	}
	for i := range n.NrItems() {
		if err := DumpItem(w, n, i, g); err != nil {
			return err
		}
	}
	return nil
}
