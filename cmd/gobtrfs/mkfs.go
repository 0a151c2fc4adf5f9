package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"gobtrfs/disk"
	"gobtrfs/mkfs"
)

// mkfsFlags are the flags of mkfs as they were given.
type mkfsFlags struct {
	rootdir     string
	tars        []string
	data        string
	metadata    string
	mixed       bool
	nodeSize    string
	sectorSize  string
	csum        string
	features    []string
	label       string
	uuid        string
	deviceUUIDs []string
	subvolUUID  string
	size        string
	byteCount   string
	shrink      bool
	free        string
	slack       string
	force       bool
	noDiscard   bool
	reproduce   bool
	compress    string
	subvols     []string
	inodeFlags  []string
	owner       string
	allRoot     bool
	chownMap    string
	umask       string
	clamp       string
	keepTimes   bool
	excludes    []string
	xattrs      []string
	selinux     string
	quiet       bool
	json        bool
}

func newMkfsCmd(a *app) *cobra.Command {
	var f mkfsFlags
	cmd := &cobra.Command{
		Use:   "mkfs [flags] IMAGE [IMAGE…]",
		Short: "Make a filesystem, empty or with contents",
		Long: `Make a filesystem on image files or block devices, empty or with the files of a
directory or of archives. No root and no mount are needed.

A file that does not exist is made with --size bytes, or with --shrink as small as
its contents allow; it gets its name when it is complete.

With --uuid, or with SOURCE_DATE_EPOCH in the environment, or with --reproducible,
the same input gives the same bytes. SOURCE_DATE_EPOCH is the time of creation and
the latest time that any file gets.

Features for -O: ` + featureList() + `.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runMkfs(cmd, a, &f, args) },
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.rootdir, "rootdir", "r", "", "fill with the contents of `DIR`")
	fl.StringArrayVar(&f.tars, "tar", nil, "fill with an archive, `FILE` or - for standard input, plain or compressed (gzip, bzip2, zstd); again for further layers on top")
	fl.StringVarP(&f.data, "data", "d", "", "`PROFILE` of data")
	fl.StringVarP(&f.metadata, "metadata", "m", "", "`PROFILE` of metadata")
	fl.BoolVarP(&f.mixed, "mixed", "M", false, "keep data and metadata in the same block groups")
	fl.StringVarP(&f.nodeSize, "nodesize", "n", "", "`SIZE` of tree blocks (4k to 64k)")
	fl.StringVarP(&f.sectorSize, "sectorsize", "s", "", "`SIZE` of sectors; only 4k is supported")
	fl.StringVar(&f.csum, "csum", "", "checksum `ALGORITHM`: crc32c, xxhash, sha256 or blake2")
	fl.StringVar(&f.csum, "checksum", "", "the same as --csum")
	fl.StringArrayVarP(&f.features, "features", "O", nil, "`LIST` of features to turn on, or with ^ off")
	fl.StringVarP(&f.label, "label", "L", "", "`LABEL` of the filesystem")
	fl.StringVarP(&f.uuid, "uuid", "U", "", "`UUID` of the filesystem")
	fl.StringArrayVar(&f.deviceUUIDs, "device-uuid", nil, "`UUID` of the first device; again for the next")
	fl.StringVar(&f.subvolUUID, "subvol-uuid", "", "`UUID` of the top-level subvolume")
	fl.StringVar(&f.size, "size", "", "`SIZE` of the image file, or of the part of a device to use")
	fl.StringVarP(&f.byteCount, "byte-count", "b", "", "the same as --size")
	fl.BoolVar(&f.shrink, "shrink", false, "make the filesystem as small as its contents allow; it is full then: see --free")
	fl.StringVar(&f.free, "free", "", "with --shrink, leave room for `SIZE` of new files, and for what Linux needs to make them")
	fl.StringVar(&f.slack, "slack", "", "with --shrink, leave so much unallocated `SIZE` on each device")
	fl.BoolVarP(&f.force, "force", "f", false, "overwrite what is there")
	fl.BoolVarP(&f.noDiscard, "nodiscard", "K", false, "do not discard the old contents")
	fl.BoolVar(&f.reproduce, "reproducible", false, "take nothing from the clock or from chance")
	fl.StringVar(&f.compress, "compress", "", "compress contents: `ALGORITHM[:LEVEL]`, zlib, lzo or zstd")
	fl.StringArrayVarP(&f.subvols, "subvol", "u", nil, "make a directory a subvolume: `[rw|ro|default|default-ro:]PATH`")
	fl.StringArrayVar(&f.inodeFlags, "inode-flags", nil, "nodatacow,nodatasum for a file or directory: `FLAGS:PATH`")
	fl.StringVar(&f.owner, "owner", "", "owner of everything: `UID[:GID]`")
	fl.BoolVar(&f.allRoot, "all-root", false, "everything belongs to 0:0")
	fl.StringVar(&f.chownMap, "chown-map", "", "`FILE` with lines \"uid FROM TO [COUNT]\" and \"gid FROM TO [COUNT]\"")
	fl.StringVar(&f.umask, "umask", "", "take these `MODE` bits (octal) from everything")
	fl.StringVar(&f.clamp, "clamp-mtime", "", "latest time that a file may have, in `SECONDS` since 1970")
	fl.BoolVar(&f.keepTimes, "keep-times", false, "keep the times of access and change as well")
	fl.StringArrayVar(&f.excludes, "exclude", nil, "leave out what matches `PATTERN`")
	fl.StringArrayVar(&f.xattrs, "xattrs", nil, "add attributes from a `FILE` as getfattr --dump writes it")
	fl.StringVar(&f.selinux, "selinux", "", "SELinux labels from a file_contexts `FILE`")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "print nothing but errors")
	fl.BoolVar(&f.json, "json", false, "print the result as JSON")
	return cmd
}

func featureList() string {
	var s []string
	for _, f := range mkfs.Features {
		if f.Default {
			s = append(s, f.Name+" (on)")
		} else {
			s = append(s, f.Name)
		}
	}
	return strings.Join(s, ", ")
}

func runMkfs(cmd *cobra.Command, a *app, f *mkfsFlags, images []string) error {
	o, size, err := f.options()
	if err == nil {
		err = f.exclusive()
	}
	if err != nil {
		return usageError{err}
	}
	closeSource, err := f.source(cmd.Context(), a, &o)
	if err != nil {
		return err
	}
	defer closeSource()
	if err := f.readMaps(&o); err != nil {
		return err
	}
	var now atomic.Pointer[mkfs.Progress]
	o.Progress = func(p mkfs.Progress) { now.Store(&p) }
	begin := time.Now()
	s := a.startStatus(f.quiet || f.json || o.Source == nil, func() string { return progressLine(now.Load(), time.Since(begin)) })
	r, err := mkfs.MakeFiles(cmd.Context(), images, size, o)
	s.Close()
	var bad *mkfs.OptionError
	if errors.As(err, &bad) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	return f.summary(a, r, time.Since(begin))
}

func progressLine(p *mkfs.Progress, d time.Duration) string {
	if p == nil {
		return "listing the source"
	}
	var u units
	rate := uint64(float64(p.Bytes) / max(d.Seconds(), 0.001))
	return fmt.Sprintf("%d of %d files, %s of %s, %s/s", p.Files, p.TotalFiles, u.size(p.Bytes), u.size(p.TotalBytes), u.size(rate))
}

// mkfsSummary is what mkfs --json prints.
type mkfsSummary struct {
	UUID         disk.UUID `json:"uuid"`
	DeviceSizes  []uint64  `json:"device_sizes"`
	BytesUsed    uint64    `json:"bytes_used"`
	DeviceUsed   uint64    `json:"device_bytes_used"`
	Inodes       uint64    `json:"inodes"`
	ContentBytes uint64    `json:"content_bytes"`
	Data         uint64    `json:"data_bytes"`
	Metadata     uint64    `json:"metadata_bytes"`
	Seconds      float64   `json:"seconds"`
}

func (f *mkfsFlags) summary(a *app, r *mkfs.Result, d time.Duration) error {
	if f.json {
		return a.printJSON(mkfsSummary{
			r.UUID, r.DeviceSizes, r.BytesUsed, r.DeviceUsed, r.Files, r.Contents, r.Data, r.Metadata, d.Seconds(),
		})
	}
	if f.quiet {
		return nil
	}
	var u units
	total := uint64(0)
	for _, s := range r.DeviceSizes {
		total += s
	}
	room := ""
	if f.shrink && f.free == "" && f.slack == "" {
		room = "; no room for new files (see --free)"
	}
	fmt.Fprintf(a.out, "UUID %v, %d device(s), %s, %s used%s\n", r.UUID, len(r.DeviceSizes), u.size(total), u.size(r.DeviceUsed), room)
	if f.rootdir != "" || len(f.tars) > 0 {
		_, err := fmt.Fprintf(a.out, "%d inodes with %s of contents: %s of data, %s of metadata, in %.2fs\n",
			r.Files, u.size(r.Contents), u.size(r.Data), u.size(r.Metadata), d.Seconds())
		return err
	}
	return nil
}

// exclusive refuses flags that contradict each other.
func (f *mkfsFlags) exclusive() error {
	stdin := slices.Index(f.tars, "-")
	switch {
	case stdin >= 0 && slices.Contains(f.tars[stdin+1:], "-"):
		return errors.New("standard input holds one archive only")
	case f.rootdir != "" && len(f.tars) > 0:
		return errors.New("--rootdir and --tar cannot be used together")
	case f.owner != "" && f.allRoot:
		return errors.New("--owner and --all-root cannot be used together")
	case f.size != "" && f.byteCount != "":
		return errors.New("--size and --byte-count are the same")
	case (f.slack != "" || f.free != "") && !f.shrink:
		return errors.New("--free and --slack are for --shrink")
	}
	return nil
}

// options turns flags that name no file into options.
func (f *mkfsFlags) options() (o mkfs.Options, size uint64, err error) {
	o = mkfs.Options{
		Label: f.label, Data: f.data, Metadata: f.metadata, Features: f.features, Shrink: f.shrink, Force: f.force,
		NoDiscard: f.noDiscard, Reproducible: f.reproduce, Compress: f.compress,
		Map: mkfs.Mapping{KeepTimes: f.keepTimes, Exclude: f.excludes},
	}
	if f.mixed {
		o.Features = append(o.Features, "mixed-bg")
	}
	if f.sectorSize != "" {
		if n, err := mkfsSize(f.sectorSize); err != nil || n != 4096 {
			return o, 0, fmt.Errorf("sector size %q: only 4096 is supported", f.sectorSize)
		}
	}
	if f.nodeSize != "" {
		n, err := mkfsSize(f.nodeSize)
		if err != nil || n > disk.MaxNodeSize {
			return o, 0, fmt.Errorf("node size %q is not possible", f.nodeSize)
		}
		o.NodeSize = int(n)
	}
	if s := f.size + f.byteCount; s != "" {
		if size, err = mkfsSize(s); err != nil {
			return o, 0, err
		}
	}
	for _, v := range []struct {
		s    string
		into *uint64
	}{{f.slack, &o.Slack}, {f.free, &o.Free}} {
		if v.s != "" {
			if *v.into, err = mkfsSize(v.s); err != nil {
				return o, 0, err
			}
		}
	}
	if o.Csum, err = parseCsum(f.csum); err != nil {
		return o, 0, err
	}
	if err := f.identity(&o); err != nil {
		return o, 0, err
	}
	if err := f.ownership(&o); err != nil {
		return o, 0, err
	}
	for _, s := range f.subvols {
		o.Subvolumes = append(o.Subvolumes, parseSubvol(s))
	}
	for _, s := range f.inodeFlags {
		v, err := parseInodeFlags(s)
		if err != nil {
			return o, 0, err
		}
		o.Flags = append(o.Flags, v)
	}
	return o, size, nil
}

// identity reads the flags about UUIDs and times.
func (f *mkfsFlags) identity(o *mkfs.Options) (err error) {
	for _, v := range []struct {
		s    string
		into *disk.UUID
	}{{f.uuid, &o.UUID}, {f.subvolUUID, &o.SubvolUUID}} {
		if v.s != "" {
			if *v.into, err = disk.ParseUUID(v.s); err != nil {
				return err
			}
		}
	}
	for _, s := range f.deviceUUIDs {
		u, err := disk.ParseUUID(s)
		if err != nil {
			return err
		}
		o.DeviceUUIDs = append(o.DeviceUUIDs, u)
	}
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH=%q is not a number of seconds", s)
		}
		o.Time, o.Map.Clamp = time.Unix(n, 0), time.Unix(n, 0)
	}
	if f.clamp != "" {
		n, err := strconv.ParseInt(f.clamp, 10, 64)
		if err != nil {
			return fmt.Errorf("--clamp-mtime %q is not a number of seconds", f.clamp)
		}
		o.Map.Clamp = time.Unix(n, 0)
	}
	return nil
}

func (f *mkfsFlags) ownership(o *mkfs.Options) error {
	if f.allRoot {
		o.Map.Owner = &mkfs.Owner{}
	}
	if f.owner != "" {
		u, g, both := strings.Cut(f.owner, ":")
		uid, err := strconv.ParseUint(u, 10, 32)
		gid := uid
		if err == nil && both {
			gid, err = strconv.ParseUint(g, 10, 32)
		}
		if err != nil {
			return fmt.Errorf("--owner %q: want UID[:GID]", f.owner)
		}
		o.Map.Owner = &mkfs.Owner{UID: uint32(uid), GID: uint32(gid)}
	}
	if f.umask != "" {
		n, err := strconv.ParseUint(f.umask, 8, 12)
		if err != nil {
			return fmt.Errorf("--umask %q is not octal", f.umask)
		}
		o.Map.Umask = uint32(n)
	}
	return nil
}

// source opens what the filesystem is filled with.
func (f *mkfsFlags) source(ctx context.Context, a *app, o *mkfs.Options) (func(), error) {
	var files []*os.File
	closeAll := func() {
		for _, file := range files {
			file.Close() //nolint:errcheck // opened for reading
		}
	}
	if f.rootdir != "" {
		o.Source = mkfs.Dir(f.rootdir)
	}
	var list []mkfs.Source
	for _, p := range f.tars {
		if p == "-" {
			list = append(list, mkfs.Tar(a.input(ctx), "standard input"))
			continue
		}
		file, err := os.Open(p)
		if err != nil {
			closeAll()
			return nil, err
		}
		files = append(files, file)
		list = append(list, mkfs.Tar(file, p))
	}
	if len(list) > 0 {
		o.Source = mkfs.Layers(list...)
	}
	return closeAll, nil
}

// readMaps reads the files that change what the source says.
func (f *mkfsFlags) readMaps(o *mkfs.Options) error {
	read := func(p string, parse func(*os.File) error) error {
		file, err := os.Open(p)
		if err != nil {
			return err
		}
		defer file.Close() //nolint:errcheck // opened for reading
		if err := parse(file); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		return nil
	}
	if f.chownMap != "" {
		err := read(f.chownMap, func(r *os.File) (err error) { o.Map.IDs, err = mkfs.ParseIDMap(r); return err })
		if err != nil {
			return err
		}
	}
	for _, p := range f.xattrs {
		err := read(p, func(r *os.File) error {
			m, err := mkfs.ParseXattrs(r)
			if o.Map.Xattrs == nil {
				o.Map.Xattrs = m
			}
			for k, v := range m {
				o.Map.Xattrs[k] = v
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if f.selinux != "" {
		return read(f.selinux, func(r *os.File) (err error) { o.Map.Labels, err = mkfs.ParseFileContexts(r); return err })
	}
	return nil
}

func parseSubvol(s string) mkfs.Subvolume {
	kind, p, ok := strings.Cut(s, ":")
	switch {
	case !ok:
	case kind == "rw":
		return mkfs.Subvolume{Path: p}
	case kind == "ro":
		return mkfs.Subvolume{Path: p, ReadOnly: true}
	case kind == "default":
		return mkfs.Subvolume{Path: p, Default: true}
	case kind == "default-ro":
		return mkfs.Subvolume{Path: p, Default: true, ReadOnly: true}
	}
	return mkfs.Subvolume{Path: s}
}

func parseInodeFlags(s string) (v mkfs.InodeFlags, err error) {
	flags, p, ok := strings.Cut(s, ":")
	if !ok {
		return v, fmt.Errorf("--inode-flags %q: want FLAGS:PATH", s)
	}
	v.Path = p
	for w := range strings.SplitSeq(flags, ",") {
		switch w {
		case "nodatacow":
			v.NoDataCow = true
		case "nodatasum":
			v.NoDataSum = true
		default:
			return v, fmt.Errorf("--inode-flags %q: unknown flag %q", s, w)
		}
	}
	return v, nil
}

func parseCsum(s string) (disk.CsumType, error) {
	switch strings.ToLower(s) {
	case "", "crc32c":
		return disk.CsumCRC32C, nil
	case "xxhash", "xxhash64":
		return disk.CsumXXHash, nil
	case "sha256":
		return disk.CsumSHA256, nil
	case "blake2", "blake2b":
		return disk.CsumBLAKE2b, nil
	}
	return 0, fmt.Errorf("unknown checksum algorithm %q", s)
}

// mkfsSize reads a size with an optional binary suffix: 512, 4k, 1.5G.
func mkfsSize(s string) (uint64, error) {
	num, shift := strings.ToLower(s), 0
	num = strings.TrimSuffix(strings.TrimSuffix(num, "b"), "i")
	if n := len(num); n > 0 {
		if k := strings.IndexByte("kmgtpe", num[n-1]); k >= 0 {
			num, shift = num[:n-1], 10*(k+1)
		}
	}
	if n, err := strconv.ParseUint(num, 10, 64); err == nil && n<<shift>>shift == n {
		return n << shift, nil
	}
	if v, err := strconv.ParseFloat(num, 64); err == nil && v >= 0 && v*float64(uint64(1)<<shift) < 1<<63 {
		return uint64(v * float64(uint64(1)<<shift)), nil
	}
	return 0, fmt.Errorf("%q is not a size", s)
}
