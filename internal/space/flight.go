package space

import (
	"context"
	"errors"
	"fmt"
)

// fly is a flight: it makes one chunk, or not, and says so, on every path.
func (i *Info) fly(spec GrowSpec) {
	defer i.fs.wg.Done()
	res := GrowResult{Outcome: GrowAborted}
	finished := false
	defer func() {
		if !finished { // a panic, or a Goexit in somebody's callback
			i.fs.Abort(fmt.Errorf("making a %v chunk ended in panic: %v", i.flags, recover()))
		}
		i.mu.Lock()
		i.stats.Flights++
		if res.Err != nil {
			i.growthSaid = res.Err.Error()
		}
		if res.Outcome == GrowNoSpace {
			res.Err = nil
		}
		i.perform(i.proto.GrowDone(ledger{i}, res, nil))
		i.mu.Unlock()
	}()
	res = i.fs.growOnce(i, spec)
	finished = true
}

// growOnce waits its turn and makes a chunk.
func (fs *FS) growOnce(i *Info, spec GrowSpec) GrowResult {
	if spec.Retry > 0 {
		if err := fs.cfg.Clock.Sleep(fs.ctx, fs.cfg.RetryDelay<<(spec.Retry-1)); err != nil {
			return GrowResult{Outcome: GrowAborted}
		}
	}
	select {
	case fs.growSem <- struct{}{}:
		defer func() { <-fs.growSem }()
	case <-fs.ctx.Done():
		return GrowResult{Outcome: GrowAborted}
	}
	res := fs.grow(i, spec)
	if res.Outcome != GrowMade && fs.cfg.Events.GrowthFailed != nil && res.Err != nil {
		fs.cfg.Events.GrowthFailed(i.flags, res.Err)
	}
	return res
}

// classify turns an error of the ChunkWriter into an outcome (I6).
func (fs *FS) classify(err error, epoch Epoch) GrowResult {
	switch {
	case fs.ctx.Err() != nil:
		return GrowResult{Outcome: GrowAborted}
	case errors.Is(err, ErrAborted):
		fs.Abort(err)
		return GrowResult{Outcome: GrowAborted}
	case errors.Is(err, ErrNoSpace):
		return GrowResult{Outcome: GrowNoSpace, Err: err, Epoch: epoch}
	case errors.Is(err, ErrTransient):
		return GrowResult{Outcome: GrowTransient, Err: err, Epoch: epoch}
	}
	return GrowResult{Outcome: GrowBroken, Err: err, Epoch: epoch}
}

// runStage runs a reclaim stage and says so on every path.
func (i *Info) runStage(n int, lane Lane) {
	defer i.fs.wg.Done()
	var err error
	finished := false
	defer func() {
		if !finished {
			i.fs.Abort(fmt.Errorf("reclaim stage %q ended in panic: %v", i.stages[n].Name, recover()))
		}
		i.mu.Lock()
		i.stats.Stages++
		i.perform(i.proto.StageDone(ledger{i}, lane, err, nil))
		i.mu.Unlock()
	}()
	i.mu.Lock()
	want := ledger{i}.Short(i.proto.Unmet(), ClassNormal)
	i.mu.Unlock()
	err = i.stages[n].Run(i.fs.ctx, i, want)
	if errors.Is(err, ErrNoSpace) || errors.Is(err, context.Canceled) {
		err = nil // found nothing, or ended by an abort that everybody hears of
	}
	finished = true
}
