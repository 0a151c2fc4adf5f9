package disk

import "io"

// SuperFields is a superblock by name.
func SuperFields(s *Superblock) Fields {
	f := Fields{
		{"csum_type", s.CsumType.String()}, {"csum_size", s.CsumType.Size()}, {"csum", Hex(s.Csum[:s.CsumType.Size()])},
		{"bytenr", s.Bytenr}, {"flags", Flags{s.Flags, superFlagNames}}, {"magic", superMagic},
		{"fsid", s.FSID}, {"metadata_uuid", s.NodeFSID()}, {"label", Text(s.Label)},
		{"generation", uint64(s.Generation)}, {"root", uint64(s.Root)}, {"root_level", s.RootLevel},
		{"chunk_root", uint64(s.ChunkRoot)}, {"chunk_root_level", s.ChunkRootLevel}, {"chunk_root_generation", uint64(s.ChunkRootGen)},
		{"log_root", uint64(s.LogRoot)}, {"log_root_transid", s.LogRootTransID}, {"log_root_level", s.LogRootLevel},
		{"total_bytes", s.TotalBytes}, {"bytes_used", s.BytesUsed}, {"root_dir", uint64(s.RootDirObjectID)}, {"num_devices", s.NumDevices},
		{"sectorsize", s.SectorSize}, {"nodesize", s.NodeSize}, {"leafsize", s.LeafSize}, {"stripesize", s.StripeSize},
		{"compat_flags", Flags{s.CompatFlags, nil}}, {"compat_ro_flags", Flags{s.CompatROFlags, compatRONames}},
		{"incompat_flags", Flags{s.IncompatFlags, incompatNames}},
		{"cache_generation", s.CacheGeneration}, {"uuid_tree_generation", s.UUIDTreeGeneration}, {"nr_global_roots", s.NrGlobalRoots},
		{"dev_item", devItemFields(&s.DevItem)}, {"sys_chunk_array_size", len(s.SysChunkArray)},
	}
	chunks, err := s.SystemChunks()
	if err != nil {
		f.add("sys_chunk_array_error", err.Error())
	}
	list := make([]Fields, len(chunks))
	for i := range chunks {
		list[i] = append(Fields{{"key", Key{FirstChunkTree, KeyChunkItem, uint64(chunks[i].Logical)}}}, chunkFields(&chunks[i].Chunk)...)
	}
	f.add("sys_chunk", list)
	backups := make([]Fields, len(s.BackupRoots))
	for i := range s.BackupRoots {
		backups[i] = backupFields(&s.BackupRoots[i])
	}
	f.add("backup_root", backups)
	return f
}

func backupFields(b *RootBackup) Fields {
	var f Fields
	for _, r := range [...]struct {
		name  string
		at    Logical
		gen   TransID
		level uint8
	}{
		{"tree_root", b.TreeRoot, b.TreeRootGen, b.TreeRootLevel}, {"chunk_root", b.ChunkRoot, b.ChunkRootGen, b.ChunkRootLevel},
		{"extent_root", b.ExtentRoot, b.ExtentRootGen, b.ExtentRootLevel}, {"fs_root", b.FSRoot, b.FSRootGen, b.FSRootLevel},
		{"dev_root", b.DevRoot, b.DevRootGen, b.DevRootLevel}, {"csum_root", b.CsumRoot, b.CsumRootGen, b.CsumRootLevel},
	} {
		f = append(f, Field{r.name, Fields{{"bytenr", uint64(r.at)}, {"generation", uint64(r.gen)}, {"level", r.level}}})
	}
	return append(f, Fields{{"total_bytes", b.TotalBytes}, {"bytes_used", b.BytesUsed}, {"num_devices", b.NumDevices}}...)
}

// DumpSuper writes a superblock in readable form: a line per field.
func DumpSuper(w io.Writer, s *Superblock) error {
	var p printer
	for _, f := range SuperFields(s) {
		p.fields(Fields{f}, "")
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}
