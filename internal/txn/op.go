package txn

import (
	"context"
	"errors"

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
	err := f.space.Metadata().Reserve(ctx, n, c)
	if !errors.Is(err, space.ErrNoSpace) {
		return n, err
	}
	// Perhaps only for what operations are promised that are about to end.
	if err := f.admission.Lock(ctx); err != nil {
		return 0, err
	}
	defer f.admission.Unlock()
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
	p, err := f.promise(ctx, &op)
	if err != nil {
		return err
	}
	full, err := f.runAlone(ctx, p, &op)
	if full {
		f.commitSoon()
	}
	return err
}

// runAlone runs an operation under the writer, and says whether the transaction
// should now be committed.
func (f *FS) runAlone(ctx context.Context, p *promise, op *Operation) (full bool, err error) {
	defer p.end()
	if err := f.lockWriter(ctx); err != nil {
		return false, err
	}
	defer f.state.Unlock()
	err = f.perform(ctx, p, op)
	return f.fullness() >= 1 && f.replaying.Load() == nil, err
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
	p, err := f.promise(ctx, &op)
	if err != nil {
		return err
	}
	defer p.end()
	if err := f.cycle.take(ctx); err != nil {
		return err
	}
	if err := f.lockWriter(ctx); err != nil {
		f.cycle.give(0)
		return err
	}
	var s *sealed
	defer func() {
		f.state.Unlock()
		f.cycle.spawn(func() { f.finish(s) })
	}()
	if f.touched.Load() {
		if s, err = f.seal(context.WithoutCancel(ctx)); err != nil {
			return f.abort(err)
		}
	}
	return f.perform(ctx, p, &op)
}

// promise is what a running operation may use of metadata.
type promise struct {
	fs       *FS
	n        space.Bytes // left of it
	admitted func()      // ends the admission; nil: none was needed
	global   bool        // n is the global reserve's
}

// end gives back what is left.
func (p *promise) end() {
	switch {
	case p.n == 0:
	case p.global:
		p.fs.space.GlobalReserve().Give(p.n)
	default:
		p.fs.space.Metadata().Release(p.n)
	}
	if p.admitted != nil {
		p.admitted()
	}
}

// promise reserves room for an operation unless it has a promise, after waiting
// for commits to catch up with operations.
//
// A promise is a worst case that hardly any operation needs, so many at a time
// would find no space where each alone has plenty. When that is said of one, it
// waits until it is alone and asks again. What frees space in the end then
// draws on the global reserve, which commits refill (kernel:
// btrfs_start_transaction_fallback_global_rsv, 6.18).
func (f *FS) promise(ctx context.Context, op *Operation) (*promise, error) {
	p := &promise{fs: f, n: op.Promised}
	if err := f.throttle(ctx); err != nil {
		p.end()
		return nil, err
	}
	if p.n > 0 {
		return p, nil
	}
	if err := f.admission.RLock(ctx); err != nil {
		return nil, err
	}
	n := f.itemBytes(op.Items)
	err := f.space.Metadata().Reserve(ctx, n, op.Class)
	if err == nil {
		p.n, p.admitted = n, f.admission.RUnlock
		return p, nil
	}
	f.admission.RUnlock()
	if !errors.Is(err, space.ErrNoSpace) {
		return nil, err
	}
	if err := f.admission.Lock(ctx); err != nil {
		return nil, err
	}
	p.admitted = f.admission.Unlock
	err = f.space.Metadata().Reserve(ctx, n, op.Class)
	if errors.Is(err, space.ErrNoSpace) && (op.Class == space.ClassSteal || op.Class == space.ClassCleaner) {
		p.global, err = f.borrow(ctx, n, err)
	}
	if err != nil {
		p.end()
		return nil, err
	}
	p.n = n
	return p, nil
}

// borrow takes n bytes of the global reserve, after a commit has refilled it if
// need be. The error is why if there are not so many.
func (f *FS) borrow(ctx context.Context, n space.Bytes, why error) (global bool, err error) {
	if f.space.GlobalReserve().Use(n) {
		return true, nil
	}
	if err := f.Commit(ctx); err != nil {
		return false, err
	}
	if f.space.GlobalReserve().Use(n) {
		return true, nil
	}
	// The reserves grow with the trees, and on a full filesystem beyond what there
	// is. Of its worst case the operation will need little.
	if f.space.Metadata().Reserve(ctx, n, space.ClassEmergency) == nil {
		return false, nil
	}
	return false, why
}

// perform runs an operation that was promised room, and leaves in the promise
// what it did not need.
//
// REQUIRES: the writer.
func (f *FS) perform(ctx context.Context, p *promise, op *Operation) error {
	f.pool = p.n
	before := f.changes
	err := errPanic
	defer func() {
		if err == errPanic && f.changes != before { // whoever recovers finds the filesystem aborted
			f.abort(err)
		}
		p.n, f.pool = f.pool, 0
	}()
	err = op.Run(context.WithoutCancel(ctx))
	if err != nil && f.changes != before {
		err = f.abort(err)
	}
	return err
}

var errPanic = errors.New("an operation ended in a panic")
