package txn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/space"
	"gobtrfs/internal/volume"
)

// itemsQuota is what turning quotas on or changing a qgroup inserts or changes,
// numbers of existing qgroups not included: the commit's reserve pays for those.
const itemsQuota = 16

// changeQuota runs a change of the quota tree on a state that was just sealed,
// so that the numbers and the trees agree and nothing waits to be counted.
func (f *FS) changeQuota(ctx context.Context, change func(ctx context.Context, q *quota) error) error {
	return f.RunCommitted(ctx, Operation{Items: itemsQuota, Class: space.ClassNormal, Run: func(ctx context.Context) error {
		q := f.quota.Load()
		if q == nil {
			return fmt.Errorf("quotas are not enabled: %w", syscall.ENOTCONN)
		}
		return change(ctx, q)
	}})
}

// EnableQuota turns quotas on; simple ones charge what is made from now on,
// the others count what every subvolume has. The error wraps EEXIST if there
// are quotas already.
func (f *FS) EnableQuota(ctx context.Context, simple bool) error {
	var n int
	err := f.Look(ctx, func(ctx context.Context) error {
		ids, err := f.subvolumes(ctx)
		n = len(ids)
		return err
	})
	if err != nil {
		return err
	}
	return f.RunCommitted(ctx, Operation{Items: itemsQuota + 2*n, Class: space.ClassNormal, Run: func(ctx context.Context) error {
		if f.quota.Load() != nil {
			return fmt.Errorf("quotas are enabled: %w", syscall.EEXIST)
		}
		q := f.newQuota(nil)
		q.status = disk.QgroupStatus{Version: 1, Generation: f.Trans(), Flags: disk.QgroupStatusOn}
		if simple {
			q.status.Flags |= disk.QgroupStatusSimpleMode
			q.status.EnableGen = f.Trans()
		}
		ids, err := f.subvolumes(ctx)
		if err != nil {
			return err
		}
		for _, id := range ids {
			q.group(uint64(id))
		}
		if !simple {
			if err := f.recount(ctx, q); err != nil {
				return err
			}
		}
		return f.writeNewQuota(ctx, q)
	}})
}

// writeNewQuota makes the quota tree and what stands in it.
func (f *FS) writeNewQuota(ctx context.Context, q *quota) (err error) {
	if q.tree, err = f.NewTree(ctx, disk.TreeQuota, disk.RootItem{Refs: 1}); err != nil {
		return err
	}
	if err := q.tree.Insert(ctx, qgroupStatusKey, q.status.Append(nil)); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(q.groups)) {
		if err := f.insertQgroup(ctx, q, id); err != nil {
			return err
		}
	}
	if q.simple() {
		if err := f.NeedIncompat(ctx, disk.IncompatSimpleQuota); err != nil {
			return err
		}
	} else {
		f.refs.watch()
	}
	q.enforced.Store(true)
	f.quota.Store(q)
	return nil
}

// subvolumes are the ids of all subvolumes.
func (f *FS) subvolumes(ctx context.Context) ([]disk.ObjectID, error) {
	var ids []disk.ObjectID
	it := btree.New(f.Running(), f.root.Root()).Seek(ctx, disk.Key{ObjectID: disk.TreeFS, Type: disk.KeyRootItem})
	for ; it.Valid(); it.Next() {
		if k := it.Key(); k.Type == disk.KeyRootItem && k.ObjectID.IsSubvolume() {
			ids = append(ids, k.ObjectID)
		}
	}
	return ids, it.Err()
}

// recount counts everything anew. If that fails the numbers are inconsistent.
// It remembers who reaches each block of the subvolumes' trees while it runs.
//
// REQUIRES: the writer, in the first operation of a transaction.
func (f *FS) recount(ctx context.Context, q *quota) error {
	err := f.count(ctx, q)
	if err != nil {
		q.doubt()
	}
	return err
}

func (f *FS) count(ctx context.Context, q *quota) error {
	for _, g := range q.groups {
		q.mu.Lock()
		g.info = disk.QgroupInfo{}
		g.changed = true
		q.mu.Unlock()
	}
	before, err := f.refsBefore(ctx)
	if err != nil {
		return err
	}
	it := before.extent.Seek(ctx, disk.Key{})
	for ; it.Valid(); it.Next() {
		k := it.Key()
		if k.Type != disk.KeyExtentItem && k.Type != disk.KeyMetadataItem {
			continue
		}
		is, err := before.of(ctx, disk.Logical(k.ObjectID))
		if err != nil {
			return err
		}
		q.move(is.size, nil, is.roots)
	}
	return it.Err()
}

// RescanQuota counts everything anew, which makes the numbers right whatever
// they were. Simple quotas cannot be rescanned (EINVAL).
func (f *FS) RescanQuota(ctx context.Context) error {
	return f.changeQuota(ctx, func(ctx context.Context, q *quota) error {
		if q.status.Flags&disk.QgroupStatusSimpleMode != 0 {
			return fmt.Errorf("simple quotas have nothing to rescan: %w", syscall.EINVAL)
		}
		q.status.Flags, q.status.Rescan, q.stale = disk.QgroupStatusOn, 0, true
		if err := f.recount(ctx, q); err != nil {
			return err
		}
		f.refs.watch()
		q.enforced.Store(true)
		return nil
	})
}

