package lab

import (
	"fmt"
	"slices"
)

// variant is what distinguishes the policies of the Linux family.
type variant struct {
	leaksFlag   bool // a transient failure leaves "allocating" set (2013, before the fix)
	clearCopied bool // (a) the shared force is cleared when it is copied
	resetForce  bool // (b) the local force is reset to the incoming one each turn
	handForce   bool // (c) the local force goes into the shared flag and is taken when elected
	dropForce   bool // 6.0: the local force is dropped after a wait
}

func linuxPolicies() []Policy {
	mk := func(name, title string, v variant, predict ...Violation) Policy {
		return Policy{Name: name, Title: title, Predict: predict, start: func(w *Workload) model { return startLinux(w, v) }}
	}
	return []Policy{
		mk("2013-before", "Linux 2013, before the fix", variant{leaksFlag: true}, Stuck, Herd),
		mk("2013-after", "Linux 2013, after the fix", variant{}, Herd),
		mk("a", "(a) clear the flag when copied", variant{clearCopied: true}, Herd, Lost),
		mk("b", "(b) reset the local force each turn", variant{resetForce: true}, Herd),
		mk("c", "(c) hand the force over, take it when elected", variant{handForce: true}, Lost),
		mk("6.0", "Linux 6.0: drop the local force after a wait", variant{dropForce: true}, Lost),
	}
}

// Where a caller of the Linux family stands. The letters are those of the
// trace; each arrow is one atomic step.
//
//	search ──fits──> done
//	  │ does not fit
//	  v
//	decide <──────────────────────┐   (under the space_info's spinlock)
//	  │ elected   │ somebody allocates
//	  v           v               │
//	lock        wait (mutex) ─────┘
//	  v
//	make ──> publish (spinlock) ──> unlock ──> search again, or return the error
const (
	atSearch = iota
	atDecide
	atWait
	atLock
	atMake
	atPublish
	atDone
)

type linuxCaller struct {
	at      uint8
	force   bool  // local force level
	came    bool  // force level it came with
	asked   bool  // has called chunk_alloc before
	first   bool  // the next decide is the first turn of this call
	made    uint8 // outcome of its attempt: a Fault
	madeOne bool  // a chunk was made since it called
	result  Result
}

// linuxFamily is a space_info and its callers.
type linuxFamily struct {
	w *Workload
	variant
	callers                []linuxCaller
	holder                 int8 // who holds the chunk mutex, -1 nobody
	flag, force, full      bool // allocating; shared force; full
	attempts, made, making int
	free                   int64 // bytes in chunks that nobody has
	promised               int64 // reserved, which the fill threshold does not see
	cancelled              []bool
	// what cannot be seen in a single state
	hardFault bool // an attempt was told "no space" by the script
	softFault bool
	died      bool
}

func startLinux(w *Workload, v variant) model {
	m := &linuxFamily{w: w, variant: v, holder: -1, callers: make([]linuxCaller, len(w.Callers)), cancelled: make([]bool, len(w.Callers))}
	return m
}

func (m *linuxFamily) clone() model {
	c := *m
	c.callers = slices.Clone(m.callers)
	c.cancelled = slices.Clone(m.cancelled)
	return &c
}

func (m *linuxFamily) key(b []byte) []byte {
	flag := func(bs ...bool) {
		for _, on := range bs {
			b = append(b, '0')
			if on {
				b[len(b)-1] = '1'
			}
		}
	}
	flag(m.flag, m.force, m.full, m.hardFault, m.softFault, m.died)
	b = append(b, byte(m.holder), byte(m.attempts), byte(m.made), byte(m.making))
	b = fmt.Appendf(b, "%d,%d;", m.free, m.promised)
	for i := range m.callers {
		c := &m.callers[i]
		b = append(b, c.at, c.made, byte(c.result))
		flag(c.force, c.came, c.asked, c.first, c.madeOne, m.cancelled[i])
	}
	return b
}

func (m *linuxFamily) results() []Result {
	rs := make([]Result, len(m.callers))
	for i := range m.callers {
		rs[i] = m.callers[i].result
	}
	return rs
}

func (m *linuxFamily) chunksMade() int { return m.made }

// steps: caller i takes its next step (number i), or gives up (number i +
// callers), which Linux allows only between two calls.
func (m *linuxFamily) steps(out []int) []int {
	for i := range m.callers {
		switch m.callers[i].at {
		case atDone:
			continue
		case atWait, atLock:
			if m.holder >= 0 {
				continue
			}
		}
		out = append(out, i)
	}
	for _, n := range m.w.Faults.Cancel {
		if c := &m.callers[n-1]; c.at == atSearch && !m.cancelled[n-1] {
			out = append(out, n-1+len(m.callers))
		}
	}
	return out
}

func (m *linuxFamily) cost(step int) (int, int64) {
	if step >= len(m.callers) {
		return step - len(m.callers), costCancel
	}
	if m.callers[step].at == atMake {
		return step, costMake
	}
	return step, costStep
}

