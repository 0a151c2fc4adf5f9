package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/volume"
)

// imageFlags are what every verb that reads a filesystem understands.
type imageFlags struct {
	devices    []string
	scan       []string
	offset     int64
	partition  int
	degraded   bool
	noLog      bool
	backupRoot int
	subvol     string
	writable   bool   // set by verbs that edit
	dir        string // working directory of the caller
}

// register adds the flags to a verb.
func (i *imageFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&i.devices, "device", nil, "further member `PATH` of the filesystem (repeatable)")
	f.StringArrayVar(&i.scan, "scan", nil, "look for further members in `DIR` (repeatable)")
	f.Int64Var(&i.offset, "offset", 0, "the filesystem starts at byte `N` of IMAGE")
	f.IntVar(&i.partition, "partition", 0, "the filesystem is in partition `N` of IMAGE (GPT or MBR)")
	f.BoolVar(&i.degraded, "degraded", false, "open although devices are missing")
	f.BoolVar(&i.noLog, "no-log", false, "show the last commit, without what fsync logged after it")
	f.IntVar(&i.backupRoot, "backup-root", 0, "use backup root `N`: 1 the newest to 4 the oldest")
}

// registerSubvol adds the flag of verbs that look at files.
func (i *imageFlags) registerSubvol(cmd *cobra.Command) {
	i.register(cmd)
	cmd.Flags().StringVar(&i.subvol, "subvol", "", "start in subvolume `ID|PATH` (default: the default subvolume; \"/\" is the top level)")
}

// verbCacheBytes is for tree blocks. The collector lets the heap grow to about
// twice what is live, so a verb stays below 400 MiB on a filesystem of any size.
const verbCacheBytes = 128 << 20

// image is an open filesystem of a verb.
type image struct {
	*btrfs.FS
	devs    []blockdev.Device
	live    *liveMount   // not nil: it belongs to the mount
	damaged atomic.Int64 // copies that were bad, also where another was good
}

// Close closes the devices.
func (m *image) Close() error {
	var errs []error
	for _, d := range m.devs {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// open opens the filesystem on the image at name. If it is mounted, the
// mount's server does the verb's work, and the error says so.
func (i *imageFlags) open(ctx context.Context, a *app, name string) (*image, error) {
	live, err := i.serving(ctx, a, name)
	if err != nil {
		return nil, err
	}
	if live != nil {
		return live.open(ctx)
	}
	m := &image{}
	err = i.openDevices(ctx, m, name)
	if err == nil {
		m.FS, err = btrfs.OpenDevices(ctx, m.devs, btrfs.Options{
			Degraded: i.degraded, NoLog: i.noLog, BackupRoot: i.backupRoot, CacheBytes: verbCacheBytes, Events: m.events(a),
			Writable:       i.writable,
			CommitInterval: -1, // an edit is one transaction, however long its input takes to come
		})
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// events tells of damage while it is found; a bad disk must not flood.
func (m *image) events(a *app) btrfs.Events {
	const shown = 20
	say := func(what string) {
		if n := m.damaged.Add(1); n <= shown {
			fmt.Fprintf(a.errOut, "gobtrfs: warning: %s\n", what)
		} else if n == shown+1 {
			fmt.Fprintln(a.errOut, "gobtrfs: warning: more bad copies are not shown")
		}
	}
	return btrfs.Events{
		CorruptionFound: func(e btrfs.CorruptError) { say(e.Error()) },
		ReadFailed:      func(e btrfs.DeviceError) { say(e.Error()) },
		Noticed: func(n volume.Notice) {
			if n.Kind != volume.NoticeReadOnly {
				fmt.Fprintf(a.errOut, "gobtrfs: warning: %s\n", n)
			}
		},
	}
}

func (i *imageFlags) openDevices(ctx context.Context, m *image, name string) error {
	if i.offset != 0 && i.partition != 0 {
		return usagef("--offset and --partition exclude each other")
	}
	if i.backupRoot < 0 || i.backupRoot > 4 {
		return usagef("--backup-root is 1 to 4")
	}
	first, err := blockdev.OpenFile(name, blockdev.FileOptions{ReadOnly: !i.writable})
	if err != nil {
		return err
	}
	m.devs = append(m.devs, first)
	var d blockdev.Device = first
	switch {
	case i.offset != 0:
		d, err = blockdev.Section(first, i.offset, first.Size()-i.offset)
	case i.partition != 0:
		d, err = blockdev.OpenPartition(first, i.partition)
	}
	if err != nil {
		return err
	}
	m.devs[0] = d
	paths := i.devices
	for _, dir := range i.scan {
		found, err := volume.Scan(ctx, dir)
		if err != nil {
			return err
		}
		fsid := superFSID(d)
		for _, member := range found {
			// A seed has another fsid, so its sprout must name it with --device.
			if member.Super.FSID == fsid && path.Clean(member.Path) != path.Clean(name) {
				paths = append(paths, member.Path)
			}
		}
	}
	for _, p := range paths {
		d, err := blockdev.OpenFile(p, blockdev.FileOptions{ReadOnly: !i.writable})
		if err != nil {
			return err
		}
		m.devs = append(m.devs, d)
	}
	return nil
}

func superFSID(d blockdev.Device) disk.UUID {
	for _, c := range volume.ReadSuperCopies(d) {
		if c.Super != nil {
			return c.Super.FSID
		}
	}
	return disk.UUID{}
}

// subvolume opens the subvolume that --subvol names.
func (i *imageFlags) subvolume(ctx context.Context, m *image) (*btrfs.Subvolume, error) {
	if i.subvol == "" {
		return m.Default(ctx)
	}
	return findSubvol(ctx, m, i.subvol)
}

// findSubvol finds a subvolume by its id or by its path from the top level.
func findSubvol(ctx context.Context, m *image, name string) (*btrfs.Subvolume, error) {
	if id, err := strconv.ParseUint(name, 10, 64); err == nil {
		return m.Subvolume(ctx, disk.ObjectID(id))
	}
	top, err := m.TopLevel(ctx)
	if err != nil {
		return nil, err
	}
	f, err := top.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	if !f.IsSubvolume() {
		return nil, fmt.Errorf("%q is no subvolume", name)
	}
	return f.Subvolume(), nil
}

// file opens the file at a path of the subvolume that --subvol names. Symbolic
// links before the last name are followed, the last one only if asked for.
func (i *imageFlags) file(ctx context.Context, m *image, name string, follow bool) (*btrfs.File, error) {
	sub, err := i.subvolume(ctx, m)
	if err != nil {
		return nil, err
	}
	clean := strings.TrimRight(name, "/")
	dir, base := path.Split(clean)
	if follow || base == "" || base == "." || base == ".." {
		return sub.OpenFollow(ctx, name)
	}
	parent, err := sub.OpenFollow(ctx, dir)
	if err != nil {
		return nil, err
	}
	f, err := parent.Lookup(ctx, base)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return f, nil
}
