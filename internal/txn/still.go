package txn

import (
	"context"

	"gobtrfs/disk"
)

// Still calls look while the devices hold one commit and stay at it: all that
// was done before is in it, and until look returns no other commit and no log
// tree is written. With contents set no contents are written either, so that
// copies, and parity, do not change while they are compared. Operations go on
// in memory until they need one of these. look must not ask for a commit; an
// end of ctx is look's to notice.
func (f *FS) Still(ctx context.Context, contents bool, look func(ctx context.Context) error) error {
	if err := f.cycle.take(ctx); err != nil {
		return err
	}
	defer f.cycle.give(0)
	if err := f.commitHeld(ctx); err != nil {
		return err
	}
	if contents {
		if err := f.contents.Lock(ctx); err != nil {
			return err
		}
		defer f.contents.Unlock()
		if err := f.vol.Sync(); err != nil { // rows of parity that wait
			return f.abort(err)
		}
	}
	return look(ctx)
}

// commitHeld is a turn of the cycle that does not give it back. Those who wait
// for the commit do not wait for more.
//
// REQUIRES: the cycle was taken.
func (f *FS) commitHeld(ctx context.Context) error {
	s, err := f.sealIfTouched(ctx)
	if err != nil || s == nil {
		return err
	}
	if err := f.write(context.WithoutCancel(ctx), s); err != nil {
		return err
	}
	f.cycle.reached(s.trans)
	return nil
}

func (f *FS) sealIfTouched(ctx context.Context) (*sealed, error) {
	if err := f.lockWriter(ctx); err != nil {
		return nil, err
	}
	defer f.state.Unlock()
	if !f.touched.Load() || f.replaying.Load() != nil {
		return nil, nil
	}
	s, err := f.seal(context.WithoutCancel(ctx))
	if err != nil {
		return nil, f.abort(err)
	}
	return s, nil
}

// reached tells those who wait that everything up to done is durable. The turn
// goes on.
func (c *cycle) reached(done disk.TransID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = max(c.done, done)
	c.moveLocked()
}
