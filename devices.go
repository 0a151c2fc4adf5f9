package btrfs

import (
	"context"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/txn"
)

// DeviceStats are the errors that a device has ever had, as the filesystem
// counts them: operations that failed, and copies that were bad.
type DeviceStats struct {
	ID      disk.DevID
	Name    string // path, or "missing" and the UUID
	Missing bool
	disk.DevStats
}

// DeviceStats counts the errors of every device, by id: those that the
// filesystem keeps, and those that were met since it was opened. The latter are
// kept from the next Sync on, if it is open for writing.
func (f *FS) DeviceStats(ctx context.Context) ([]DeviceStats, error) {
	if f.w != nil {
		return f.listStats(f.w.Txn().DeviceStats()), nil
	}
	t, _, err := f.Store().Tree(ctx, disk.TreeDev)
	if err != nil {
		return nil, fmt.Errorf("btrfs: device statistics: %w", err)
	}
	sums := make(map[disk.DevID]disk.DevStats)
	for _, d := range f.vol.Devices() {
		k := disk.Key{ObjectID: disk.DevStatsObjectID, Type: disk.KeyPersistentItem, Offset: uint64(d.ID)}
		it := t.Seek(ctx, k)
		if it.Valid() && it.Key() == k {
			if sums[d.ID], err = disk.ParseDevStats(it.Data()); err != nil {
				return nil, &CorruptError{Tree: disk.TreeDev, Key: k, What: "device statistics", Err: err}
			}
		}
		if err := it.Err(); err != nil {
			return nil, fmt.Errorf("btrfs: device statistics: %w", err)
		}
	}
	for id, n := range f.vol.Errors() {
		sum := sums[id]
		sum.Add(n)
		sums[id] = sum
	}
	return f.listStats(sums), nil
}

// ResetDeviceStats sets the counters to 0, durably with the next Sync, and
// returns what they were.
func (f *FS) ResetDeviceStats() (was []DeviceStats, err error) {
	err = f.changeTxn(func(tx *txn.FS) error {
		was = f.listStats(tx.ResetDeviceStats())
		return nil
	})
	return was, err
}

func (f *FS) listStats(sums map[disk.DevID]disk.DevStats) []DeviceStats {
	var out []DeviceStats
	for _, d := range f.vol.Devices() {
		out = append(out, DeviceStats{d.ID, d.Name, d.Missing, sums[d.ID]})
	}
	return out
}

// TrimOptions say what Trim discards.
type TrimOptions = txn.TrimOptions

// Trim gives back to the devices what the filesystem does not use: free space in
// block groups, and what no chunk owns. Image files become sparse there. It
// commits first, returns the bytes of devices that were discarded, and goes on
// beside operations. The error wraps errors.ErrUnsupported if no device can. With
// RAID5 and RAID6 block groups keep their free space.
func (f *FS) Trim(ctx context.Context, o TrimOptions) (trimmed uint64, err error) {
	if f.w == nil {
		return 0, fmt.Errorf("btrfs: %w", ErrReadOnly)
	}
	if err := f.Sync(ctx); err != nil {
		return 0, err
	}
	trimmed, err = f.w.Txn().Trim(ctx, o)
	if err != nil {
		err = fmt.Errorf("btrfs: trim: %w", err)
	}
	return trimmed, err
}