func (m *linuxFamily) do(step int) (string, []Violation) {
	if i := step - len(m.callers); i >= 0 {
		m.cancelled[i] = true
		m.finish(i, GotCancelled)
		return fmt.Sprintf("caller %d is cancelled", i+1), nil
	}
	i, c := step, &m.callers[step]
	who := func(format string, args ...any) string {
		return fmt.Sprintf("caller %d ", i+1) + fmt.Sprintf(format, args...)
	}
	switch c.at {
	case atSearch:
		return m.search(i, c, who)
	case atDecide:
		return m.decide(i, c, who)
	case atWait:
		c.at = atDecide
		if m.dropForce {
			c.force = false
		}
		return who("passes through the mutex and looks again"), nil
	case atLock:
		m.holder, c.at = int8(i), atMake
		m.making++
		var broke []Violation
		if m.making > 1 {
			broke = append(broke, TwoGrow)
		}
		return who("takes the mutex"), broke
	case atMake:
		return m.makeChunk(i, c, who)
	default:
		return m.publish(i, c, who)
	}
}

func (m *linuxFamily) finish(i int, r Result) {
	m.callers[i] = linuxCaller{at: atDone, result: r}
}

// search is the extent search, or the reservation's fit test.
func (m *linuxFamily) search(i int, c *linuxCaller, who func(string, ...any) string) (string, []Violation) {
	n := m.w.bytes(i)
	kind := m.w.Callers[i]
	if m.free >= n {
		m.free -= n
		if kind != Extent {
			m.promised += n
		}
		m.finish(i, Served)
		return who("finds %d and is done", n), nil
	}
	// An extent search asks once and then says ENOSPC; a reservation asks
	// until the info is full.
	if c.asked && (kind == Extent || m.full) {
		return m.noSpace(i, n, who)
	}
	c.asked, c.first, c.madeOne = true, true, false
	c.came = kind == Extent
	if kind != Extent {
		m.force = true
	}
	c.force, c.at = c.came, atDecide
	return who("finds no %d bytes and calls for a chunk%s", n, map[bool]string{true: " with FORCE", false: ", having set the shared force"}[c.came]), nil
}

func (m *linuxFamily) noSpace(i int, n int64, who func(string, ...any) string) (string, []Violation) {
	var broke []Violation
	if m.free >= n || m.made < m.w.Room && !m.hardFault {
		broke = append(broke, WrongFull)
	}
	m.finish(i, GotENOSPC)
	return who("gets ENOSPC"), broke
}

// decide is one turn of the loop at the top of the chunk allocator.
func (m *linuxFamily) decide(i int, c *linuxCaller, who func(string, ...any) string) (string, []Violation) {
	switch {
	case m.handForce:
		if c.first && c.came {
			m.force = true
		}
		c.force = m.force
	case m.resetForce:
		c.force = c.came || m.force
	case m.force:
		c.force = true
		if m.clearCopied {
			m.force = false
		}
	}
	c.first = false
	should := c.force || m.overThreshold()
	switch {
	case m.full && should:
		return m.refused(i, c, who)
	case !should:
		c.at = atSearch
		if c.came && !c.madeOne {
			return who("needs no chunk any more, it seems: 0"), []Violation{Lost}
		}
		return who("needs no chunk any more: 0"), nil
	case m.flag:
		c.at = atWait
		return who("sees that somebody allocates, and waits"), nil
	}
	m.flag, c.at = true, atLock
	if m.handForce {
		m.force = false
	}
	return who("is elected"), nil
}

// refused: the chunk allocator said ENOSPC.
func (m *linuxFamily) refused(i int, c *linuxCaller, who func(string, ...any) string) (string, []Violation) {
	c.at = atSearch // one more look, then ENOSPC
	return who("sees that the space is full"), nil
}

// overThreshold: more than 80% of the chunks is in use.
func (m *linuxFamily) overThreshold() bool {
	total := int64(m.w.Used+m.made) * m.w.Chunk
	inUse := total - m.free - m.promised - m.w.Crumbs
	return inUse*5 >= total*4
}

func (m *linuxFamily) makeChunk(i int, c *linuxCaller, who func(string, ...any) string) (string, []Violation) {
	m.attempts++
	f := m.w.Faults.Attempts[m.attempts]
	if f == NoFault && m.made >= m.w.Room {
		f = ENOSPC
	} else if f == ENOSPC {
		m.hardFault = true
	}
	c.made, c.at = uint8(f), atPublish
	switch f {
	case Panic:
		m.died = true
		m.finish(i, Died) // with the mutex held and the flag set
		return who("dies while it makes a chunk"), nil
	case ENOMEM:
		m.softFault = true
		return who("fails for want of memory"), nil
	case ENOSPC:
		return who("finds no room for a chunk"), nil
	}
	return who("has made a chunk"), nil
}

// publish is the end of the allocation, under the spinlock, and the release of
// the mutex.
func (m *linuxFamily) publish(i int, c *linuxCaller, who func(string, ...any) string) (string, []Violation) {
	m.holder = -1
	m.making--
	c.at = atSearch
	switch Fault(c.made) {
	case ENOMEM:
		if !m.leaksFlag {
			m.flag = false
		}
		m.finish(i, GotENOMEM)
		return who("returns ENOMEM%s", map[bool]string{true: ", and the flag stays set"}[m.leaksFlag]), nil
	case ENOSPC:
		m.full, m.force, m.flag = true, false, false
		return who("marks the space full"), nil
	}
	m.made++
	m.free += m.w.Chunk
	m.force, m.flag = false, false
	for k := range m.callers {
		m.callers[k].madeOne = true
	}
	var broke []Violation
	if m.made > m.w.Needed() {
		broke = append(broke, Herd)
	}
	return who("publishes the chunk and returns 1"), broke
}

func (m *linuxFamily) final() []Violation {
	if m.flag || m.making > 0 {
		return []Violation{TwoGrow}
	}
	return nil
}
