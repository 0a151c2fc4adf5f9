package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	btrfs "gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/fusefs"
)

// leastDirtyNodes is the least memory for tree blocks that are changed, in
// bytes: with less every few changes would be a commit.
const leastDirtyNodes = 8 << 20

// mountOptions are what the -o options say.
type mountOptions struct {
	readOnly, remount bool

	subvol   string // path from the top level
	subvolID disk.ObjectID
	open     btrfs.Options
	backup   bool       // go back to a backup root if the current one is bad
	image    imageFlags // where it is: devices, scan, offset, partition
	source   string
	log      string

	allowOther, suid, dev, noExec bool

	writeback bool

	atime      fusefs.AtimeMode
	noDirAtime bool
	inodes     int64

	ignored []string // options that mean nothing here
}

// Options of mount(8) and fstab(5) that say nothing to a filesystem, and those
// that every mount of ours has anyway.
var plainOptions = strings.Fields(`defaults auto noauto user users owner group nouser nofail _netdev async sync dirsync lazytime nolazytime acl user_xattr default_permissions
	exec mand nomand silent loud`)

// tuningOptions are btrfs's options that change how the kernel's btrfs works
// and not what a filesystem is (btrfs(5)): accepted, so that lines of fstab work.
var tuningOptions = strings.Fields(`datacow datasum ssd nossd ssd_spread nossd_spread space_cache nospace_cache clear_cache
	noautodefrag max_inline thread_pool metadata_ratio noflushoncommit barrier treelog notreelog skip_balance user_subvol_rm_allowed`)

// parseMountOptions reads comma-separated options. With sloppy set, unknown
// ones are passed over.
func parseMountOptions(list string, o *mountOptions, sloppy bool) error {
	for opt := range strings.SplitSeq(list, ",") {
		if opt == "" {
			continue
		}
		name, value, has := strings.Cut(opt, "=")
		known, err := o.set(name, value, has)
		if err != nil {
			return usageError{fmt.Errorf("option %q: %w", opt, err)}
		}
		if !known && !sloppy {
			return usagef("unknown mount option %q", opt)
		}
	}
	return nil
}

func (o *mountOptions) set(name, value string, has bool) (known bool, err error) {
	if has {
		return o.setValue(name, value)
	}
	switch name {
	case "ro", "rw": // the last one counts: mount(8) puts rw in front
		o.readOnly = name == "ro"
	case "remount":
		o.remount = true
	case "degraded":
		o.open.Degraded = true
	case "nologreplay", "norecovery":
		o.open.NoLog = true
	case "usebackuproot", "recovery":
		o.backup = true
	case "allow_other":
		o.allowOther = true
	case "suid", "nosuid":
		o.suid = name == "suid"
	case "dev", "nodev":
		o.dev = name == "dev"
	case "noexec":
		o.noExec = true
	case "noatime":
		o.atime = fusefs.AtimeNever
	case "strictatime", "norelatime":
		o.atime = fusefs.AtimeAlways
	case "atime", "relatime", "nostrictatime":
		o.atime = fusefs.AtimeRelative
	case "diratime", "nodiratime":
		o.noDirAtime = name == "nodiratime"
	case "writeback_cache":
		o.writeback = true
	case "compress", "compress-force":
		err = o.compress(name, "zlib")
	case "discard", "nodiscard":
		o.open.Discard = name == "discard"
	case "nodatacow":
		o.open.NoDataCow = true
	case "nodatasum":
		o.open.NoDataSum = true
	default:
		if slices.Contains(tuningOptions, name) {
			o.ignored = append(o.ignored, name)
			return true, nil
		}
		return slices.Contains(plainOptions, name) || strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-"), nil
	}
	return true, err
}

// compress reads the value of compress= and compress-force=: none, or an
// algorithm, with a level behind a colon.
func (o *mountOptions) compress(name, value string) error {
	if value == "no" {
		value = "none"
	}
	o.open.Compress, o.open.CompressForce = value, name == "compress-force"
	return btrfs.CheckCompression(value)
}

