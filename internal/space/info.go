package space

import (
	"context"
	"fmt"
	"sync/atomic"

	"gobtrfs/disk"
	"gobtrfs/internal/invariants"
	"gobtrfs/internal/lockrank"
)

// Info is the space of one type: DATA, METADATA, SYSTEM, or DATA|METADATA in
// a filesystem with mixed groups. Its methods are safe for concurrent use.
type Info struct {
	// Immutable.
	fs     *FS
	flags  disk.BlockGroupFlags // type only
	stages []Stage

	// free is changed by anybody; the waiting bit and everything but promises
	// only under mu.
	free headroom
	// promised counts what was taken and not given back; kept only where
	// invariants are checked, since it can be computed from the rest.
	promised atomic.Int64
	// groups is the sorted, immutable list of the info's groups; replaced
	// under FS.mu.
	groups  atomic.Pointer[[]*Group]
	gen     atomic.Uint64             // copy of proto.Gen, written under mu
	profile atomic.Uint64             // of the next chunk; written under FS.mu
	cursor  [numClasses]atomic.Uint64 // address of the last success, by size class

	mu         lockrank.Mutex
	c          counters // protected by mu, as everything below
	allow      Bytes    // overcommit for ordinary requests
	allowHalf  Bytes    // overcommit for those in a transaction and for the cleaner
	proto      Protocol
	waiters    map[TicketID]*waiter
	lastID     TicketID
	growthSaid string // why the last flight made nothing
	stats      InfoStats
	reserves   []*Reserve
}

// counters are sums over the info's groups (I7).
type counters struct {
	total    Bytes // lengths
	used     Bytes // in extents, committed or about to be
	reserved Bytes // given to callers that have not yet recorded them
	pinned   Bytes // freed, but the last superblock still refers to them
	readOnly Bytes // unused parts of read-only groups, and superblock ranges
}

func (c *counters) add(d counters) {
	c.total += d.total
	c.used += d.used
	c.reserved += d.reserved
	c.pinned += d.pinned
	c.readOnly += d.readOnly
}

// hard is what no promise can have, whatever happens before the next commit.
func (c *counters) hard() Bytes { return c.used + c.reserved + c.pinned + c.readOnly }

// waiter is the shell's half of a ticket.
type waiter struct {
	ticket Ticket
	done   chan struct{} // closed under Info.mu when err is final
	err    error
}

func newInfo(fs *FS, flags disk.BlockGroupFlags, stages []Stage) *Info {
	i := &Info{fs: fs, flags: flags, stages: stages, waiters: make(map[TicketID]*waiter)}
	i.mu.Init(rankInfo, uint64(flags))
	i.groups.Store(new([]*Group))
	cfg := &ProtocolConfig{
		Attempts: fs.cfg.GrowAttempts, Rounds: 2,
		NoGrow: flags == disk.BlockGroupSystem,
	}
	for n, s := range stages {
		cfg.Stages = append(cfg.Stages, StageRule{s.Lane})
		if s.BeforeGrowth {
			cfg.GrowLast |= 1 << n
		}
	}
	i.proto = NewProtocol(cfg)
	i.gen.Store(uint64(i.proto.Gen()))
	return i
}

// Type is the info's type bits.
func (i *Info) Type() disk.BlockGroupFlags { return i.flags }

// Gen is the current generation. Read it before a search, not after.
func (i *Info) Gen() Gen { return Gen(i.gen.Load()) }

// Reserve promises n bytes to the caller, without saying where. It waits as
// its class allows, first come first served; the filesystem may grow and
// reclaim meanwhile. The caller gives them back with Release, or turns them
// into an extent with AllocExtent. On any error nothing is promised: the error
// is a *SpaceError, what broke growth, the cause of ctx's end, or ErrAborted.
func (i *Info) Reserve(ctx context.Context, n Bytes, c Class) error {
	if n >= 0 && i.free.take(n) {
		if invariants.Enabled {
			i.promised.Add(int64(n))
		}
		return nil
	}
	return i.reserveSlow(ctx, n, c)
}

// Release gives back n promised bytes.
func (i *Info) Release(n Bytes) {
	if n < 0 || invariants.Enabled && i.promised.Add(-int64(n)) < 0 {
		i.fs.Abort(invariants.Violated("%d bytes of %v are released that nobody was promised", n, i.flags))
		return
	}
	if !i.free.add(n) {
		return
	}
	i.mu.Lock()
	i.perform(i.proto.Freed(ledger{i}, nil))
	i.mu.Unlock()
}