// DisableQuota turns quotas off and forgets numbers and limits.
func (f *FS) DisableQuota(ctx context.Context) error {
	return f.changeQuota(ctx, func(ctx context.Context, q *quota) error {
		f.refs.unwatch()
		f.quota.Store(nil)
		for done := false; !done; {
			var err error
			if done, err = f.DropSome(ctx, q.tree, 64); err != nil {
				return err
			}
		}
		return nil
	})
}

// CreateQgroup makes a qgroup of a level above 0 (those of level 0 come and go
// with their subvolumes).
func (f *FS) CreateQgroup(ctx context.Context, id uint64) error {
	return f.changeQuota(ctx, func(ctx context.Context, q *quota) error {
		switch {
		case id>>48 == 0:
			return fmt.Errorf("qgroup %s belongs to a subvolume: %w", disk.QgroupID(id), syscall.EINVAL)
		case q.groups[id] != nil:
			return fmt.Errorf("qgroup %s: %w", disk.QgroupID(id), syscall.EEXIST)
		}
		return f.addQgroup(ctx, id)
	})
}

// find is a qgroup that must exist.
func (q *quota) find(id uint64) (*qgroup, error) {
	g := q.groups[id]
	if g == nil {
		return nil, fmt.Errorf("qgroup %s: %w", disk.QgroupID(id), syscall.ENOENT)
	}
	return g, nil
}

// DestroyQgroup takes a qgroup away that has no members, and whose subvolume,
// if it is of level 0, is gone.
func (f *FS) DestroyQgroup(ctx context.Context, id uint64) error {
	return f.changeQuota(ctx, func(ctx context.Context, q *quota) error {
		if _, err := q.find(id); err != nil {
			return err
		}
		if id>>48 == 0 {
			if _, err := f.Tree(ctx, disk.ObjectID(id)); err == nil {
				return fmt.Errorf("qgroup %s belongs to a subvolume: %w", disk.QgroupID(id), syscall.EBUSY)
			}
		}
		for _, g := range q.groups {
			if slices.Contains(g.above, id) {
				return fmt.Errorf("qgroup %s has members: %w", disk.QgroupID(id), syscall.EBUSY)
			}
		}
		return f.removeQgroup(ctx, id)
	})
}

// AssignQgroup makes a qgroup a member of one of a higher level, or with
// remove ends that.
func (f *FS) AssignQgroup(ctx context.Context, member, of uint64, remove bool) error {
	return f.changeQuota(ctx, func(ctx context.Context, q *quota) error {
		g, err := q.find(member)
		if err != nil {
			return err
		}
		if _, err := q.find(of); err != nil {
			return err
		}
		at := slices.Index(g.above, of)
		switch {
		case member>>48 >= of>>48:
			return fmt.Errorf("qgroup %s cannot be in %s, which is of no higher level: %w", disk.QgroupID(member), disk.QgroupID(of), syscall.EINVAL)
		case remove && at < 0:
			return fmt.Errorf("qgroup %s is not in %s: %w", disk.QgroupID(member), disk.QgroupID(of), syscall.ENOENT)
		case !remove && at >= 0:
			return fmt.Errorf("qgroup %s is in %s: %w", disk.QgroupID(member), disk.QgroupID(of), syscall.EEXIST)
		}
		for _, k := range qgroupRelationKeys(member, of) {
			if remove {
				err = q.tree.Delete(ctx, k)
			} else {
				err = q.tree.Insert(ctx, k, nil)
			}
			if err != nil {
				return err
			}
		}
		return f.regroup(ctx, q, member, func() {
			if remove {
				g.above = slices.Delete(g.above, at, at+1)
			} else {
				g.above = append(g.above, of)
			}
		})
	})
}

// regroup changes what a qgroup is a member of, and counts what follows.
func (f *FS) regroup(ctx context.Context, q *quota, member uint64, change func()) error {
	if !q.simple() {
		q.mu.Lock()
		change()
		q.mu.Unlock()
		if !q.full() {
			return nil
		}
		if err := f.recount(ctx, q); !errors.Is(err, volume.ErrCorrupt) {
			return err
		}
		return nil // the member is one, but what it brings is not known
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n := int64(q.groups[member].info.Rfer)
	for _, id := range q.reach(member)[1:] {
		q.add(id, -n, -n)
	}
	change()
	for _, id := range q.reach(member)[1:] {
		q.add(id, n, n)
	}
	return nil
}

// QgroupLimits are limits in bytes; nil: none.
type QgroupLimits struct{ Referenced, Exclusive *uint64 }

// LimitsOf are the limits that an item says.
func LimitsOf(l disk.QgroupLimit) QgroupLimits {
	var out QgroupLimits
	if l.Flags&limitRfer != 0 {
		out.Referenced = &l.MaxRfer
	}
	if l.Flags&limitExcl != 0 {
		out.Exclusive = &l.MaxExcl
	}
	return out
}

// LimitQgroup sets a qgroup's limits.
func (f *FS) LimitQgroup(ctx context.Context, id uint64, l QgroupLimits) error {
	return f.changeQuota(ctx, func(ctx context.Context, q *quota) error {
		g, err := q.find(id)
		if err != nil {
			return err
		}
		var item disk.QgroupLimit
		if l.Referenced != nil {
			item.Flags, item.MaxRfer = item.Flags|limitRfer, *l.Referenced
		}
		if l.Exclusive != nil {
			item.Flags, item.MaxExcl = item.Flags|limitExcl, *l.Exclusive
		}
		q.mu.Lock()
		g.limit = item
		q.mu.Unlock()
		return q.tree.Update(ctx, qgroupLimitKey(id), item.Append(nil))
	})
}
