package txn

import (
	"context"
	"maps"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/lockrank"
)

// devStats are the devices' error counters, which the device tree keeps. The
// volume counts; a commit takes what it counted and writes the sums. What goes
// wrong while that commit is written is in the next one.
type devStats struct {
	mu    lockrank.Mutex
	total map[disk.DevID]disk.DevStats // protected by mu
	due   map[disk.DevID]bool          // the item says something else; protected by mu
}

// rankStats: no lock is taken under devStats.mu.
const rankStats lockrank.Rank = 94

func statsKey(id disk.DevID) disk.Key {
	return disk.Key{ObjectID: disk.DevStatsObjectID, Type: disk.KeyPersistentItem, Offset: uint64(id)}
}

// loadStats reads the counters of the last commit.
func (f *FS) loadStats(ctx context.Context) error {
	s := &f.stats
	s.mu.Init(rankStats, 0)
	s.total, s.due = make(map[disk.DevID]disk.DevStats), make(map[disk.DevID]bool)
	for _, d := range f.vol.Devices() {
		data, ok, err := f.dev.Get(ctx, statsKey(d.ID))
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		n, err := disk.ParseDevStats(data)
		if err != nil {
			return f.corrupt(statsKey(d.ID), "%v", err)
		}
		s.total[d.ID] = n
	}
	return nil
}

// take adds what the volume has counted to the sums.
func (f *FS) takeStats() {
	s := &f.stats
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range f.vol.TakeErrors() {
		sum := s.total[id]
		sum.Add(n)
		s.total[id], s.due[id] = sum, true
	}
}

// statsDue says whether there are numbers that the next commit is to write.
func (f *FS) statsDue() bool {
	if len(f.vol.Errors()) > 0 {
		return true
	}
	f.stats.mu.Lock()
	defer f.stats.mu.Unlock()
	return len(f.stats.due) > 0
}

// writeStats brings the items up to date.
//
// REQUIRES: the writer.
func (f *FS) writeStats(ctx context.Context) error {
	f.takeStats()
	s := &f.stats
	s.mu.Lock()
	due, total := slices.Sorted(maps.Keys(s.due)), maps.Clone(s.total)
	clear(s.due)
	s.mu.Unlock()
	for _, id := range due {
		n := total[id]
		_, ok, err := f.dev.Get(ctx, statsKey(id))
		if err != nil {
			return err
		}
		put := f.dev.Insert
		if ok {
			put = f.dev.Update
		}
		if err := put(ctx, statsKey(id), n.Append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// DeviceStats are the errors that the devices have ever had, by device, what
// the next commit will write included. Devices without errors are left out.
func (f *FS) DeviceStats() map[disk.DevID]disk.DevStats {
	f.takeStats()
	f.stats.mu.Lock()
	defer f.stats.mu.Unlock()
	return maps.Clone(f.stats.total)
}

// ResetDeviceStats sets the counters to 0, durably with the next commit, and
// returns what they were.
func (f *FS) ResetDeviceStats() map[disk.DevID]disk.DevStats {
	f.takeStats()
	f.stats.mu.Lock()
	defer f.stats.mu.Unlock()
	was := maps.Clone(f.stats.total)
	for id, n := range was {
		if n != (disk.DevStats{}) {
			f.stats.total[id], f.stats.due[id] = disk.DevStats{}, true
		}
	}
	return was
}
