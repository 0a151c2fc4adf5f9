package txn

import (
	"context"
	"errors"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/space"
)

// How often who waits for the state, or for a joint operation's change, looks
// again before it sleeps. Most operations and nearly all changes take some
// microseconds, a look less than one; to put a thread to sleep and wake it takes
// ten and more in a virtual machine.
const (
	stateYields = 32
	shapeYields = 150
)

// Joint is an operation that runs beside others of its kind. They know how
// their changes go together, and work on leaves in place; whoever needs more
// than that has the trees alone for that one change ("shape", in the lock
// order). What a Joint sees of others may be half done.
type Joint struct {
	fs      *FS
	p       *promise
	changed bool
}

// RunJoint is Do for an operation that others of its kind may run beside.
// Everything else sees all of it or nothing.
func (f *FS) RunJoint(ctx context.Context, items int, c space.Class, run func(ctx context.Context, j *Joint) error) error {
	p, err := f.promise(ctx, &Operation{Items: items, Class: c})
	if err != nil {
		return err
	}
	full, err := f.runBeside(ctx, p, run)
	if full {
		f.commitSoon()
	}
	return err
}

func (f *FS) runBeside(ctx context.Context, p *promise, run func(ctx context.Context, j *Joint) error) (full bool, err error) {
	defer p.end()
	if err := f.state.Join(ctx); err != nil {
		return false, err
	}
	defer f.state.Leave()
	if err := f.Err(); err != nil {
		return false, err
	}
	if err := f.shape.RLock(ctx); err != nil {
		return false, err
	}
	defer f.shape.RUnlock()
	j := Joint{fs: f, p: p}
	err = errPanic
	defer func() {
		if err != nil && j.changed {
			err = f.abort(err)
		}
	}()
	err = run(context.WithoutCancel(ctx), &j)
	return f.fullness() >= 1 && f.replaying.Load() == nil, err
}

// alone runs change while no other Joint is at work.
func (j *Joint) alone(ctx context.Context, change func() error) (err error) {
	f := j.fs
	f.shape.RUnlock()
	// What is run is not cancelled any more, so neither lock fails.
	defer func() { err = errors.Join(err, f.shape.RLock(ctx)) }()
	if err := f.shape.Lock(ctx); err != nil {
		return err
	}
	defer f.shape.Unlock()
	before := f.changes
	f.pool = j.p.n
	defer func() {
		j.p.n, f.pool = f.pool, 0
		j.changed = j.changed || f.changes != before
	}()
	return change()
}

// did notes a change.
func (j *Joint) did() {
	j.changed = true
	j.fs.touch()
}

// Get calls use with the data of an item, which it must not keep.
func (j *Joint) Get(ctx context.Context, t *Tree, k disk.Key, use func(data []byte) error) (found bool, err error) {
	return t.GetInPlace(ctx, &j.fs.latches, k, use)
}

// Insert adds items between whose keys there are no others. If the error is
// btree.ErrExists and there is only one, nothing has changed.
func (j *Joint) Insert(ctx context.Context, t *Tree, items ...btree.Item) error {
	for {
		done, err := t.InsertInPlace(&j.fs.latches, items...)
		if err != nil {
			return err
		}
		if done {
			j.did()
			return nil
		}
		// Whoever waits to be alone often makes the very room that lacks.
		if passed, err := j.fs.shape.letPass(ctx); err != nil || !passed {
			if err != nil {
				return err
			}
			break
		}
	}
	return j.alone(ctx, func() error {
		for _, it := range items {
			if err := t.Insert(ctx, it.Key, it.Data); err != nil {
				return err
			}
		}
		return nil
	})
}

// Update has change overwrite the data of an item.
func (j *Joint) Update(ctx context.Context, t *Tree, k disk.Key, change func(data []byte) error) error {
	done, err := t.UpdateInPlace(&j.fs.latches, k, change)
	if done {
		j.did()
	}
	if done || err != nil {
		return err
	}
	return j.alone(ctx, func() error {
		old, ok, err := t.Get(ctx, k)
		if err != nil {
			return err
		}
		if !ok {
			return btree.ErrNotFound
		}
		data := append([]byte(nil), old...)
		if err := change(data); err != nil {
			return err
		}
		return t.Update(ctx, k, data)
	})
}

// Stamp has change overwrite a tree's root item.
func (j *Joint) Stamp(t *Tree, change func(*disk.RootItem)) {
	f := j.fs
	f.treesMu.Lock()
	change(&t.item)
	t.changed = true
	f.treesMu.Unlock()
	j.did()
}
