package btrfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
	"gobtrfs/internal/txn"
	"gobtrfs/internal/volume"
)

// Defaults of Options.
const (
	DefaultCacheBytes     = 256 << 20
	DefaultCommitInterval = txn.DefaultCommitInterval
	DefaultDirtyNodeBytes = txn.DefaultDirtyNodeBytes
)

// Options says how to open a filesystem. The zero value opens the last
// committed state, with what fsync made durable after it, if all devices are
// there.
type Options struct {
	// Writable opens for writing. Default: for reading only.
	Writable bool
	// Devices are the paths of further members.
	Devices []string
	// Degraded opens although devices are missing. Default: they must be there.
	Degraded bool
	// NoLog shows the last commit and leaves out what a pending log tree adds.
	// Default: the log is shown.
	NoLog bool
	// BackupRoot 1 to 4 opens the newest to oldest of the superblock's backup
	// roots. Default: 0, the current root.
	BackupRoot int
	// SuperMirror 1 or 2 uses that copy of the superblock and no other.
	// Default: 0, the newest valid one.
	SuperMirror int
	// IgnoreDataChecksums returns data without verifying it. Default: off.
	IgnoreDataChecksums bool
	// CacheBytes bounds the memory for tree blocks. Default: DefaultCacheBytes.
	CacheBytes int64
	// Compress is how contents that are written are compressed unless the file
	// says otherwise: "zlib", "lzo" or "zstd", for zlib and zstd with a level
	// ("zstd:3"). Default: only files that say so are.
	Compress string
	// CompressForce compresses whatever gets smaller by it, without guessing
	// whether that is likely, and also files that are marked as not worth it.
	CompressForce bool
	// NoDataCow makes new files ones that are written in place, without
	// checksums and compression. NoDataSum makes new files ones without
	// checksums. Default: neither.
	NoDataCow, NoDataSum bool
	// DirtyBytes bounds the contents that wait in memory until Sync or until
	// there are enough of them for long extents; beyond it, writing waits for
	// the devices. Default: 128 MiB.
	DirtyBytes uint64
	// Discard gives what each commit has freed back to the devices: image files
	// stay sparse. With RAID5 and RAID6 only whole chunks are. Default: off; see
	// Trim.
	Discard bool
	// Events are told of damage and repairs. Default: nobody is.
	Events Events
	// Clock and Rand are where times and UUIDs of what is written come from.
	// Default: the system's.
	Clock Clock
	Rand  io.Reader
	// CommitInterval is how long a change may wait before it is made durable
	// though nobody calls Sync. Negative: for ever. Default:
	// DefaultCommitInterval.
	CommitInterval time.Duration
	// DirtyNodeBytes bounds the memory for tree blocks that are changed and not
	// yet written: about twice as much is held at most. Default:
	// DefaultDirtyNodeBytes.
	DirtyNodeBytes int64
}

// FS is an open filesystem.
type FS struct {
	store   atomic.Pointer[fstree.Store] // of the last commit
	w       *fstree.Writer               // nil: open for reading
	vol     *volume.Volume
	devices []blockdev.Device // owned: closed by Close
}

// Open opens the filesystem on the image or block device at path.
func Open(ctx context.Context, path string, o Options) (*FS, error) {
	var devs []blockdev.Device
	closeAll := func() error {
		var errs []error
		for _, d := range devs {
			errs = append(errs, d.Close())
		}
		return errors.Join(errs...)
	}
	for _, p := range append([]string{path}, o.Devices...) {
		d, err := blockdev.OpenFile(p, blockdev.FileOptions{ReadOnly: !o.Writable})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("btrfs: %w", err), closeAll())
		}
		devs = append(devs, d)
	}
	f, err := OpenDevices(ctx, devs, o)
	if err != nil {
		return nil, errors.Join(err, closeAll())
	}
	f.devices = devs
	return f, nil
}

// OpenDevices opens the filesystem on devs, which stay the caller's and must
// be open until after Close. Options.Devices is not used.
func OpenDevices(ctx context.Context, devs []blockdev.Device, o Options) (*FS, error) {
	v, err := volume.Open(ctx, devs, volume.Options{
		Degraded: o.Degraded, Events: o.Events, BackupRoot: o.BackupRoot, SuperMirror: o.SuperMirror,
	})
	if err != nil {
		return nil, fmt.Errorf("btrfs: %w", err)
	}
	store, err := fstree.Open(ctx, v, fstree.Options{
		CacheBytes: o.CacheBytes, NoLog: o.NoLog || o.BackupRoot != 0, IgnoreDataCsums: o.IgnoreDataChecksums,
	})
	if err != nil {
		return nil, fmt.Errorf("btrfs: %w", err)
	}
	f := &FS{vol: v}
	f.store.Store(store)
	if o.Writable {
		if err := f.openWriter(ctx, o); err != nil {
			return nil, fmt.Errorf("btrfs: %w", err)
		}
	}
	return f, nil
}

// Close closes the devices that Open opened. No method may be running. What
// was changed since the last Sync is lost.
func (f *FS) Close() error {
	var errs []error
	if f.w != nil {
		f.w.Close()
		f.w.Txn().Close()
	}
	for _, d := range f.devices {
		errs = append(errs, d.Close())
	}
	f.devices = nil
	return errors.Join(errs...)
}

// Super is the superblock in use. It must not be changed.
func (f *FS) Super() *disk.Superblock { return f.vol.Super() }

