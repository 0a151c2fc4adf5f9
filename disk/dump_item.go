package disk

import "fmt"

func inodeFields(i *InodeItem) Fields {
	major, minor := SplitRdev(i.Rdev)
	return Fields{
		{"generation", uint64(i.Generation)}, {"transid", uint64(i.TransID)}, {"size", i.Size}, {"nbytes", i.NBytes},
		{"block_group", i.BlockGroup}, {"mode", fmt.Sprintf("%06o", i.Mode)}, {"links", i.Nlink}, {"uid", i.UID}, {"gid", i.GID},
		{"rdev", fmt.Sprintf("%d:%d", major, minor)}, {"sequence", i.Sequence}, {"flags", Flags{i.Flags, inodeFlagNames}},
		{"atime", i.Atime}, {"ctime", i.Ctime}, {"mtime", i.Mtime}, {"otime", i.Otime},
	}
}

// nameFields is the items that are lists of names.
func nameFields(k Key, data []byte) (Fields, error) {
	var list []Fields
	var err error
	for rest := data; len(rest) > 0 && err == nil; {
		var f Fields
		switch k.Type {
		case KeyInodeRef:
			var r InodeRef
			r, rest, err = ParseInodeRef(rest)
			f = Fields{{"index", r.Index}, {"name", Text(r.Name)}}
		case KeyInodeExtref:
			var r InodeExtref
			r, rest, err = ParseInodeExtref(rest)
			f = Fields{{"parent", uint64(r.Parent)}, {"index", r.Index}, {"name", Text(r.Name)}}
		default:
			var d DirItem
			d, rest, err = ParseDirItem(rest)
			f = Fields{{"location", d.Location}, {"type", FileTypeName(d.Type)}, {"transid", uint64(d.TransID)},
				{"data_len", len(d.Data)}, {"name", Text(d.Name)}}
			if len(d.Data) > 0 {
				f.add("data", Text(d.Data))
			}
		}
		if err == nil {
			list = append(list, f)
		}
	}
	return Fields{{"entry", list}}, err
}

func fileExtentFields(data []byte) (Fields, error) {
	e, err := ParseFileExtent(data)
	if err != nil {
		return nil, err
	}
	f := Fields{{"generation", uint64(e.Generation)}, {"type", e.Type.String()}, {"compression", e.Compression.String()}, {"ram_bytes", e.RAMBytes}}
	if e.Encryption != 0 || e.OtherEncoding != 0 {
		f.add("encryption", e.Encryption)
		f.add("other_encoding", e.OtherEncoding)
	}
	if e.Type == FileExtentInline {
		return append(f, Field{"inline_bytes", len(e.Inline)}), nil
	}
	return append(f, Fields{{"disk_bytenr", uint64(e.DiskBytenr)}, {"disk_num_bytes", e.DiskNumBytes},
		{"offset", e.Offset}, {"num_bytes", e.NumBytes}}...), nil
}

func csumFields(k Key, data []byte, g Geometry) Fields {
	size := g.CsumType.Size()
	if size == 0 {
		return Fields{{"data", Hex(data)}}
	}
	count := len(data) / size
	length := uint64(count) * uint64(g.SectorSize)
	return Fields{{"range_start", k.Offset}, {"range_end", k.Offset + length}, {"length", length}, {"csums", count}}
}

func rootFields(data []byte) (Fields, error) {
	r, err := ParseRootItem(data)
	if err != nil {
		return nil, err
	}
	return Fields{
		{"generation", uint64(r.Generation)}, {"root_dirid", uint64(r.RootDirID)}, {"bytenr", uint64(r.Bytenr)}, {"byte_limit", r.ByteLimit},
		{"bytes_used", r.BytesUsed}, {"last_snapshot", uint64(r.LastSnapshot)}, {"flags", Flags{r.Flags, rootFlagNames}}, {"refs", r.Refs},
		{"drop_progress", r.DropProgress}, {"drop_level", r.DropLevel}, {"level", r.Level}, {"generation_v2", uint64(r.GenerationV2)},
		{"uuid", r.UUID}, {"parent_uuid", r.ParentUUID}, {"received_uuid", r.ReceivedUUID},
		{"ctransid", uint64(r.CTransID)}, {"otransid", uint64(r.OTransID)}, {"stransid", uint64(r.STransID)}, {"rtransid", uint64(r.RTransID)},
		{"ctime", r.Ctime}, {"otime", r.Otime}, {"stime", r.Stime}, {"rtime", r.Rtime},
		{"inode", inodeFields(&r.Inode)},
	}, nil
}

func extentItemFields(k Key, data []byte) (Fields, error) {
	e, err := ParseExtentItem(data)
	if err != nil {
		return nil, err
	}
	f := Fields{{"refs", e.Refs}, {"generation", uint64(e.Generation)}, {"flags", Flags{e.Flags, extentFlagNames}}}
	if k.Type == KeyMetadataItem {
		f.add("level", k.Offset)
	} else if e.Flags&ExtentFlagTreeBlock != 0 {
		info, err := ParseTreeBlockInfo(data[extentItemSize:])
		if err != nil {
			return f, err
		}
		f.add("first_key", info.FirstKey)
		f.add("level", info.Level)
	}
	rest, err := InlineRefs(k, data)
	if err != nil {
		return f, err
	}
	var list []Fields
	for len(rest) > 0 {
		r, size, err := ParseInlineRef(rest)
		if err != nil {
			return append(f, Field{"inline", list}), err
		}
		list = append(list, refFields(&r))
		rest = rest[size:]
	}
	return append(f, Field{"inline", list}), nil
}