func (o *mountOptions) setValue(name, value string) (known bool, err error) {
	number := func(bits int) (n uint64) {
		n, err = strconv.ParseUint(value, 0, bits)
		return n
	}
	switch name {
	case "subvol":
		o.subvol = "/" + strings.Trim(value, "/")
	case "subvolid":
		if o.subvolID = disk.ObjectID(number(64)); o.subvolID == 0 { // as in Linux: the top level
			o.subvolID = disk.TreeFS
		}
	case "device":
		err = addPath(&o.image.devices, value)
	case "scan":
		err = addPath(&o.image.scan, value)
	case "rescue":
		err = o.rescue(value)
	case "offset":
		o.image.offset = int64(number(63))
	case "partition":
		o.image.partition = int(number(16))
	case "discard":
		o.open.Discard = true
		if value != "async" && value != "sync" {
			err = fmt.Errorf("discard knows async and sync, not %q", value)
		}
	case "cache_mib":
		o.open.CacheBytes = int64(number(32)) << 20
	case "commit":
		o.open.CommitInterval = time.Duration(number(16)) * time.Second // 0, as in Linux: the default
	case "compress", "compress-force":
		err = o.compress(name, value)
	case "dirty_mib":
		o.open.DirtyBytes = number(32) << 20
		o.open.DirtyNodeBytes = max(int64(o.open.DirtyBytes), leastDirtyNodes)
	case "inodes":
		o.inodes = int64(number(40))
	case "fsname":
		o.source = value
	case "log":
		o.log = value
	case "user", "comment", "context", "uhelper", "helper", "subtype":
	case "fd", "rootmode", "user_id", "group_id", "max_read", "blksize": // FUSE's own: mount(8) repeats them to remount
	default:
		if slices.Contains(tuningOptions, name) {
			o.ignored = append(o.ignored, name)
			return true, nil
		}
		return strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-"), nil
	}
	return true, err
}

// addPath adds a path that is good in any directory: the server has another one.
func addPath(list *[]string, path string) error {
	abs, err := filepath.Abs(path)
	*list = append(*list, abs)
	return err
}

// rescue reads the colon-separated value of rescue=.
func (o *mountOptions) rescue(list string) error {
	for what := range strings.SplitSeq(list, ":") {
		switch what {
		case "nologreplay":
			o.open.NoLog = true
		case "ignoredatacsums", "idatacsums":
			o.open.IgnoreDataChecksums = true
		case "usebackuproot":
			o.backup = true
		default:
			return fmt.Errorf("rescue knows nologreplay, ignoredatacsums and usebackuproot, not %q", what)
		}
	}
	return nil
}

// String is the options in a form that parseMountOptions reads, in any
// directory. The log is not among them.
func (o *mountOptions) String() string {
	var list []string
	flag := func(on bool, text string) {
		if on {
			list = append(list, text)
		}
	}
	flag(o.readOnly, "ro")
	flag(o.remount, "remount")
	flag(o.subvol != "", "subvol="+o.subvol)
	flag(o.subvolID != 0, fmt.Sprintf("subvolid=%d", uint64(o.subvolID)))
	for _, d := range o.image.devices {
		list = append(list, "device="+d)
	}
	for _, d := range o.image.scan {
		list = append(list, "scan="+d)
	}
	flag(o.image.offset != 0, fmt.Sprintf("offset=%d", o.image.offset))
	flag(o.image.partition != 0, fmt.Sprintf("partition=%d", o.image.partition))
	flag(o.open.Degraded, "degraded")
	flag(o.open.NoLog, "nologreplay")
	flag(o.open.IgnoreDataChecksums, "rescue=ignoredatacsums")
	flag(o.backup, "usebackuproot")
	flag(o.open.CacheBytes != 0, fmt.Sprintf("cache_mib=%d", o.open.CacheBytes>>20))
	flag(o.source != "", "fsname="+o.source)
	flag(o.allowOther, "allow_other")
	flag(o.suid, "suid")
	flag(o.dev, "dev")
	flag(o.noExec, "noexec")
	force := map[bool]string{true: "-force"}[o.open.CompressForce]
	flag(o.open.Compress != "", "compress"+force+"="+o.open.Compress)
	flag(o.open.Discard, "discard")
	flag(o.open.NoDataCow, "nodatacow")
	flag(o.open.NoDataSum, "nodatasum")
	flag(o.open.DirtyBytes != 0, fmt.Sprintf("dirty_mib=%d", o.open.DirtyBytes>>20))
	flag(o.inodes != 0, fmt.Sprintf("inodes=%d", o.inodes))
	flag(o.open.CommitInterval != 0, fmt.Sprintf("commit=%d", o.open.CommitInterval/time.Second))
	flag(o.writeback, "writeback_cache")
	flag(o.atime == fusefs.AtimeNever, "noatime")
	flag(o.atime == fusefs.AtimeAlways, "strictatime")
	flag(o.noDirAtime, "nodiratime")
	return strings.Join(append(list, o.ignored...), ",")
}