// UUID identifies the filesystem.
func (f *FS) UUID() disk.UUID { return f.Super().FSID }

// Label is the filesystem's label, "" for none.
func (f *FS) Label() string { return f.Super().Label }

// Store is the layer below, for gobtrfs's own commands.
func (f *FS) Store() *fstree.Store { return f.store.Load() }

// Writer is the layer below that changes the filesystem, for gobtrfs's own
// commands; nil if it is not open for writing.
func (f *FS) Writer() *fstree.Writer { return f.w }

// View calls look with a subvolume as the running transaction has it, changes
// since the last Sync included. What look gets, files of nested subvolumes
// too, it must not use after it returned. Of a filesystem that is open for
// reading it is the only state there is. When a failure has ended all changes
// it is the last commit, which is what the devices have.
func (f *FS) View(ctx context.Context, id disk.ObjectID, look func(ctx context.Context, s *Subvolume) error) error {
	if f.w == nil || f.w.Txn().Err() != nil {
		s, err := f.Subvolume(ctx, id)
		if err != nil {
			return err
		}
		return look(ctx, s)
	}
	return f.w.View(ctx, id, func(ctx context.Context, v *fstree.Subvol) error {
		return look(ctx, &Subvolume{fs: f, sub: v})
	})
}

// TopLevel opens the subvolume at the root of all others, tree 5.
func (f *FS) TopLevel(ctx context.Context) (*Subvolume, error) {
	return f.Subvolume(ctx, disk.TreeFS)
}

// Default opens the subvolume that a mount without options shows.
func (f *FS) Default(ctx context.Context) (*Subvolume, error) {
	id, err := f.Store().DefaultSubvol(ctx)
	if err != nil {
		return nil, fmt.Errorf("btrfs: find default subvolume: %w", err)
	}
	return f.Subvolume(ctx, id)
}

// Subvolume opens a subvolume by its id. The error matches fs.ErrNotExist if
// there is none.
func (f *FS) Subvolume(ctx context.Context, id disk.ObjectID) (*Subvolume, error) {
	sub, err := f.Store().Subvol(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("btrfs: %w", err)
	}
	return &Subvolume{fs: f, sub: sub}, nil
}

// Subvolumes lists all subvolumes, the top level first, by rising id.
func (f *FS) Subvolumes(ctx context.Context) ([]SubvolumeInfo, error) {
	ids, err := f.Store().SubvolIDs(ctx)
	if err != nil {
		return nil, fmt.Errorf("btrfs: list subvolumes: %w", err)
	}
	infos := make([]SubvolumeInfo, 0, len(ids))
	for _, id := range ids {
		sub, err := f.Subvolume(ctx, id)
		if err != nil {
			return infos, err
		}
		info, err := sub.Info(ctx)
		if err != nil {
			return infos, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// SubvolumeInfo describes a subvolume.
type SubvolumeInfo struct {
	ID       disk.ObjectID
	ParentID disk.ObjectID // subvolume that holds its name; 0: none
	Path     string        // from the top level, without leading slash; "" for the top level
	Item     disk.RootItem
}

// ReadOnly says whether the subvolume is read-only.
func (i *SubvolumeInfo) ReadOnly() bool { return i.Item.Flags&disk.RootSubvolReadOnly != 0 }

// maxSubvolDepth bounds the walk to the top level; a hostile filesystem could
// make it a circle.
const maxSubvolDepth = 4096

// Info describes the subvolume.
func (s *Subvolume) Info(ctx context.Context) (SubvolumeInfo, error) {
	info := SubvolumeInfo{ID: s.ID(), Item: *s.sub.Item()}
	var parts []string
	id := s.ID()
	for depth := 0; ; depth++ {
		if depth == maxSubvolDepth {
			return info, fmt.Errorf("btrfs: path of subvolume %d: %w", uint64(s.ID()), syscall.ELOOP)
		}
		parent, ref, ok, err := s.sub.Store().Parent(ctx, id)
		if err != nil {
			return info, fmt.Errorf("btrfs: path of subvolume %d: %w", uint64(s.ID()), err)
		}
		if !ok {
			break
		}
		if id == s.ID() {
			info.ParentID = parent
		}
		parts = append(parts, string(ref.Name))
		sub, err := s.sub.Store().Subvol(ctx, parent)
		if err != nil {
			return info, fmt.Errorf("btrfs: path of subvolume %d: %w", uint64(s.ID()), err)
		}
		dirs, err := pathOf(ctx, sub, ref.DirID)
		if err != nil {
			return info, fmt.Errorf("btrfs: path of subvolume %d: %w", uint64(s.ID()), err)
		}
		parts = append(parts, dirs...)
		id = parent
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	info.Path = strings.Join(parts, "/")
	return info, nil
}

// pathOf lists the names from inode ino up to the subvolume's top directory,
// innermost first.
func pathOf(ctx context.Context, sub *fstree.Subvol, ino disk.ObjectID) ([]string, error) {
	var parts []string
	for depth := 0; ino != sub.RootDir(); depth++ {
		if depth == maxSubvolDepth {
			return nil, syscall.ELOOP
		}
		names, err := sub.Names(ctx, ino)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("inode %d has no name: %w", uint64(ino), syscall.ENOENT)
		}
		parts = append(parts, string(names[0].Name))
		ino = names[0].Parent
	}
	return parts, nil
}
