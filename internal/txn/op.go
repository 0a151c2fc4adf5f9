package txn

import (
	"context"

	"gobtrfs/internal/space"
)

// Operation is a change to be made as a whole.
type Operation struct {
	Items int         // that it inserts or changes at most
	Class space.Class // how it waits for room
	// Run makes the change. Its context is not cancelled any more.
	Run func(ctx context.Context) error
	// Promised is a promise from ReserveItems that the operation has instead
	// of one for Items. It is used up, whatever happens.
	Promised space.Bytes
}

// ReserveItems promises room for an operation that inserts or changes so many
// items, long before it runs. Run uses the promise up; otherwise give it back
// with ReleaseItems.
func (f *FS) ReserveItems(ctx context.Context, items int, c space.Class) (space.Bytes, error) {
	if err := f.Err(); err != nil {
		return 0, err
	}
	n := f.itemBytes(items)
	return n, f.space.Metadata().Reserve(ctx, n, c)
}

// ReleaseItems gives back a promise of ReserveItems.
func (f *FS) ReleaseItems(n space.Bytes) {
	if n > 0 {
		f.space.Metadata().Release(n)
	}
}

func (f *FS) itemBytes(items int) space.Bytes {
	u := space.Units{NodeSize: space.Bytes(f.geometry.NodeSize)}
	return space.Bytes(items) * u.Insert()
}

// Do runs one operation as part of the running transaction: it has promises
// for so many items, and no other operation runs. An error of op from before
// its first change is returned and nothing has happened; after that it aborts
// the filesystem.
func (f *FS) Do(ctx context.Context, items int, c space.Class, op func(ctx context.Context) error) error {
	return f.Run(ctx, Operation{Items: items, Class: c, Run: op})
}

// Run runs an operation that may have its promise already; see Do.
func (f *FS) Run(ctx context.Context, op Operation) error {
	n, err := f.promise(ctx, &op)
	if err != nil {
		return err
	}
	if err := f.lockWriter(ctx); err != nil {
		f.ReleaseItems(n)
		return err
	}
	err = f.perform(ctx, n, &op)
	full := f.fullness() >= 1 && f.replaying.Load() == nil
	f.state.Unlock()
	if full {
		f.commitSoon()
	}
	return err
}

// RunCommitted is Run as the first operation of a transaction, so that all
// trees are clean.
func (f *FS) RunCommitted(ctx context.Context, op Operation) error {
	if f.inStep {
		if err := f.Commit(ctx); err != nil {
			f.ReleaseItems(op.Promised)
			return err
		}
	}
	n, err := f.promise(ctx, &op)
	if err != nil {
		return err
	}
	err = f.cycle.take(ctx)
	if err == nil {
		if err = f.lockWriter(ctx); err != nil {
			f.cycle.give(0)
		}
	}
	if err != nil {
		f.ReleaseItems(n)
		return err
	}
	var s *sealed
	if f.touched.Load() {
		s, err = f.seal(context.WithoutCancel(ctx))
	}
	if err != nil {
		err = f.abort(err)
		f.ReleaseItems(n)
	} else {
		err = f.perform(ctx, n, &op)
	}
	f.state.Unlock()
	f.cycle.spawn(func() { f.finish(s) })
	return err
}

// promise reserves room for an operation unless it has a promise, after waiting
// for commits to catch up with operations.
func (f *FS) promise(ctx context.Context, op *Operation) (space.Bytes, error) {
	if err := f.throttle(ctx); err != nil {
		f.ReleaseItems(op.Promised)
		return 0, err
	}
	if op.Promised > 0 {
		return op.Promised, nil
	}
	return f.ReserveItems(ctx, op.Items, op.Class)
}

// perform runs an operation that was promised n bytes, and gives back those
// that are left.
//
// REQUIRES: the writer.
func (f *FS) perform(ctx context.Context, n space.Bytes, op *Operation) error {
	f.pool = n
	before := f.changes
	err := op.Run(context.WithoutCancel(ctx))
	if err != nil && f.changes != before {
		err = f.abort(err)
	}
	n, f.pool = f.pool, 0
	f.ReleaseItems(n)
	return err
}
