package lab

import (
	"fmt"
	"slices"
	"strings"
)

// maxStates bounds an exploration; beyond it the result says so.
const maxStates = 20_000_000

// Exploration is what walking every interleaving found.
type Exploration struct {
	Policy   string
	States   int
	Steps    int // transitions between them
	Complete bool
	// Traces has, for each violation, the shortest schedule that leads to it.
	Traces map[Violation][]string
	// Ends counts the final states by their results, for the curious.
	Ends int
}

// Violations are the kinds found, in a fixed order.
func (e *Exploration) Violations() []Violation { return sortedViolations(e.Traces) }

// edge is how a state was first reached.
type edge struct {
	parent int32
	step   int16
}

// Explore walks every interleaving of the workload under the policy.
func Explore(p Policy, w *Workload) *Exploration { return explore(p.Name, p.start(w), maxStates) }

// explore is a breadth-first search, so the first way to a state is a shortest
// one. Only keys and edges are kept; a model is rebuilt by taking its steps
// again. A violation inside a step is reported where the step was taken; the
// two that no single state shows (a caller that can never return, a circle) are
// found in the whole graph afterwards.
func explore(name string, start model, limit int) *Exploration {
	x := &explorer{
		Exploration: Exploration{Policy: name, Complete: true, Traces: make(map[Violation][]string)},
		index:       make(map[string]int32), start: start,
	}
	x.visit(start, edge{parent: -1})
	frontier := []model{start}
	for at := int32(0); len(frontier) > 0; at++ {
		m := frontier[0]
		frontier[0] = nil
		frontier = frontier[1:]
		steps := m.steps(nil)
		if len(steps) == 0 {
			x.end(m, at)
		}
		for _, step := range steps {
			next := m.clone()
			_, broke := next.do(step)
			for _, v := range broke {
				x.violation(v, at, step)
			}
			x.Steps++
			to, isNew := x.visit(next, edge{at, int16(step)})
			x.out[at] = append(x.out[at], to)
			if isNew {
				frontier = append(frontier, next)
			}
		}
		if len(x.edges) > limit {
			x.Complete = false
			break
		}
	}
	x.States = len(x.edges)
	if x.Complete {
		x.findStuck()
		x.findCircle()
	}
	return &x.Exploration
}

type explorer struct {
	Exploration
	start model
	index map[string]int32 // key to state
	edges []edge           // by state
	out   [][]int32        // by state
	good  []int32          // final states in which everybody has returned
	buf   []byte
}

func (x *explorer) visit(m model, e edge) (int32, bool) {
	x.buf = m.key(x.buf[:0])
	if at, ok := x.index[string(x.buf)]; ok {
		return at, false
	}
	at := int32(len(x.edges))
	x.index[string(x.buf)] = at
	x.edges = append(x.edges, e)
	x.out = append(x.out, nil)
	return at, true
}

// end looks at a state in which nothing can happen any more.
func (x *explorer) end(m model, at int32) {
	x.Ends++
	if slices.Contains(m.results(), Running) {
		return // findStuck will see it
	}
	x.good = append(x.good, at)
	for _, v := range m.final() {
		x.violation(v, at, -1)
	}
}

// violation keeps the first, and so the shortest, way to each kind.
func (x *explorer) violation(v Violation, at int32, step int) {
	if _, ok := x.Traces[v]; !ok {
		x.Traces[v] = x.trace(at, step)
	}
}

// path is the shortest list of steps to a state.
func (x *explorer) path(at int32) []int {
	var steps []int
	for s := at; x.edges[s].parent >= 0; s = x.edges[s].parent {
		steps = append(steps, int(x.edges[s].step))
	}
	slices.Reverse(steps)
	return steps
}

// trace tells the way to a state, and one step more unless that is -1.
func (x *explorer) trace(at int32, step int) []string {
	steps := x.path(at)
	if step >= 0 {
		steps = append(steps, step)
	}
	m := x.start.clone()
	var lines []string
	for n, s := range steps {
		what, _ := m.do(s)
		lines = append(lines, fmt.Sprintf("%2d. %s", n+1, what))
	}
	return lines
}

// whoIsLeft says who still runs in a state.
func (x *explorer) whoIsLeft(at int32) string {
	m := x.start.clone()
	for _, s := range x.path(at) {
		m.do(s)
	}
	var left []string
	for i, r := range m.results() {
		if r == Running {
			left = append(left, fmt.Sprint(i+1))
		}
	}
	return "callers that run: " + strings.Join(left, ", ")
}

// findStuck looks for states from which no way leads to an end where everybody
// has returned: whatever the scheduler does, somebody waits or spins for ever.
func (x *explorer) findStuck() {
	in := make([][]int32, len(x.out))
	for from, tos := range x.out {
		for _, to := range tos {
			in[to] = append(in[to], int32(from))
		}
	}
	saved := make([]bool, len(x.out))
	work := slices.Clone(x.good)
	for _, s := range work {
		saved[s] = true
	}
	for len(work) > 0 {
		s := work[len(work)-1]
		work = work[:len(work)-1]
		for _, from := range in[s] {
			if !saved[from] {
				saved[from] = true
				work = append(work, from)
			}
		}
	}
	// States are numbered in order of distance: the first is the nearest.
	if at := slices.Index(saved, false); at >= 0 {
		x.violation(Stuck, int32(at), -1)
		x.Traces[Stuck] = append(x.Traces[Stuck], "    and now no schedule saves everybody; "+x.whoIsLeft(int32(at)))
	}
}

// findCircle looks for a circle: a schedule in which callers turn for ever, even
// if another schedule would save them. States that cannot be ordered so that all
// steps go forward are on one or behind one.
func (x *explorer) findCircle() {
	degree := make([]int32, len(x.out))
	for _, tos := range x.out {
		for _, to := range tos {
			degree[to]++
		}
	}
	var work []int32
	for s, d := range degree {
		if d == 0 {
			work = append(work, int32(s))
		}
	}
	ordered := 0
	for len(work) > 0 {
		s := work[len(work)-1]
		work = work[:len(work)-1]
		ordered++
		for _, to := range x.out[s] {
			if degree[to]--; degree[to] == 0 {
				work = append(work, to)
			}
		}
	}
	if ordered < len(x.out) {
		at := slices.IndexFunc(degree, func(d int32) bool { return d > 0 })
		x.violation(Spin, int32(at), -1)
		x.Traces[Spin] = append(x.Traces[Spin], "    and so on in a circle, until somebody else is scheduled; "+x.whoIsLeft(int32(at)))
	}
}
