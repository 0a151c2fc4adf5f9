package lab

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kind is how a caller comes to want a chunk.
type Kind uint8

// Kinds of callers.
const (
	// Extent is a search for an extent that finds no hole. In btrfs it asks
	// for a chunk with FORCE of its own; with us it waits for growth past the
	// generation of its search.
	Extent Kind = iota
	// Reserve is a reservation that does not fit. In btrfs of 2013 it sets the
	// shared force flag, asks without force of its own, and tries again; with
	// us it is a ticket.
	Reserve
	// Transaction is a reservation made while a transaction is open. Only our
	// policy knows the difference.
	Transaction
)

func (k Kind) String() string { return [...]string{"extent", "reserve", "transaction"}[k] }

// Fault is what befalls one attempt to make a chunk, or one caller.
type Fault uint8

// Faults.
const (
	NoFault Fault = iota
	ENOMEM        // the attempt fails for a reason that is not space
	ENOSPC        // the attempt finds no space, though there may be some
	Panic         // the code that makes the chunk dies
)

// Faults is a fault script.
type Faults struct {
	Attempts map[int]Fault // by the number of the attempt, from 1
	Cancel   []int         // callers, from 1, who stop waiting when the scheduler likes
}

// ParseFaults reads a script such as "enomem@1,3 enospc@2 cancel@4": a fault,
// and the attempts, or callers, that it befalls. Commas that follow a number
// may also separate faults.
func ParseFaults(s string) (Faults, error) {
	f := Faults{Attempts: make(map[int]Fault)}
	what := ""
	for _, word := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == ';' }) {
		if name, number, ok := strings.Cut(word, "@"); ok {
			what, word = strings.ToLower(name), number
		}
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			return f, fmt.Errorf("fault %q: want NAME@NUMBER[,NUMBER…], numbers from 1", word)
		}
		switch what {
		case "enomem":
			f.Attempts[n] = ENOMEM
		case "enospc":
			f.Attempts[n] = ENOSPC
		case "panic":
			f.Attempts[n] = Panic
		case "cancel":
			f.Cancel = append(f.Cancel, n)
		default:
			return f, fmt.Errorf("fault %q: want enomem, enospc, cancel or panic", what)
		}
	}
	return f, nil
}

// String is the script in a form that ParseFaults reads.
func (f Faults) String() string {
	var words []string
	for n, what := range f.Attempts {
		words = append(words, fmt.Sprintf("%s@%d", [...]string{"", "enomem", "enospc", "panic"}[what], n))
	}
	for _, n := range f.Cancel {
		words = append(words, fmt.Sprintf("cancel@%d", n))
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

// Workload is what callers want, and of what. Sizes are in any one unit.
type Workload struct {
	Callers []Kind  // one entry per caller
	Bytes   []int64 // what each wants; shorter lists repeat
	Chunk   int64   // size of a chunk
	Room    int     // chunks that the devices can still hold
	Used    int     // chunks that exist and in which nobody finds anything
	Crumbs  int64   // bytes that are free in those, in holes too small for anybody
	Faults  Faults
}

// bytes is what caller i wants.
func (w *Workload) bytes(i int) int64 { return w.Bytes[i%len(w.Bytes)] }

// Needed is the number of chunks that the demand needs if everybody is served.
func (w *Workload) Needed() int {
	demand := int64(0)
	for i := range w.Callers {
		demand += w.bytes(i)
	}
	return min(int((demand+w.Chunk-1)/w.Chunk), w.Room)
}

// Validate says what is wrong with the workload.
func (w *Workload) Validate() error {
	switch {
	case len(w.Callers) == 0 || len(w.Callers) > 4096:
		return errors.New("want 1 to 4096 callers")
	case w.Chunk <= 0 || w.Chunk > 1<<50:
		return errors.New("want a chunk size above 0")
	case w.Room < 0 || w.Room > 1<<20 || w.Used < 0 || w.Used > 1<<20:
		return errors.New("want at most a million chunks")
	case w.Crumbs < 0 || w.Crumbs > int64(w.Used)*w.Chunk:
		return errors.New("more crumbs than there are chunks")
	case len(w.Bytes) == 0 || slices.Min(w.Bytes) <= 0 || slices.Max(w.Bytes) > w.Chunk:
		return errors.New("want burst sizes above 0, each at most a chunk")
	}
	for _, n := range w.Faults.Cancel {
		if n > len(w.Callers) {
			return fmt.Errorf("cancel@%d: there are %d callers", n, len(w.Callers))
		}
	}
	return nil
}

// Result is how a caller fared.
type Result uint8

// Results.
const (
	Running Result = iota
	Served
	GotENOSPC
	GotENOMEM
	GotAborted
	GotCancelled
	Died // its thread was the one that died
)

func (r Result) String() string {
	return [...]string{"never returns", "served", "ENOSPC", "ENOMEM", "aborted", "cancelled", "died"}[r]
}

// Violation is a broken invariant of facts about chunk allocation; I1 to I6
// are those of internal/space.
type Violation string

// Violations.
const (
	Stuck     Violation = "I1: a caller never returns"
	Herd      Violation = "I2: more chunks than the demand needs"
	TwoGrow   Violation = "I3: two chunks are made at once, or the mark stays set"
	Account   Violation = "I4: bytes promised twice, or to somebody who failed"
	WrongFull Violation = "I5: ENOSPC although there is space"
	WrongErr  Violation = "I6: somebody else's error, or a wrong one"
	Lost      Violation = "lost request: FORCE returned 0, and no chunk was made for it"
	Spin      Violation = "busy wait: callers turn in a circle until the scheduler picks another"
)

// model is one policy at work on one workload. Steps are atomic.
type model interface {
	// steps appends the numbers of the steps that are possible now.
	steps(out []int) []int
	// do takes a step, says in words what happened, and what it broke.
	do(step int) (what string, broke []Violation)
	clone() model
	// key is equal for states with equal futures.
	key(b []byte) []byte
	results() []Result
	// final checks a state in which nobody runs.
	final() []Violation
	chunksMade() int
	// cost is the virtual time of the step in nanoseconds, and the actor
	// whose time passes.
	cost(step int) (actor int, ns int64)
}

// Policy is a way to decide when to make a chunk.
type Policy struct {
	Name    string // as on the command line
	Title   string
	start   func(*Workload) model
	Ours    bool
	Predict []Violation // what reading its code suggests
}

// Policies are all policies, ours last.
func Policies() []Policy {
	ps := linuxPolicies()
	return append(ps, Policy{Name: "ours", Title: "gobtrfs: tickets, one flight, a generation", start: startOurs, Ours: true})
}

// PolicyByName finds policies by a comma-separated list; "all" or "" is all.
func PolicyByName(list string) ([]Policy, error) {
	all := Policies()
	if list == "" || list == "all" {
		return all, nil
	}
	var out []Policy
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(p Policy) bool { return p.Name == name })
		if i < 0 {
			var names []string
			for _, p := range all {
				names = append(names, p.Name)
			}
			return nil, fmt.Errorf("no policy %q: want all or some of %s", name, strings.Join(names, ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}

// sortedViolations are the keys of a set of violations in a fixed order.
func sortedViolations[T any](m map[Violation]T) []Violation {
	var vs []Violation
	for v := range m {
		vs = append(vs, v)
	}
	slices.SortFunc(vs, func(a, b Violation) int { return cmp.Compare(a, b) })
	return vs
}
