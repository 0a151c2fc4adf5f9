package space

import "slices"

// Class says what a request may wait for. It follows from what the caller
// holds, and the order of the first three is the order in which waiting
// requests are granted.
type Class uint8

// Classes.
const (
	// ClassTransaction is for callers that hold a transaction open. They wait
	// only for what needs no commit, and for nobody who may wait for one.
	ClassTransaction Class = iota
	// ClassCleaner is for work that makes room: eviction of deleted inodes,
	// removal of block groups. Outside a transaction; may draw on the global
	// reserve when all else has failed.
	ClassCleaner
	// ClassNormal is for everybody else, outside a transaction.
	ClassNormal
	// ClassSteal is ClassNormal for operations that free space in the end
	// (unlink, truncate): may draw on the global reserve at the last.
	ClassSteal
	// ClassExtent is for extent searches that found no hole: they hold their
	// bytes already and wait only for growth.
	ClassExtent
	// ClassNoWait gets its bytes at once or not at all.
	ClassNoWait
	// ClassEmergency gets its bytes at once if they exist, even if they were
	// promised to others. For a commit that would otherwise abort.
	ClassEmergency
)

// queue is the queue in which a class waits.
func (c Class) queue() int {
	switch c {
	case ClassTransaction:
		return queueTransaction
	case ClassCleaner:
		return queueCleaner
	case ClassExtent:
		return queueExtent
	}
	return queueNormal
}

const (
	queueTransaction = iota
	queueCleaner
	queueNormal
	queueExtent
	numQueues
)

// StageSet is a set of reclaim stages, by their position in the order in which
// they are tried. Bit 0 is the first.
type StageSet uint8

// TicketID names a waiting request within one Protocol.
type TicketID uint64

// Ticket is a request that waits. Values, so that a Protocol can be copied.
type Ticket struct {
	ID    TicketID
	Class Class
	Bytes Bytes // granted whole or not at all; 0 for ClassExtent
	Piece Bytes // contiguous bytes that a new chunk must have
	Seen  Gen   // ClassExtent: the generation in which the search failed

	todo    StageSet // stages that must still run before ENOSPC is honest
	running StageSet // stages that run now and began after this was queued
	rounds  uint8    // how often todo may be filled again after progress
	since   uint64   // Protocol.progress when todo was filled
	noGrow  bool     // growth failed for another reason than space: see cause
	cause   error    // what to report instead of "no space"
}

// Lane is a kind of activity. At most one activity per lane is in flight.
type Lane uint8

// Lanes. What is in the prompt lane never waits for a transaction to end, so
// that those who hold one open may wait for it; the patient lane may wait for
// transactions, so nobody inside one waits for it.
const (
	LanePrompt Lane = iota
	LanePatient
	numLanes
)

// GrowSpec is what a flight is to bring.
type GrowSpec struct {
	Class Class // of the ticket that asks
	Need  Bytes // bytes by which it does not fit
	Unmet Bytes // bytes by which all tickets together do not fit
	Piece Bytes // contiguous bytes that the chunk must have
	Retry int   // how many attempts of this flight failed transiently
}

// GrowOutcome is how a flight ended.
type GrowOutcome uint8

// Outcomes of a flight.
const (
	GrowMade      GrowOutcome = iota // one chunk; the ledger knows it already
	GrowNoSpace                      // the devices cannot give what Spec asks
	GrowTransient                    // may work next time
	GrowBroken                       // will not work next time either, but the filesystem is whole
	GrowAborted                      // Abort was or will be called; nothing follows from this flight
)

// GrowResult is the outcome with what was learnt.
type GrowResult struct {
	Outcome GrowOutcome
	Err     error // Transient and Broken: reported to those whom nothing else helps
	Epoch   Epoch // the epoch of what was looked at
	Limit   Bytes // NoSpace: bytes that growth could still bring in all
	Piece   Bytes // NoSpace: contiguous bytes that it could bring
}

// ActionKind is what the shell must do.
type ActionKind uint8

// Kinds of Action.
const (
	ActionGrant      ActionKind = iota // tell the ticket's owner that it is served
	ActionFail                         // tell the ticket's owner Err; nil stands for "no space"
	ActionStartGrow                    // make one chunk, then call GrowDone
	ActionStartStage                   // run reclaim stage Stage, then call StageDone
)

