package txn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/lockrank"
	"gobtrfs/internal/volume"
)

// quota is what the quota tree says. Full accounting compares, for every extent
// whose references may have changed in a transaction, who reached it before
// with who reaches it now; simple accounting charges the subvolume that made
// an extent for as long as it exists.
//
//	rfer of a qgroup: bytes of extents that a member reaches
//	excl of a qgroup: bytes of extents that nobody but members reaches
//
// All of it belongs to the writer, except for what mu protects.
type quota struct {
	tree    *Tree
	status  disk.QgroupStatus
	stale   bool               // the status item says something else
	oldForm bool               // the status item is of before simple quotas, and shorter
	copies  [][2]disk.ObjectID // snapshots made in this transaction: source, copy
	dropped []disk.ObjectID    // subvolumes whose last node went in this transaction

	enforced atomic.Bool // counts(), for those who do not have the writer

	mu     lockrank.Mutex
	groups map[uint64]*qgroup // the map and what its values hold; written by the writer alone
}

// rankQuota: no lock is taken under quota.mu.
const rankQuota lockrank.Rank = 93

type qgroup struct {
	info     disk.QgroupInfo
	limit    disk.QgroupLimit
	above    []uint64 // that it is a member of
	changed  bool     // info differs from its item
	reserved uint64   // bytes of operations of the running transaction
}

// Limits that a qgroup may have (kernel: BTRFS_QGROUP_LIMIT_*, 6.18).
const (
	limitRfer = 1 << 0
	limitExcl = 1 << 1
)

// counts says whether the numbers are kept.
func (q *quota) counts() bool {
	const unsure = disk.QgroupStatusRescan | disk.QgroupStatusInconsistent
	return q != nil && q.status.Flags&disk.QgroupStatusOn != 0 && q.status.Flags&unsure == 0
}

func (q *quota) full() bool {
	return q.counts() && q.status.Flags&disk.QgroupStatusSimpleMode == 0
}

func (q *quota) simple() bool {
	return q.counts() && q.status.Flags&disk.QgroupStatusSimpleMode != 0
}

