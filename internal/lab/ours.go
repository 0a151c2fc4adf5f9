package lab

import (
	"errors"
	"fmt"
	"slices"

	"gobtrfs/internal/space"
)

var (
	errNoMemory  = errors.New("out of memory")
	errAborted   = errors.New("aborted")
	oursAttempts = 2 // retries of a flight; the real number only makes the graph longer
)

// Where a caller of ours stands.
//
//	search ──fits──> done          (extent: remembers the generation before it looks)
//	  │ does not fit
//	  v
//	ask ──> asleep ──granted──> search again (extent), done (bytes)
//	           └────failed or cancelled──> done
const (
	oursSearch = iota
	oursAsk
	oursAsleep
	oursWoken
	oursDone
)

type oursCaller struct {
	at      uint8
	seen    space.Gen
	result  Result
	charged bool // its bytes are promised
}

// ours is space.Protocol with a ledger of one number, and the same shell of
// steps around it that internal/space has of goroutines.
type ours struct {
	w       *Workload
	cfg     *space.ProtocolConfig
	stages  []stageModel
	proto   space.Protocol
	callers []oursCaller
	// flights in progress, by lane; spec and stage of each
	flying  bool
	spec    space.GrowSpec
	staging [2]int8 // stage in flight by lane, -1 none
	free    int64   // bytes in chunks that are not promised
	given   int64   // bytes that were ever put into free from outside

	attempts, made       int
	hardFault, softFault bool
	aborted              bool
	cancelled            []bool
	flaw                 Violation // found inside an action
}

// stageModel is a reclaim stage of the modelled filesystem.
type stageModel struct {
	lane space.Lane
	// waitsForTransactions: it cannot end while a Transaction caller runs.
	waitsForTransactions bool
	frees                int64 // bytes that its first run makes available
}

func startOurs(w *Workload) model { return newOurs(w, nil, 0) }

func newOurs(w *Workload, stages []stageModel, before space.StageSet) *ours {
	cfg := &space.ProtocolConfig{Attempts: oursAttempts, Rounds: 1, GrowLast: before}
	for _, s := range stages {
		cfg.Stages = append(cfg.Stages, space.StageRule{Lane: s.lane})
	}
	return &ours{
		w: w, cfg: cfg, stages: slices.Clone(stages), proto: space.NewProtocol(cfg), staging: [2]int8{-1, -1},
		callers: make([]oursCaller, len(w.Callers)), cancelled: make([]bool, len(w.Callers)),
	}
}

// Take implements space.Ledger.
func (m *ours) Take(n space.Bytes, _ space.Class) bool {
	if m.free < int64(n) {
		return false
	}
	m.free -= int64(n)
	return true
}

// Short implements space.Ledger.
func (m *ours) Short(n space.Bytes, _ space.Class) space.Bytes {
	return max(0, n-space.Bytes(m.free))
}

// Steal implements space.Ledger.
func (m *ours) Steal(space.Bytes) bool { return false }

func (m *ours) clone() model {
	c := *m
	c.proto = m.proto.Clone()
	c.callers = slices.Clone(m.callers)
	c.cancelled = slices.Clone(m.cancelled)
	c.stages = slices.Clone(m.stages)
	return &c
}

func (m *ours) key(b []byte) []byte {
	b = m.proto.AppendState(b)
	b = fmt.Appendf(b, "|%d,%d,%d,%v,%v,%v,%v,%d;", m.free, min(m.attempts, m.lastFault()), m.made, m.hardFault, m.softFault, m.aborted, m.flying, m.staging)
	for i := range m.callers {
		c := &m.callers[i]
		b = append(b, c.at, byte(c.result))
		for _, on := range []bool{c.seen < m.proto.Gen(), c.charged, m.cancelled[i]} {
			b = append(b, map[bool]byte{false: 0, true: 1}[on])
		}
	}
	for _, s := range m.stages {
		b = fmt.Appendf(b, "%d,", s.frees)
	}
	return b
}

// lastFault: attempts behind the script are all alike.
func (m *ours) lastFault() int {
	last := 0
	for n := range m.w.Faults.Attempts {
		last = max(last, n)
	}
	return last
}

func (m *ours) results() []Result {
	rs := make([]Result, len(m.callers))
	for i := range m.callers {
		rs[i] = m.callers[i].result
	}
	return rs
}