// Action is an order from the Protocol to its shell.
type Action struct {
	Kind   ActionKind
	Ticket TicketID
	Bytes  Bytes // Grant: what was charged
	Err    error
	Grow   GrowSpec
	Stage  int
	Lane   Lane
}

// Ledger is the account that tickets are granted from.
type Ledger interface {
	// Take charges n if class c may have it now.
	Take(n Bytes, c Class) bool
	// Short is by how much n exceeds what class c may have, 0 if it fits.
	Short(n Bytes, c Class) Bytes
	// Steal moves n from the global reserve to the caller if the reserve
	// keeps what it must keep.
	Steal(n Bytes) bool
}

// StageRule describes one reclaim stage of a space info.
type StageRule struct {
	Lane Lane
}

// ProtocolConfig is the immutable part of a Protocol.
type ProtocolConfig struct {
	Stages   []StageRule // in the order in which they are tried; at most 8
	GrowLast StageSet    // stages to run before growth is tried
	Attempts int         // flights in a row that may fail transiently, at least 1
	Rounds   uint8       // how often a ticket may run the stages again after progress
	NoGrow   bool        // the info never grows by request (SYSTEM)
}

// Protocol is the waiting and growing of one space info as a pure state
// machine: events in, actions out, no locks, no goroutines, no time. The
// shell (Info) runs it under Info.mu; the explorer in internal/lab runs the
// same code through every interleaving.
//
//	           Request                                 GrowDone(made): gen++
//	caller ───────────────> queued ──────────────────────────┐
//	   ^                      │  fits the ledger, in order,  │
//	   │        granted       │  or gen > Seen (extents)     v
//	   ├──────────────────────┴──────────────────────── grantAll
//	   │                                                     │ head does not fit
//	   │                              ┌──────────────────────┤
//	   │                   growth can │                      │ stages to do
//	   │                   help       v                      v
//	   │                     prompt lane: grow        prompt / patient lane: stage
//	   │                       made │ no space: full(epoch)  │ done: tick off for
//	   │                            │ transient: again, a    │ every ticket that was
//	   │                            v bounded number of times v queued before it began
//	   │                         grantAll                 grantAll
//	   │   nothing left to try
//	   └───────────────────── fail: "no space", or the true cause
//
// Nobody passes "force". A lane is busy from the Start action to the Done
// event; the shell sends Done on every path, panics included. "Full" is not a
// flag: it is the epoch in which growth found nothing, and what it found, so
// there is nothing to clear. The zero Gen is "nothing seen yet".
type Protocol struct {
	cfg      *ProtocolConfig
	queues   [numQueues][]Ticket
	gen      Gen
	epoch    Epoch
	full     fullMark
	busy     [numLanes]bool
	stage    [numLanes]int // -1 for growth; valid while busy
	spec     GrowSpec      // of the flight in the prompt lane
	attempts int           // transient failures in a row
	progress uint64        // how often space was freed
	aborted  error
}

// fullMark is what the last flight without a chunk learnt.
type fullMark struct {
	epoch Epoch
	valid bool
	limit Bytes
	piece Bytes
}

// merge is what is known after learning n. Within an epoch room only shrinks,
// so the lower number holds; that also bounds the number of flights in vain.
func (m fullMark) merge(n fullMark) fullMark {
	if m.valid && m.epoch == n.epoch {
		n.limit, n.piece = min(n.limit, m.limit), min(n.piece, m.piece)
	}
	return n
}

// NewProtocol makes the idle state at generation 1, epoch 1.
func NewProtocol(cfg *ProtocolConfig) Protocol {
	return Protocol{cfg: cfg, gen: 1, epoch: 1}
}

// Gen is the current generation.
func (p *Protocol) Gen() Gen { return p.gen }

// Waiting says whether tickets for bytes are queued, in which case a newcomer
// of a class outside transactions must not overtake them.
func (p *Protocol) Waiting() bool {
	return len(p.queues[queueTransaction])+len(p.queues[queueCleaner])+len(p.queues[queueNormal]) > 0
}

// Queued is the number of waiting tickets.
func (p *Protocol) Queued() int {
	n := 0
	for _, q := range p.queues {
		n += len(q)
	}
	return n
}

// Growing says whether a flight is under way (I3).
func (p *Protocol) Growing() bool { return p.busy[LanePrompt] && p.stage[LanePrompt] < 0 }

// Busy says whether the lane is.
func (p *Protocol) Busy(l Lane) bool { return p.busy[l] }

