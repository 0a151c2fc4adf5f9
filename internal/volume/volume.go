package volume

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
)

// Options says how Open assembles a filesystem.
type Options struct {
	// Degraded opens although members are missing. What the profiles allow is
	// still read; the rest fails with a *DeviceError. Default: every member
	// must be there.
	Degraded bool
	// Events are called while the volume works. Default: nobody is told.
	Events Events
	// BackupRoot 1 to 4 opens the newest to oldest backup root that the
	// superblock keeps, without the log tree, for reading only. Default: 0,
	// the current root.
	BackupRoot int
	// SuperMirror 1 or 2 uses that copy of the superblock (at 64 MiB or
	// 256 GiB) of every device and no other. Default: 0, the newest valid one.
	SuperMirror int
	// Salvage opens although the system chunks or the chunk tree are damaged,
	// without the chunks concerned, to judge the rest; Damage says what was wrong.
	// Such a volume may only be read. Default: damage is an error.
	Salvage bool
}

// Volume is an open set of devices.
type Volume struct {
	events Events

	salvage bool
	damage  []error // immutable after Open

	rows      rows      // parts of full stripes that wait
	committed Committed // nil: nobody knows; set before anything is written

	suspicions suspicions

	super    atomic.Pointer[disk.Superblock] // immutable once published
	chunks   atomic.Pointer[chunkMap]        // immutable once published
	stripes  atomic.Pointer[StripeLookup]    // raid-stripe-tree, nil: none
	devices  []*device                       // by id; immutable after Open
	fsids    []disk.UUID                     // that nodes may carry: the volume's own first, then its seeds'
	notices  []Notice                        // immutable after Open
	readOnly []string                        // why it may only be read; immutable after Open
	unread   []error                         // superblocks that could not be read; immutable after Open
}

// Open reads the superblocks of devs, assembles the filesystem that the first
// of them belongs to, and walks its chunk tree. The other devices may be
// further members, seeds, or none of its business (a Notice names those). A
// device of size 0 stands for a missing one.
//
// The volume does not own devs: closing them is the caller's.
func Open(ctx context.Context, devs []blockdev.Device, o Options) (*Volume, error) {
	if o.BackupRoot < 0 || o.BackupRoot > disk.NumBackupRoots {
		return nil, fmt.Errorf("backup root %d, want 0 to %d", o.BackupRoot, disk.NumBackupRoots)
	}
	if o.SuperMirror < 0 || o.SuperMirror >= disk.SuperMirrorMax {
		return nil, fmt.Errorf("superblock copy %d, want 0 to %d", o.SuperMirror, disk.SuperMirrorMax-1)
	}
	v := &Volume{events: o.Events, salvage: o.Salvage}
	v.rows.init()
	sb, members, err := v.readSupers(devs, o)
	if err != nil {
		return nil, err
	}
	if err := v.gateFeatures(sb); err != nil {
		return nil, err
	}
	if sb, err = v.applyBackupRoot(sb, o.BackupRoot); err != nil {
		return nil, err
	}
	v.super.Store(sb)
	if err := v.loadChunks(ctx, sb, members, o); err != nil {
		// What is missing may be a device that failed.
		return nil, errors.Join(append([]error{err}, v.unread...)...)
	}
	if len(v.damage) > 0 {
		v.forbidWriting("the chunk tree is damaged")
	}
	return v, nil
}

// Super is the superblock in use: the newest valid copy, with the roots of the
// backup if one was asked for. It must not be changed.
func (v *Volume) Super() *disk.Superblock { return v.super.Load() }

// Notices is what Open found about the set of devices.
func (v *Volume) Notices() []Notice { return v.notices }

// ReadOnly says why the filesystem may only be read; empty when it may be
// written.
func (v *Volume) ReadOnly() []string { return v.readOnly }

// MayWrite fails with ErrReadOnly and the reason if the filesystem may only be
// read. Where a device failed that is part of the reason, and the error wraps
// its own.
func (v *Volume) MayWrite() error {
	if len(v.readOnly) == 0 {
		return nil
	}
	err := fmt.Errorf("%w: %s", ErrReadOnly, v.readOnly[0])
	return errors.Join(append([]error{err}, v.unread...)...)
}

// DeviceInfo describes one member.
type DeviceInfo struct {
	ID      disk.DevID
	Name    string           // path, or "missing" and the UUID
	Item    disk.DevItem     // as the chunk tree has it
	Size    uint64           // bytes that the device really has, 0 if missing
	Super   *disk.Superblock // the device's own, nil if missing; must not be changed
	Device  blockdev.Device  // nil if missing
	Missing bool
	Stale   bool // its superblock is older than the newest
	Missed  bool // by more than one commit: it is not written
	Seed    bool // belongs to a seed filesystem
}

// Devices describes the members, ordered by id.
func (v *Volume) Devices() []DeviceInfo {
	out := make([]DeviceInfo, len(v.devices))
	for i, d := range v.devices {
		out[i] = DeviceInfo{
			ID: d.id, Name: d.name, Item: d.item, Size: d.size, Super: d.super, Device: d.dev,
			Missing: d.dev == nil, Stale: d.stale, Missed: d.missed, Seed: d.seed,
		}
	}
	return out
}