func (m *ours) chunksMade() int { return m.made }

// steps: callers, then cancellations, then the flight, then the lanes' stages.
func (m *ours) steps(out []int) []int {
	n := len(m.callers)
	for i := range m.callers {
		if at := m.callers[i].at; at != oursAsleep && at != oursDone {
			out = append(out, i)
		}
	}
	for _, k := range m.w.Faults.Cancel {
		if m.callers[k-1].at == oursAsleep && !m.cancelled[k-1] {
			out = append(out, n+k-1)
		}
	}
	if m.flying {
		out = append(out, 2*n)
	}
	for lane, s := range m.staging {
		if s >= 0 && !(m.stages[s].waitsForTransactions && m.transactionOpen()) {
			out = append(out, 2*n+1+lane)
		}
	}
	return out
}

// transactionOpen: somebody holds a transaction, which a commit waits for.
func (m *ours) transactionOpen() bool {
	for i, k := range m.w.Callers {
		if k == Transaction && m.callers[i].at != oursDone && m.callers[i].at != oursSearch {
			return true
		}
	}
	return false
}

func (m *ours) cost(step int) (int, int64) {
	n := len(m.callers)
	switch {
	case step < n:
		return step, costStep
	case step < 2*n:
		return step - n, costCancel
	}
	return step - n, costMake // the flight's and the stages' own time
}

func (m *ours) do(step int) (string, []Violation) {
	n := len(m.callers)
	m.flaw = ""
	var what string
	switch {
	case step < n:
		what = m.caller(step)
	case step < 2*n:
		what = m.cancel(step - n)
	case step == 2*n:
		what = m.land()
	default:
		what = m.stageDone(space.Lane(step - 2*n - 1))
	}
	var broke []Violation
	if m.flaw != "" {
		broke = append(broke, m.flaw)
	}
	return what, append(broke, m.check()...)
}

func (m *ours) caller(i int) string {
	c := &m.callers[i]
	n := m.w.bytes(i)
	who := fmt.Sprintf("caller %d ", i+1)
	switch c.at {
	case oursSearch:
		if m.w.Callers[i] != Extent {
			c.at = oursAsk
			return who + "reserves: its ticket is on the way"
		}
		c.seen = m.proto.Gen()
		if m.Take(space.Bytes(n), space.ClassExtent) {
			m.finish(i, Served)
			return who + fmt.Sprintf("finds a hole of %d and is done", n)
		}
		c.at = oursAsk
		return who + fmt.Sprintf("finds no hole of %d", n)
	case oursAsk:
		t := space.Ticket{ID: space.TicketID(i + 1), Class: space.ClassNormal, Bytes: space.Bytes(n)}
		switch m.w.Callers[i] {
		case Extent:
			t.Class, t.Bytes, t.Piece, t.Seen = space.ClassExtent, 0, space.Bytes(n), c.seen
		case Transaction:
			t.Class = space.ClassTransaction
		}
		c.at = oursAsleep
		return who + "asks" + m.perform(m.proto.Request(m, t, nil))
	default: // woken: an extent search looks again
		c.at = oursSearch
		return who + "wakes up"
	}
}

func (m *ours) finish(i int, r Result) {
	c := &m.callers[i]
	if c.at == oursDone {
		m.flaw = Account
	}
	c.at, c.result = oursDone, r
	c.seen = 0
}

func (m *ours) cancel(i int) string {
	m.cancelled[i] = true
	ok, out := m.proto.Cancel(m, space.TicketID(i+1), nil)
	if ok {
		m.finish(i, GotCancelled)
	}
	return fmt.Sprintf("caller %d is cancelled", i+1) + m.perform(out)
}

// land ends the flight as the script says.
func (m *ours) land() string {
	m.flying = false
	m.attempts++
	r := space.GrowResult{Epoch: 1}
	f := m.w.Faults.Attempts[m.attempts]
	left := int64(m.w.Room-m.made) * m.w.Chunk
	what := ""
	switch {
	case f == Panic:
		m.aborted = true
		what = "the flight dies; everybody is told" + m.perform(m.proto.Abort(errAborted, nil))
		r.Outcome = space.GrowAborted
	case f == ENOMEM:
		m.softFault = true
		what, r.Outcome, r.Err = "the flight fails for want of memory", space.GrowTransient, errNoMemory
	case f == ENOSPC:
		m.hardFault = true
		what, r.Outcome = "the flight finds no room", space.GrowNoSpace
	case left == 0 || int64(m.spec.Need) > left:
		what, r.Outcome, r.Limit, r.Piece = "the flight finds no room", space.GrowNoSpace, space.Bytes(left), space.Bytes(min(left, m.w.Chunk))
	default:
		m.made++
		m.free, m.given = m.free+m.w.Chunk, m.given+m.w.Chunk
		what, r.Outcome = "the flight makes a chunk", space.GrowMade
	}
	return what + m.perform(m.proto.GrowDone(m, r, nil))
}