func (i *Info) reserveSlow(ctx context.Context, n Bytes, c Class) error {
	if n < 0 {
		return fmt.Errorf("reserve %d bytes: %w", n, ErrCorrupt)
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if c == ClassNoWait || c == ClassEmergency {
		return i.reserveNow(n, c)
	}
	return i.wait(ctx, Ticket{Class: c, Bytes: n})
}

// reserveNow is for those that cannot wait.
func (i *Info) reserveNow(n Bytes, c Class) error {
	i.mu.Lock()
	ok, err := false, i.proto.aborted
	switch {
	case err != nil:
	case c == ClassNoWait:
		ok = !i.proto.Waiting() && i.free.takeBeyond(n, 0)
	default:
		// Promises do not count: most are never called in.
		if ok = i.c.hard()+n <= i.c.total; ok {
			i.free.add(-n)
		}
	}
	if ok && invariants.Enabled {
		i.promised.Add(int64(n))
	}
	e := i.spaceErrorLocked(Ticket{Bytes: n, Class: c})
	i.mu.Unlock()
	if ok || err != nil {
		return err
	}
	return e.withDevices(i)
}

// wait brings a ticket and sleeps until it is decided or ctx ends. If the
// grant came first the caller has its bytes and no error, even if ctx has
// ended too: never both, never neither (I4).
func (i *Info) wait(ctx context.Context, t Ticket) error {
	i.mu.Lock()
	w := i.enqueue(t)
	i.mu.Unlock()

	select {
	case <-w.done:
	case <-ctx.Done():
		i.mu.Lock()
		cancelled, out := i.proto.Cancel(ledger{i}, w.ticket.ID, nil)
		if cancelled {
			delete(i.waiters, w.ticket.ID)
			i.stats.Cancelled++
		}
		i.perform(out)
		i.mu.Unlock()
		if cancelled {
			return context.Cause(ctx)
		}
		<-w.done // closed already: the ticket is not in the queue
	}
	if e, ok := w.err.(*SpaceError); ok {
		return e.withDevices(i)
	}
	return w.err
}

// enqueue brings a ticket to the protocol. mu must be held.
func (i *Info) enqueue(t Ticket) *waiter {
	i.lastID++
	t.ID = i.lastID
	w := &waiter{ticket: t, done: make(chan struct{})}
	i.waiters[t.ID] = w
	i.stats.Tickets++
	// The bit must be up before the ledger is looked at, so that a release
	// which the ledger does not yet show comes to the lock by itself.
	i.free.setWaiting(true)
	i.perform(i.proto.Request(ledger{i}, t, nil))
	return w
}

// wantChunk asks for one more chunk without waiting for it.
func (i *Info) wantChunk() {
	i.fs.mu.Lock()
	opened := i.fs.opened
	i.fs.mu.Unlock()
	if !opened {
		return
	}
	i.mu.Lock()
	i.enqueue(Ticket{Class: ClassExtent, Piece: i.fs.sector, Seen: i.proto.Gen()})
	i.mu.Unlock()
}

// perform carries out what the protocol ordered, under mu. Closing a channel
// and starting a goroutine do not block.
func (i *Info) perform(actions []Action) {
	for _, a := range actions {
		switch a.Kind {
		case ActionGrant:
			i.decide(a.Ticket, nil)
			i.stats.Granted++
		case ActionFail:
			err := a.Err
			if err == nil {
				err = i.spaceErrorLocked(i.waiters[a.Ticket].ticket)
			}
			i.decide(a.Ticket, err)
			i.stats.Failed++
		case ActionStartGrow:
			i.fs.wg.Add(1)
			go i.fly(a.Grow)
		case ActionStartStage:
			i.fs.wg.Add(1)
			go i.runStage(a.Stage, a.Lane)
		}
	}
	i.gen.Store(uint64(i.proto.Gen()))
	// After an abort the bit stays, so that nobody passes by the lock.
	i.free.setWaiting(i.proto.Waiting() || i.proto.aborted != nil)
}

func (i *Info) decide(id TicketID, err error) {
	w := i.waiters[id]
	delete(i.waiters, id)
	w.err = err
	close(w.done)
}

// change adds d to the counters and to the headroom what follows from it;
// promise is what the change turns from a promise into a counter, or back.
// mu must be held. It returns whether anybody waits for bytes.
func (i *Info) change(d counters, promise Bytes) bool {
	i.mu.AssertHeld()
	i.c.add(d)
	if invariants.Enabled && promise != 0 {
		i.promised.Add(-int64(promise))
	}
	if room := d.total - d.hard() + promise; room != 0 {
		return i.free.add(room)
	}
	return false
}

// setAllowance replaces the overcommit allowances. mu must be held.
func (i *Info) setAllowance(normal, half Bytes) {
	i.mu.AssertHeld()
	i.free.add(normal - i.allow)
	i.allow, i.allowHalf = normal, half
}

// mayUse is what is promised. mu must be held; a promise made meanwhile is
// counted or not.
func (i *Info) mayUse() Bytes { return i.c.total + i.allow - i.c.hard() - i.free.load() }

// ledger is the account of an Info, for its Protocol. mu must be held.
type ledger struct{ i *Info }

func (l ledger) extra(c Class) Bytes {
	if c == ClassTransaction || c == ClassCleaner {
		return l.i.allowHalf - l.i.allow
	}
	return 0
}

// Take charges n if class c may have it.
func (l ledger) Take(n Bytes, c Class) bool {
	if !l.i.free.takeBeyond(n, l.extra(c)) {
		return false
	}
	if invariants.Enabled {
		l.i.promised.Add(int64(n))
	}
	return true
}

// Short is by how much n does not fit.
func (l ledger) Short(n Bytes, c Class) Bytes {
	return max(0, n-l.i.free.load()-l.extra(c))
}

// Steal moves promised bytes from the global reserve to the caller.
func (l ledger) Steal(n Bytes) bool {
	for _, r := range l.i.reserves {
		if r.stealable && r.steal(n) {
			return true
		}
	}
	return false
}