// Unmet is the number of bytes in the queues.
func (p *Protocol) Unmet() Bytes {
	n := Bytes(0)
	for _, q := range p.queues {
		for i := range q {
			n += q[i].Bytes
		}
	}
	return n
}

// Request brings a new ticket. It is granted or failed at once, or queued.
func (p *Protocol) Request(l Ledger, t Ticket, out []Action) []Action {
	if p.aborted != nil {
		return append(out, Action{Kind: ActionFail, Ticket: t.ID, Err: p.aborted})
	}
	t.todo, t.rounds, t.since = p.stages(t.Class), p.cfg.Rounds, p.progress
	q := t.Class.queue()
	p.queues[q] = append(p.queues[q], t)
	return p.pump(l, out)
}

// Cancel takes a ticket out of its queue; false if it is not there, that is,
// already granted or failed. What is in flight goes on.
func (p *Protocol) Cancel(l Ledger, id TicketID, out []Action) (bool, []Action) {
	for q := range p.queues {
		if i := slices.IndexFunc(p.queues[q], func(t Ticket) bool { return t.ID == id }); i >= 0 {
			p.remove(q, i)
			return true, p.pump(l, out) // it may have stood in somebody's way
		}
	}
	return false, out
}

// Freed says that the ledger may have more to give than before.
func (p *Protocol) Freed(l Ledger, out []Action) []Action {
	p.progress++
	return p.pump(l, out)
}

// HolesAppeared says that extent searches may now find what they missed.
func (p *Protocol) HolesAppeared(l Ledger, out []Action) []Action {
	p.gen++
	return p.Freed(l, out)
}

// EpochIs says in which epoch the devices are now.
func (p *Protocol) EpochIs(l Ledger, e Epoch, out []Action) []Action {
	p.epoch = max(p.epoch, e) // two announcements may arrive out of order
	return p.pump(l, out)
}

// GrowDone ends the flight.
func (p *Protocol) GrowDone(l Ledger, r GrowResult, out []Action) []Action {
	p.busy[LanePrompt] = false
	p.epoch = max(p.epoch, r.Epoch)
	if p.aborted != nil {
		return out
	}
	switch r.Outcome {
	case GrowMade:
		p.attempts = 0
		p.gen++
		p.progress++
	case GrowNoSpace:
		p.attempts = 0
		p.full = p.full.merge(fullMark{r.Epoch, true, r.Limit, r.Piece})
		if p.full.limit >= p.spec.Need && p.full.piece >= p.spec.Piece {
			// It claims to have what it did not bring: do not ask again.
			p.full.limit, p.full.piece = 0, 0
		}
	case GrowTransient:
		if p.attempts++; p.attempts < p.cfg.Attempts {
			break // pump starts the next attempt if anybody still needs it
		}
		p.attempts = 0
		p.growthFailed(r.Err)
	case GrowBroken:
		p.attempts = 0
		p.growthFailed(r.Err)
	case GrowAborted:
	}
	return p.pump(l, out)
}

// StageDone ends the stage that ran in the lane. A non-nil err is what broke
// it; those whom nothing else helps will see it.
func (p *Protocol) StageDone(l Ledger, lane Lane, err error, out []Action) []Action {
	bit := StageSet(1) << p.stage[lane]
	p.busy[lane] = false
	if p.aborted != nil {
		return out
	}
	for q := range p.queues {
		for i := range p.queues[q] {
			t := &p.queues[q][i]
			if t.running&bit == 0 {
				continue
			}
			t.running &^= bit
			t.todo &^= bit
			if err != nil && t.cause == nil {
				t.cause = err
			}
		}
	}
	return p.pump(l, out)
}

// Abort fails every ticket, once, and every later one.
func (p *Protocol) Abort(err error, out []Action) []Action {
	if p.aborted != nil {
		return out
	}
	p.aborted = err
	for q := range p.queues {
		for _, t := range p.queues[q] {
			out = append(out, Action{Kind: ActionFail, Ticket: t.ID, Err: err})
		}
		p.queues[q] = nil
	}
	return out
}

// stages is what must have run before a class hears "no space".
func (p *Protocol) stages(c Class) StageSet {
	var s StageSet
	if c == ClassExtent {
		return 0
	}
	for i, r := range p.cfg.Stages {
		if r.Lane == LanePrompt || c != ClassTransaction {
			s |= 1 << i
		}
	}
	return s
}