func refFields(r *ExtentRef) Fields {
	f := Fields{{"type", r.Type.String()}}
	switch r.Type {
	case KeyTreeBlockRef, KeyExtentOwnerRef:
		f.add("root", TreeID(r.Root))
	case KeySharedBlockRef:
		f.add("parent", uint64(r.Parent))
	case KeySharedDataRef:
		f.add("parent", uint64(r.Parent))
		f.add("count", r.Count)
	case KeyExtentDataRef:
		f = append(f, Fields{{"root", TreeID(r.Root)}, {"objectid", uint64(r.ObjectID)}, {"offset", r.Offset}, {"count", r.Count}}...)
	}
	return f
}

func devItemFields(d *DevItem) Fields {
	return Fields{
		{"devid", uint64(d.DevID)}, {"total_bytes", d.TotalBytes}, {"bytes_used", d.BytesUsed}, {"io_align", d.IOAlign}, {"io_width", d.IOWidth},
		{"sector_size", d.SectorSize}, {"type", d.Type}, {"generation", uint64(d.Generation)}, {"start_offset", d.StartOffset},
		{"dev_group", d.DevGroup}, {"seek_speed", d.SeekSpeed}, {"bandwidth", d.Bandwidth}, {"uuid", d.UUID}, {"fsid", d.FSID},
	}
}

func chunkFields(c *Chunk) Fields {
	list := make([]Fields, len(c.Stripes))
	for i := range c.Stripes {
		s := &c.Stripes[i]
		list[i] = Fields{{"devid", uint64(s.DevID)}, {"offset", s.Offset}, {"dev_uuid", s.DevUUID}}
	}
	return Fields{
		{"length", c.Length}, {"owner", uint64(c.Owner)}, {"stripe_len", c.StripeLen}, {"type", Flags{uint64(c.Type), groupFlagNames}},
		{"io_align", c.IOAlign}, {"io_width", c.IOWidth}, {"sector_size", c.SectorSize},
		{"num_stripes", len(c.Stripes)}, {"sub_stripes", c.SubStripes}, {"stripe", list},
	}
}

func qgroupFields(k Key, data []byte) (Fields, error) {
	switch k.Type {
	case KeyQgroupStatus:
		s, err := ParseQgroupStatus(data)
		if err != nil {
			return nil, err
		}
		f := Fields{{"version", s.Version}, {"generation", uint64(s.Generation)}, {"flags", Flags{s.Flags, qgroupStatusNames}}, {"scan", uint64(s.Rescan)}}
		if s.Flags&QgroupStatusSimpleMode != 0 {
			f.add("enable_gen", uint64(s.EnableGen))
		}
		return f, nil
	case KeyQgroupInfo:
		i, err := ParseQgroupInfo(data)
		if err != nil {
			return nil, err
		}
		return Fields{{"generation", uint64(i.Generation)}, {"referenced", i.Rfer}, {"referenced_compressed", i.RferCmpr},
			{"exclusive", i.Excl}, {"exclusive_compressed", i.ExclCmpr}}, nil
	}
	l, err := ParseQgroupLimit(data)
	if err != nil {
		return nil, err
	}
	return Fields{{"flags", Flags{l.Flags, qgroupLimitNames}}, {"max_referenced", l.MaxRfer}, {"max_exclusive", l.MaxExcl},
		{"rsv_referenced", l.RsvRfer}, {"rsv_exclusive", l.RsvExcl}}, nil
}

func devReplaceFields(data []byte) (Fields, error) {
	d, err := ParseDevReplaceItem(data)
	if err != nil {
		return nil, err
	}
	state := fmt.Sprint(d.State)
	if names := [...]string{"never started", "started", "finished", "cancelled", "suspended"}; d.State < uint64(len(names)) {
		state = names[d.State]
	}
	return Fields{
		{"src_devid", uint64(d.SrcDevID)}, {"cursor_left", d.CursorLeft}, {"cursor_right", d.CursorRight},
		{"cont_reading_from_srcdev_mode", d.ContReadingFromSrcdev}, {"state", state}, {"time_started", d.TimeStarted},
		{"time_stopped", d.TimeStopped}, {"num_write_errors", d.WriteErrors}, {"num_uncorrectable_read_errors", d.UncorrectableReadErrors},
	}, nil
}

// balanceFields shows a paused balance: what it moves, and the filters of each
// type (struct btrfs_balance_item).
func balanceFields(data []byte) (Fields, error) {
	if len(data) != balanceItemSize {
		return nil, sizeError("balance item", len(data), balanceItemSize)
	}
	const argsSize = 136
	f := Fields{{"flags", Flags{le.Uint64(data), bitNames("DATA SYSTEM METADATA FORCE RESUME")}}}
	for i, name := range [...]string{"data", "metadata", "system"} {
		b := data[8+i*argsSize:]
		at := func(i int) uint64 { return le.Uint64(b[8*i:]) }
		f.add(name, Fields{
			{"profiles", Flags{at(0), groupFlagNames}}, {"usage", at(1)}, {"devid", at(2)}, {"pstart", at(3)}, {"pend", at(4)},
			{"vstart", at(5)}, {"vend", at(6)}, {"target", Flags{at(7), groupFlagNames}},
			{"flags", Flags{at(8), bitNames("PROFILES USAGE DEVID DRANGE VRANGE LIMIT LIMIT_RANGE STRIPES_RANGE CONVERT SOFT USAGE_RANGE")}},
			{"limit", at(9)}, {"stripes_min", le.Uint32(b[80:])}, {"stripes_max", le.Uint32(b[84:])},
		})
	}
	return f, nil
}
