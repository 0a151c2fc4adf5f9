package main

import (
	"context"
	"errors"
	"time"

	"gobtrfs/scrub"
)

// How long a scrub of a mounted filesystem keeps writers away from the devices
// at a time, and how long it then stands back.
const (
	scrubTurn  = time.Second
	scrubPause = 200 * time.Millisecond
)

// scrub is scrub.Run beside the mount, in turns: copies are compared while
// nobody writes, and each turn sees the last commit before it.
func (l *liveMount) scrub(ctx context.Context, o scrub.Options) (r *scrub.Report, err error) {
	progress, before, done := o.Progress, uint64(0), uint64(0)
	if progress != nil {
		o.Progress = func(d, total uint64) { done = before + d; progress(done, total) }
	}
	for turn := scrubTurn; ; before = done {
		err = l.fs.Still(ctx, true, func(ctx context.Context) (err error) {
			ctx, cancel := context.WithTimeout(ctx, turn)
			defer cancel()
			r, err = scrub.Run(ctx, l.devs, o)
			return err
		})
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return r, err
		}
		if r == nil || o.Resume != nil && r.Next == o.Resume.Next {
			turn *= 2 // too short to get anywhere
		}
		if r != nil {
			o.Resume = &r.State
		}
		select {
		case <-ctx.Done():
			return r, context.Cause(ctx)
		case <-time.After(scrubPause):
		}
	}
}
