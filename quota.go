package btrfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/txn"
)

// Quota is the state of a filesystem's quotas and what its qgroups count.
type Quota struct {
	Simple       bool // extents are charged to the subvolume that made them
	Inconsistent bool // the numbers are not right until a rescan
	Qgroups      []Qgroup
}

// Qgroup is what the members of a quota group use. Numbers are bytes.
type Qgroup struct {
	ID         uint64 // level<<48 | id; of level 0: the subvolume's
	Referenced uint64 // of extents that a member reaches
	Exclusive  uint64 // of extents that nobody but members reaches
	Limits     QgroupLimits
	Parents    []uint64 // qgroups that it is a member of
	Children   []uint64 // its members
}

// QgroupLimits are limits in bytes; nil: none.
type QgroupLimits = txn.QgroupLimits

// Quota reads the quotas as the last commit has them, qgroups by rising id.
// It is nil if quotas are not enabled.
func (f *FS) Quota(ctx context.Context) (*Quota, error) {
	t, _, err := f.Store().Tree(ctx, disk.TreeQuota)
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("btrfs: quota tree: %w", err)
	}
	q, groups := &Quota{}, make(map[uint64]*Qgroup)
	group := func(id uint64) *Qgroup {
		if groups[id] == nil {
			groups[id] = &Qgroup{ID: id}
		}
		return groups[id]
	}
	it := t.Seek(ctx, disk.Key{})
	for ; it.Valid(); it.Next() {
		if err := q.add(it.Key(), it.Data(), group); err != nil {
			return nil, &CorruptError{Tree: disk.TreeQuota, Key: it.Key(), What: "quota tree", Err: err}
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("btrfs: quota tree: %w", err)
	}
	for _, g := range groups {
		q.Qgroups = append(q.Qgroups, *g)
	}
	slices.SortFunc(q.Qgroups, func(a, b Qgroup) int { return cmp.Compare(a.ID, b.ID) })
	return q, nil
}

func (q *Quota) add(k disk.Key, data []byte, group func(id uint64) *Qgroup) error {
	switch k.Type {
	case disk.KeyQgroupStatus:
		s, err := disk.ParseQgroupStatus(data)
		q.Simple = s.Flags&disk.QgroupStatusSimpleMode != 0
		q.Inconsistent = s.Flags&(disk.QgroupStatusInconsistent|disk.QgroupStatusRescan) != 0
		return err
	case disk.KeyQgroupInfo:
		i, err := disk.ParseQgroupInfo(data)
		g := group(k.Offset)
		g.Referenced, g.Exclusive = i.Rfer, i.Excl
		return err
	case disk.KeyQgroupLimit:
		l, err := disk.ParseQgroupLimit(data)
		group(k.Offset).Limits = txn.LimitsOf(l)
		return err
	case disk.KeyQgroupRelation:
		if member, of := uint64(k.ObjectID), k.Offset; member>>48 < of>>48 {
			group(member).Parents = append(group(member).Parents, of)
			group(of).Children = append(group(of).Children, member)
		}
	}
	return nil
}

// changeTxn makes a change in the layer below files.
func (f *FS) changeTxn(change func(tx *txn.FS) error) error {
	if f.w == nil {
		return fmt.Errorf("btrfs: %w", ErrReadOnly)
	}
	if err := change(f.w.Txn()); err != nil {
		return fmt.Errorf("btrfs: %w", err)
	}
	return nil
}

// EnableQuota turns quotas on. Simple ones charge extents made from now on to
// the subvolume that makes them; the others count what every subvolume reaches,
// for which all that is there is counted now. The error wraps EEXIST if quotas
// are on. Like all changes of quotas it is durable after Sync.
func (f *FS) EnableQuota(ctx context.Context, simple bool) error {
	return f.changeTxn(func(tx *txn.FS) error { return tx.EnableQuota(ctx, simple) })
}

// DisableQuota turns quotas off; numbers, qgroups and limits are gone. The error
// of this and of what follows wraps ENOTCONN if quotas are off.
func (f *FS) DisableQuota(ctx context.Context) error {
	return f.changeTxn(func(tx *txn.FS) error { return tx.DisableQuota(ctx) })
}

// RescanQuota counts everything anew.
func (f *FS) RescanQuota(ctx context.Context) error {
	return f.changeTxn(func(tx *txn.FS) error { return tx.RescanQuota(ctx) })
}

// CreateQgroup makes a qgroup of a level above 0.
func (f *FS) CreateQgroup(ctx context.Context, id uint64) error {
	return f.changeTxn(func(tx *txn.FS) error { return tx.CreateQgroup(ctx, id) })
}

// DestroyQgroup takes a qgroup away (EBUSY while it has members or a
// subvolume).
func (f *FS) DestroyQgroup(ctx context.Context, id uint64) error {
	return f.changeTxn(func(tx *txn.FS) error { return tx.DestroyQgroup(ctx, id) })
}

// AssignQgroup makes a qgroup a member of another, which must be of a higher
// level.
func (f *FS) AssignQgroup(ctx context.Context, member, of uint64) error {
	return f.changeTxn(func(tx *txn.FS) error { return tx.AssignQgroup(ctx, member, of, false) })
}

// RemoveQgroup ends what AssignQgroup began.
func (f *FS) RemoveQgroup(ctx context.Context, member, of uint64) error {
	return f.changeTxn(func(tx *txn.FS) error { return tx.AssignQgroup(ctx, member, of, true) })
}

// LimitQgroup sets a qgroup's limits: a change that would exceed one fails with
// EDQUOT and has not happened.
func (f *FS) LimitQgroup(ctx context.Context, id uint64, l QgroupLimits) error {
	return f.changeTxn(func(tx *txn.FS) error { return tx.LimitQgroup(ctx, id, l) })
}
