package lab

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Virtual time of a step, in nanoseconds.
const (
	costStep   = int64(2 * time.Microsecond)
	costMake   = int64(20 * time.Millisecond) // one attempt to make a chunk
	costCancel = int64(30 * time.Millisecond) // when a caller loses patience
)

// Outcome is how one run of a workload under a policy ended.
type Outcome struct {
	Policy      string         `json:"policy"`
	Callers     int            `json:"callers"`
	Made        int            `json:"chunks_made"`
	Needed      int            `json:"chunks_needed"`
	Unused      int64          `json:"bytes_unused"`
	NeverReturn int            `json:"never_return"`
	WrongErrors int            `json:"wrong_errors"`
	Results     map[string]int `json:"results"`
	LongestWait time.Duration  `json:"longest_wait_ns"`
}

// Simulate runs the workload once. All callers begin within 10 µs; who is first
// is decided by the seed, and nothing else is: the same seed gives the same run.
func Simulate(p Policy, w *Workload, seed uint64) Outcome {
	m := p.start(w)
	rng := rand.New(rand.NewPCG(seed, 2013))
	ready := make([]int64, 2*len(w.Callers)+4) // when each actor can take its next step
	done := make([]int64, len(w.Callers))
	for i := range w.Callers {
		ready[i] = rng.Int64N(10 * int64(time.Microsecond))
	}
	wrong := make(map[int]bool)
	now, idle := int64(0), 0
	var steps []int
	for idle < 8*len(w.Callers)+64 {
		steps = m.steps(steps[:0])
		if len(steps) == 0 {
			break
		}
		step, actor, at := next(m, steps, ready, now, rng)
		now = max(now, at)
		before := slices.Clone(m.results())
		made := m.chunksMade()
		_, broke := m.do(step)
		after := m.results()
		idle++
		if made != m.chunksMade() || !slices.Equal(before, after) {
			idle = 0
		}
		for i := range after {
			if before[i] == Running && after[i] != Running {
				done[i] = now
				wrong[i] = slices.Contains(broke, WrongFull) || slices.Contains(broke, WrongErr)
			}
		}
		ready[actor] = now + 1 + rng.Int64N(costStep)
	}
	return outcome(p, w, m, done, wrong)
}

// next picks the possible step whose actor is ready first. A step's own time
// passes before it is taken, so making a chunk keeps others waiting.
func next(m model, steps []int, ready []int64, now int64, rng *rand.Rand) (step, actor int, at int64) {
	at = int64(1) << 62
	for _, s := range steps {
		a, cost := m.cost(s)
		when := max(ready[a], 0) + cost
		if cost == costMake && ready[a] < now && a >= len(ready)/2 {
			when = now + cost
		}
		if when < at || when == at && rng.IntN(2) == 0 {
			step, actor, at = s, a, when
		}
	}
	return step, actor, at
}

func outcome(p Policy, w *Workload, m model, done []int64, wrong map[int]bool) Outcome {
	o := Outcome{Policy: p.Name, Callers: len(w.Callers), Made: m.chunksMade(), Needed: w.Needed(), Results: make(map[string]int)}
	served := int64(0)
	for i, r := range m.results() {
		o.Results[r.String()]++
		switch r {
		case Running:
			o.NeverReturn++
		case Served:
			served += w.bytes(i)
		}
		if wrong[i] {
			o.WrongErrors++
		}
		o.LongestWait = max(o.LongestWait, time.Duration(done[i]))
	}
	o.Unused = int64(o.Made)*w.Chunk - served
	return o
}