// loadQuota reads the quota tree. Numbers that are not of the last commit, or
// that a rescan has not finished, are no base to count from: they are left
// alone and marked as inconsistent, as Linux does.
func (f *FS) loadQuota(ctx context.Context) error {
	t, err := f.Tree(ctx, disk.TreeQuota)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	q := f.newQuota(t)
	it := btree.New(f.cache, t.Root()).Seek(ctx, disk.Key{})
	for ; it.Valid(); it.Next() {
		if err := q.load(it.Key(), it.Data()); err != nil {
			return &volume.CorruptError{Tree: disk.TreeQuota, Key: it.Key(), What: "quota tree", Err: err}
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	f.quota.Store(q)
	q.enforced.Store(q.counts())
	if q.counts() && q.status.Generation != f.super.Generation || q.status.Flags&disk.QgroupStatusRescan != 0 {
		q.doubt()
	}
	if q.full() {
		f.refs.watch()
	}
	return nil
}

func (f *FS) newQuota(t *Tree) *quota {
	q := &quota{tree: t, groups: make(map[uint64]*qgroup)}
	q.mu.Init(rankQuota, 0)
	return q
}

func (q *quota) load(k disk.Key, data []byte) (err error) {
	switch k.Type {
	case disk.KeyQgroupStatus:
		q.status, err = disk.ParseQgroupStatus(data)
		q.oldForm = len(data) == oldStatusSize
	case disk.KeyQgroupInfo:
		q.group(k.Offset).info, err = disk.ParseQgroupInfo(data)
	case disk.KeyQgroupLimit:
		q.group(k.Offset).limit, err = disk.ParseQgroupLimit(data)
	case disk.KeyQgroupRelation:
		// Each is there in both directions; a member has the lower level.
		if member, of := uint64(k.ObjectID), k.Offset; member>>48 < of>>48 {
			g := q.group(member)
			g.above = append(g.above, of)
		}
	}
	return err
}

func (q *quota) group(id uint64) *qgroup {
	g := q.groups[id]
	if g == nil {
		g = &qgroup{}
		q.groups[id] = g
	}
	return g
}

// doubt says that the numbers are not right any more, until a rescan.
func (q *quota) doubt() {
	q.status.Flags = q.status.Flags&^disk.QgroupStatusRescan | disk.QgroupStatusInconsistent
	q.stale = true
	q.enforced.Store(false)
}

// reach is the qgroup with all that it is a member of, directly or not.
func (q *quota) reach(id uint64) []uint64 {
	if q.groups[id] == nil {
		return nil
	}
	out := []uint64{id}
	for i := 0; i < len(out); i++ {
		if g := q.groups[out[i]]; g != nil {
			for _, p := range g.above {
				if !slices.Contains(out, p) {
					out = append(out, p)
				}
			}
		}
	}
	return out
}

// members counts, for each qgroup, the subvolumes of a set that are in it.
func (q *quota) members(s rootSet) map[uint64]int {
	m := make(map[uint64]int, len(s))
	for _, id := range s {
		for _, g := range q.reach(uint64(id)) {
			m[g]++
		}
	}
	return m
}

// move counts n bytes of an extent that was reached by one set of subvolumes
// and is reached by another.
func (q *quota) move(n uint64, was, is rootSet) {
	if slices.Equal(was, is) {
		return
	}
	before, after := q.members(was), q.members(is)
	signed := func(had, has bool) int64 {
		switch {
		case has && !had:
			return int64(n)
		case had && !has:
			return -int64(n)
		}
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for id := range before {
		if after[id] == 0 {
			after[id] = 0 // so that it is looked at below
		}
	}
	for id := range after {
		q.add(id,
			signed(before[id] > 0, after[id] > 0),
			signed(before[id] > 0 && before[id] == len(was), after[id] > 0 && after[id] == len(is)))
	}
}

// add changes the numbers of one qgroup. mu must be held.
func (q *quota) add(id uint64, rfer, excl int64) {
	g := q.groups[id]
	if g == nil {
		return
	}
	g.changed = true
	for _, c := range [...]struct {
		n *uint64
		d int64
	}{{&g.info.Rfer, rfer}, {&g.info.Excl, excl}} {
		if c.d < 0 && *c.n < uint64(-c.d) {
			q.doubt()
			*c.n = 0
			continue
		}
		*c.n += uint64(c.d)
	}
	g.info.RferCmpr, g.info.ExclCmpr = g.info.Rfer, g.info.Excl
}

// settleQuota counts what the transaction did and brings the quota tree up to
// date. It says whether it changed anything.
//
// REQUIRES: the writer, and that no references are pending.
func (f *FS) settleQuota(ctx context.Context) (bool, error) {
	q := f.quota.Load()
	if q == nil {
		return false, nil
	}
	if touched := f.refs.touched(); len(touched) > 0 && q.full() {
		if err := f.countTouched(ctx, touched); err != nil {
			if !errors.Is(err, volume.ErrCorrupt) {
				return false, err
			}
			q.doubt() // the numbers are not worth the filesystem
		}
	}
	if err := f.removeDropped(ctx); err != nil {
		return false, err
	}
	q.copies, q.dropped = nil, nil
	return f.writeQuota(ctx)
}

func (f *FS) countTouched(ctx context.Context, touched []disk.Logical) error {
	before, err := f.refsBefore(ctx)
	if err != nil {
		return err
	}
	now := f.refsNow()
	for _, addr := range touched {
		was, err := before.of(ctx, addr)
		if err != nil {
			return fmt.Errorf("who reached extent %d: %w", uint64(addr), err)
		}
		is, err := now.of(ctx, addr)
		if err != nil {
			return fmt.Errorf("who reaches extent %d: %w", uint64(addr), err)
		}
		// A snapshot shares all of its source, though it touched only the root.
		for _, c := range f.quota.Load().copies {
			if _, ok := slices.BinarySearch(was.roots, c[0]); ok {
				was.roots = was.roots.with(c[1])
			}
		}
		f.quota.Load().move(max(was.size, is.size), was.roots, is.roots)
	}
	return nil
}

// writeQuota writes the items that differ.
func (f *FS) writeQuota(ctx context.Context) (changed bool, err error) {
	q := f.quota.Load()
	q.renew(f.opts.Waiting)
	for _, id := range slices.Sorted(maps.Keys(q.groups)) {
		g := q.groups[id]
		if !g.changed {
			continue
		}
		g.info.Generation, g.changed, changed = f.Trans(), false, true
		if err := q.tree.Update(ctx, qgroupInfoKey(id), g.info.Append(nil)); err != nil {
			return true, err
		}
	}
	if q.status.Generation == f.Trans() && !q.stale {
		return changed, nil
	}
	q.status.Generation, q.stale = f.Trans(), false
	item := q.status.Append(nil)
	if q.oldForm {
		item = item[:oldStatusSize]
	}
	return true, q.tree.Update(ctx, qgroupStatusKey, item)
}

// oldStatusSize is the size of a status item without enable_gen, in bytes.
const oldStatusSize = 32

var qgroupStatusKey = disk.Key{Type: disk.KeyQgroupStatus}

func qgroupInfoKey(id uint64) disk.Key  { return disk.Key{Type: disk.KeyQgroupInfo, Offset: id} }
func qgroupLimitKey(id uint64) disk.Key { return disk.Key{Type: disk.KeyQgroupLimit, Offset: id} }

func qgroupRelationKeys(member, of uint64) [2]disk.Key {
	return [2]disk.Key{
		{ObjectID: disk.ObjectID(member), Type: disk.KeyQgroupRelation, Offset: of},
		{ObjectID: disk.ObjectID(of), Type: disk.KeyQgroupRelation, Offset: member},
	}
}

// addQgroup makes a qgroup that counts nothing.
//
// REQUIRES: the writer.
func (f *FS) addQgroup(ctx context.Context, id uint64) error {
	q := f.quota.Load()
	if q == nil || q.groups[id] != nil {
		return nil
	}
	q.mu.Lock()
	q.group(id)
	q.mu.Unlock()
	return f.insertQgroup(ctx, q, id)
}

// insertQgroup inserts the items of a qgroup that has none.
func (f *FS) insertQgroup(ctx context.Context, q *quota, id uint64) error {
	g := q.groups[id]
	g.info.Generation, g.changed = f.Trans(), false
	if err := q.tree.Insert(ctx, qgroupInfoKey(id), g.info.Append(nil)); err != nil {
		return err
	}
	return q.tree.Insert(ctx, qgroupLimitKey(id), g.limit.Append(nil))
}

// removeQgroup takes a qgroup away, with its relations.
//
// REQUIRES: the writer.
func (f *FS) removeQgroup(ctx context.Context, id uint64) error {
	q := f.quota.Load()
	keys := []disk.Key{qgroupInfoKey(id), qgroupLimitKey(id)}
	for _, p := range q.groups[id].above {
		both := qgroupRelationKeys(id, p)
		keys = append(keys, both[:]...)
	}
	q.mu.Lock()
	delete(q.groups, id)
	q.mu.Unlock()
	for _, k := range keys {
		if err := q.tree.Delete(ctx, k); err != nil && !errors.Is(err, btree.ErrNotFound) {
			return err
		}
	}
	return nil
}

// removeDropped takes away the qgroups of subvolumes that are gone (Linux does
// so since 6.11), unless something still counts for them.
func (f *FS) removeDropped(ctx context.Context) error {
	q := f.quota.Load()
	for _, id := range q.dropped {
		g := q.groups[uint64(id)]
		if g == nil || !q.counts() || g.info.Rfer != 0 || g.info.Excl != 0 {
			continue
		}
		if err := f.removeQgroup(ctx, uint64(id)); err != nil {
			return err
		}
	}
	return nil
}

// copied counts a snapshot at the instant at which it shares everything with
// its source: it refers to the same bytes, and neither has any alone.
//
// REQUIRES: the writer, and that nothing else was changed in the transaction.
func (f *FS) copied(ctx context.Context, src, id disk.ObjectID) error {
	q := f.quota.Load()
	if q == nil {
		return nil
	}
	if err := f.addQgroup(ctx, uint64(id)); err != nil {
		return err
	}
	from, to := q.groups[uint64(src)], q.groups[uint64(id)]
	if !q.full() || from == nil {
		return nil
	}
	q.copies = append(q.copies, [2]disk.ObjectID{src, id})
	q.mu.Lock()
	defer q.mu.Unlock()
	to.info.Rfer, to.info.RferCmpr, to.changed = from.info.Rfer, from.info.RferCmpr, true
	from.info.Excl, from.info.ExclCmpr, from.changed = 0, 0, true
	if len(from.above) > 0 {
		q.doubt() // what its groups have alone would have to be counted anew
	}
	return nil
}

// maxSharedTrace bounds what is touched in a transaction by dropping shared
// nodes, in nodes and extents; more makes the numbers inconsistent, as it does in Linux by the
// height of the node.
const maxSharedTrace = 1 << 20

// touchShared notes everything below a shared node that a dropped tree leaves:
// nothing of it changes, but one fewer reaches it.
func (t *Tree) touchShared(ctx context.Context, c btree.Child) error {
	q := t.fs.quota.Load()
	if !q.full() {
		return nil
	}
	left := maxSharedTrace - t.fs.refs.watched()
	if err := t.traceShared(ctx, c, &left); err != nil {
		return err
	}
	if left < 0 {
		q.doubt()
	}
	return nil
}

func (t *Tree) traceShared(ctx context.Context, c btree.Child, left *int) error {
	t.fs.refs.touch(c.Addr)
	n, err := t.readChild(ctx, c)
	if err != nil {
		return err
	}
	if *left -= n.NrItems(); *left < 0 {
		return nil
	}
	for i := range n.NrItems() {
		if !n.IsLeaf() {
			child := btree.Child{Addr: n.BlockPtr(i), Level: c.Level - 1, Generation: n.PtrGeneration(i), First: n.Key(i)}
			if err := t.traceShared(ctx, child, left); err != nil {
				return err
			}
			continue
		}
		if n.Key(i).Type != disk.KeyExtentData {
			continue
		}
		fe, err := disk.ParseFileExtent(n.ItemData(i))
		if err != nil {
			return fmt.Errorf("file extent %v: %w", n.Key(i), err)
		}
		if fe.Type != disk.FileExtentInline && !fe.IsHole() {
			t.fs.refs.touch(fe.DiskBytenr)
		}
	}
	return nil
}

// Charge promises that a subvolume may come to refer to n more bytes, or fails
// with EDQUOT if one of its qgroups has a limit below that. The promise ends
// with the transaction, when what was really used is counted: so what earlier
// operations were promised and did not use is got back by a commit of all that
// waits in memory.
func (f *FS) Charge(sub disk.ObjectID, n uint64) error {
	q := f.quota.Load()
	if q == nil || !q.enforced.Load() || q.charge(uint64(sub), n) {
		return nil
	}
	return fmt.Errorf("subvolume %d: %d bytes more: %w", uint64(sub), n, syscall.EDQUOT)
}

// HasQuotas says whether what subvolumes use is counted.
func (f *FS) HasQuotas() bool { return f.quota.Load() != nil }

// renew ends all promises but those for contents that still wait.
func (q *quota) renew(waiting func() map[disk.ObjectID]uint64) {
	var of map[disk.ObjectID]uint64
	if waiting != nil {
		of = waiting()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, g := range q.groups {
		g.reserved = 0
	}
	for sub, n := range of {
		for _, id := range q.reach(uint64(sub)) {
			if g := q.groups[id]; g != nil {
				g.reserved += n
			}
		}
	}
}

func (q *quota) charge(id, n uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.reach(id)
	for _, a := range all {
		g := q.groups[a]
		if g == nil {
			continue
		}
		l := &g.limit
		if l.Flags&limitRfer != 0 && g.info.Rfer+g.reserved+n > l.MaxRfer ||
			l.Flags&limitExcl != 0 && g.info.Excl+g.reserved+n > l.MaxExcl {
			return false
		}
	}
	for _, a := range all {
		if g := q.groups[a]; g != nil {
			g.reserved += n
		}
	}
	return true
}