// growthFailed tells everybody queued now that growth will not come, and why.
func (p *Protocol) growthFailed(err error) {
	for q := range p.queues {
		for i := range p.queues[q] {
			t := &p.queues[q][i]
			t.noGrow = true
			if t.cause == nil {
				t.cause = err
			}
		}
	}
}

// remove takes ticket i out of queue q. A fresh slice is used when the queue
// empties, so that a burst does not pin its memory.
func (p *Protocol) remove(q, i int) {
	p.queues[q] = slices.Delete(p.queues[q], i, i+1)
	if len(p.queues[q]) == 0 {
		p.queues[q] = nil
	}
}

// pump does all that the present state allows: grants in order, failures of
// those for whom nothing is left, then new activities.
func (p *Protocol) pump(l Ledger, out []Action) []Action {
	if p.aborted != nil {
		return out
	}
	for {
		out = p.grantAll(l, out)
		var again bool
		if out, again = p.failHopeless(l, out); !again {
			break
		}
	}
	out = p.startPrompt(l, out)
	return p.startPatient(l, out)
}

// grantAll serves queues in order of class, each first-in-first-out (I11). The
// first ticket that does not fit stops its queue and the later ones; extents
// need no bytes and wait for nobody.
func (p *Protocol) grantAll(l Ledger, out []Action) []Action {
	for q := queueTransaction; q <= queueNormal; q++ {
		for len(p.queues[q]) > 0 {
			t := p.queues[q][0]
			if !l.Take(t.Bytes, t.Class) {
				break
			}
			p.remove(q, 0)
			out = append(out, Action{Kind: ActionGrant, Ticket: t.ID, Bytes: t.Bytes})
		}
		if len(p.queues[q]) > 0 {
			break
		}
	}
	for i := 0; i < len(p.queues[queueExtent]); {
		t := p.queues[queueExtent][i]
		if t.Seen >= p.gen {
			i++
			continue
		}
		p.remove(queueExtent, i)
		out = append(out, Action{Kind: ActionGrant, Ticket: t.ID})
	}
	return out
}

// front is the ticket that everybody behind it waits for: the head of the
// first queue that is not empty.
func (p *Protocol) front() *Ticket {
	for q := queueTransaction; q <= queueNormal; q++ {
		if len(p.queues[q]) > 0 {
			return &p.queues[q][0]
		}
	}
	return nil
}

// canGrow says whether a new chunk might help the ticket: growth has not
// failed in this epoch for as little as this ticket lacks.
func (p *Protocol) canGrow(l Ledger, t *Ticket) bool {
	if p.cfg.NoGrow || t.noGrow {
		return false
	}
	if !p.full.valid || p.full.epoch != p.epoch {
		return true
	}
	return l.Short(t.Bytes, t.Class) <= p.full.limit && max(t.Piece, 1) <= p.full.piece
}

// failHopeless fails tickets for which nothing is left to try: growth has
// failed in this epoch, every stage of their class has run since they were
// queued, and nothing is in flight that they may wait for (I5). again says
// that a byte ticket left the line, so that those behind it may now fit.
func (p *Protocol) failHopeless(l Ledger, out []Action) (_ []Action, again bool) {
	if p.busy[LanePrompt] {
		return out, false
	}
	for i := 0; i < len(p.queues[queueExtent]); {
		t := &p.queues[queueExtent][i]
		if p.canGrow(l, t) {
			i++
			continue
		}
		out = append(out, Action{Kind: ActionFail, Ticket: t.ID, Err: t.cause})
		p.remove(queueExtent, i)
	}
	t := p.front()
	if t == nil || t.todo != 0 || p.canGrow(l, t) {
		return out, false
	}
	if t.Class != ClassTransaction && p.busy[LanePatient] {
		return out, false
	}
	if t.since != p.progress && t.rounds > 0 {
		t.todo, t.since = p.stages(t.Class), p.progress
		t.rounds--
		if t.todo != 0 {
			return out, false
		}
	}
	a := Action{Kind: ActionFail, Ticket: t.ID, Err: t.cause}
	if (t.Class == ClassCleaner || t.Class == ClassSteal) && l.Steal(t.Bytes) {
		a = Action{Kind: ActionGrant, Ticket: t.ID, Bytes: t.Bytes}
	}
	p.remove(t.Class.queue(), 0)
	return append(out, a), true
}