func (m *ours) stageDone(lane space.Lane) string {
	s := m.staging[lane]
	m.staging[lane] = -1
	what := fmt.Sprintf("stage %d ends", s+1)
	if n := m.stages[s].frees; n > 0 {
		m.stages[s].frees = 0
		m.free, m.given = m.free+n, m.given+n
		what += m.perform(m.proto.HolesAppeared(m, nil)) // as CommitDone does
	}
	return what + m.perform(m.proto.StageDone(m, lane, nil, nil))
}

// perform does what the shell does, and says it.
func (m *ours) perform(actions []space.Action) string {
	what := ""
	for _, a := range actions {
		i := int(a.Ticket) - 1
		switch a.Kind {
		case space.ActionGrant:
			what += fmt.Sprintf("; caller %d is served", a.Ticket)
			m.grant(i)
		case space.ActionFail:
			what += fmt.Sprintf("; caller %d fails", a.Ticket)
			m.fail(i, a.Err)
		case space.ActionStartGrow:
			if m.flying {
				m.flaw = TwoGrow
			}
			m.flying, m.spec = true, a.Grow
			what += "; a flight starts"
		case space.ActionStartStage:
			if m.staging[a.Lane] >= 0 {
				m.flaw = TwoGrow
			}
			m.staging[a.Lane] = int8(a.Stage)
			what += fmt.Sprintf("; stage %d starts", a.Stage+1)
		}
	}
	return what
}

func (m *ours) grant(i int) {
	c := &m.callers[i]
	if c.at != oursAsleep {
		m.flaw = Account
		return
	}
	if m.w.Callers[i] == Extent {
		if c.seen >= m.proto.Gen() {
			m.flaw = Lost
		}
		c.at = oursWoken
		return
	}
	c.charged = true
	m.finish(i, Served)
}

func (m *ours) fail(i int, err error) {
	if m.callers[i].at != oursAsleep {
		m.flaw = Account
		return
	}
	switch {
	case errors.Is(err, errAborted):
		m.finish(i, GotAborted)
		if !m.aborted {
			m.flaw = WrongErr
		}
	case errors.Is(err, errNoMemory):
		m.finish(i, GotENOMEM)
		if !m.softFault {
			m.flaw = WrongErr
		}
	case err == nil:
		m.finish(i, GotENOSPC)
		n := m.w.bytes(i)
		left := int64(m.w.Room-m.made) * m.w.Chunk
		if m.free >= n || !m.hardFault && left+m.free >= n {
			m.flaw = WrongFull
		}
		for _, s := range m.stages {
			legal := m.w.Callers[i] != Extent && (s.lane == space.LanePrompt || m.w.Callers[i] != Transaction)
			if legal && s.frees > 0 {
				m.flaw = WrongFull // what it would have freed was not tried
			}
		}
	default:
		m.flaw = WrongErr
	}
}

// check is what must hold in every state.
func (m *ours) check() []Violation {
	var broke []Violation
	if m.made > m.w.Needed() {
		broke = append(broke, Herd)
	}
	if m.flying != m.proto.Growing() {
		broke = append(broke, TwoGrow)
	}
	promised := int64(0)
	for i := range m.callers {
		c := &m.callers[i]
		if c.result == Served {
			promised += m.w.bytes(i)
		}
		if c.charged != (c.result == Served && m.w.Callers[i] != Extent) {
			broke = append(broke, Account)
		}
	}
	if m.free < 0 || m.free+promised != m.given {
		broke = append(broke, Account)
	}
	return broke
}

func (m *ours) final() []Violation {
	if m.flying || m.proto.Growing() || m.proto.Queued() > 0 {
		return []Violation{TwoGrow}
	}
	return nil
}