// startPrompt puts the next activity into the prompt lane: growth for an
// extent search, else what the front ticket needs next.
func (p *Protocol) startPrompt(l Ledger, out []Action) []Action {
	if p.busy[LanePrompt] {
		return out
	}
	for i := range p.queues[queueExtent] {
		if t := &p.queues[queueExtent][i]; p.canGrow(l, t) {
			return p.startGrow(l, t, out)
		}
	}
	t := p.front()
	if t != nil && t.todo&p.cfg.GrowLast == 0 && p.canGrow(l, t) {
		return p.startGrow(l, t, out)
	}
	p.attempts = 0 // nobody needs this flight any more
	if t == nil {
		return out
	}
	return p.startStage(LanePrompt, t, out)
}

func (p *Protocol) startGrow(l Ledger, t *Ticket, out []Action) []Action {
	p.spec = GrowSpec{Class: t.Class, Need: l.Short(t.Bytes, t.Class), Piece: max(t.Piece, 1), Retry: p.attempts}
	p.spec.Unmet = l.Short(p.Unmet(), t.Class)
	p.busy[LanePrompt], p.stage[LanePrompt] = true, -1
	return append(out, Action{Kind: ActionStartGrow, Grow: p.spec, Lane: LanePrompt})
}

// startPatient starts what the first ticket outside a transaction needs next,
// if that is a patient stage.
func (p *Protocol) startPatient(l Ledger, out []Action) []Action {
	if p.busy[LanePatient] {
		return out
	}
	for q := queueCleaner; q <= queueNormal; q++ {
		if len(p.queues[q]) > 0 {
			t := &p.queues[q][0]
			if t.todo&p.cfg.GrowLast == 0 && p.canGrow(l, t) {
				return out
			}
			return p.startStage(LanePatient, t, out)
		}
	}
	return out
}

// startStage starts the ticket's next stage if it belongs to the lane.
func (p *Protocol) startStage(lane Lane, t *Ticket, out []Action) []Action {
	for i, r := range p.cfg.Stages {
		bit := StageSet(1) << i
		if t.todo&bit == 0 {
			continue
		}
		if r.Lane != lane || t.running&bit != 0 {
			return out
		}
		p.busy[lane], p.stage[lane] = true, i
		for q := range p.queues {
			for k := range p.queues[q] {
				p.queues[q][k].running |= bit
			}
		}
		return append(out, Action{Kind: ActionStartStage, Stage: i, Lane: lane})
	}
	return out
}

// Clone copies the state; the configuration is shared.
func (p *Protocol) Clone() Protocol {
	c := *p
	for q := range c.queues {
		c.queues[q] = slices.Clone(p.queues[q])
	}
	return c
}

// AppendState appends what the future depends on, and nothing else: counters
// that only matter by comparison (Gen, Epoch, progress) appear as comparisons.
// Two states with equal bytes behave alike for ever; the explorer's state space
// is finite because of that. Of Seen nothing appears: a queued extent search has
// seen the current generation, else it would have been served. A cause shows as
// its presence.
func (p *Protocol) AppendState(b []byte) []byte {
	flag := func(on bool) {
		if on {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	flag(p.aborted != nil)
	for lane := range p.busy {
		flag(p.busy[lane])
		if p.busy[lane] {
			b = append(b, byte(p.stage[lane]+1))
		}
	}
	b = append(b, byte(p.attempts))
	if full := p.full.valid && p.full.epoch == p.epoch; full {
		b = appendBytes(appendBytes(append(b, 1), p.full.limit), p.full.piece)
	} else {
		b = append(b, 0)
	}
	if p.Growing() {
		b = appendBytes(appendBytes(b, p.spec.Need), p.spec.Piece)
	}
	for q := range p.queues {
		b = append(b, byte(len(p.queues[q])))
		for i := range p.queues[q] {
			t := &p.queues[q][i]
			b = append(b, byte(t.ID), byte(t.Class), byte(t.todo), byte(t.running), t.rounds)
			flag(t.since != p.progress)
			flag(t.noGrow)
			flag(t.cause != nil)
		}
	}
	return b
}

func appendBytes(b []byte, n Bytes) []byte {
	return append(b, byte(n), byte(n>>8), byte(n>>16), byte(n>>24), byte(n>>32), byte(n>>40), byte(n>>48), byte(n>>56))
}
