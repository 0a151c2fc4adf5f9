package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gobtrfs/internal/space"
)

func kinds(s string) (ks []Kind) {
	for _, c := range s {
		ks = append(ks, map[rune]Kind{'e': Extent, 'r': Reserve, 't': Transaction}[c])
	}
	return ks
}

func mustFaults(tb testing.TB, s string) Faults {
	tb.Helper()
	f, err := ParseFaults(s)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// small is a case of 4-unit chunks, of which the devices hold two more, beside
// a full one with crumbs enough to stay below the fill threshold.
func small(tb testing.TB, callers, faults string, sizes ...int64) *Workload {
	tb.Helper()
	w := &Workload{Callers: kinds(callers), Bytes: sizes, Chunk: 4, Room: 2, Used: 1, Crumbs: 2, Faults: mustFaults(tb, faults)}
	if err := w.Validate(); err != nil {
		tb.Fatal(err)
	}
	return w
}

// commitStage is a reclaim stage like a commit: it waits for transactions to
// end, and frees a little.
func commitStage(frees int64) stageModel {
	return stageModel{lane: space.LanePatient, waitsForTransactions: true, frees: frees}
}

// T8, I1–I6: every interleaving of four callers, two chunks and one fault of
// each kind (and none), for callers of every kind: no violation, no circle, no
// dead end. The mutations of space.Protocol listed at T1 to T7 and these turned
// it red: ClassTransaction in the queue of normal tickets, or waiting for the
// commit stage (I1); GrowDone without gen++ (I1); Seen ignored in grantAll (lost
// request); two flights at once (I3); the lane left busy after a transient
// failure (I1: the freeze of 2013).
func TestExploreOursIsSound(t *testing.T) {
	t.Parallel()
	total := 0
	all := []string{"eeee", "rrrr", "eerr", "errt", "ettr"}
	bursts := [][]int64{{1}, {4}, {4, 1, 2}, {2, 3}}
	if testing.Short() {
		all, bursts = []string{"errt"}, [][]int64{{4, 1, 2}} // one of each kind
	}
	for _, callers := range all {
		for _, faults := range []string{"", "enomem@1", "enomem@1,2", "enospc@1", "enospc@2", "panic@1", "panic@2", "cancel@1", "cancel@4", "enomem@1,cancel@2", "enomem@1,enospc@2,cancel@3", "enomem@1,panic@2,cancel@4"} {
			for _, sizes := range bursts {
				for n, stages := range [][]stageModel{nil, {commitStage(0)}, {commitStage(3)}, {{lane: space.LanePrompt, frees: 1}, commitStage(1)}} {
					if n > 1 && (faults == "enomem@1,2" || sizes[0] == 4) {
						continue // more of the same
					}
					w := small(t, callers, faults, sizes...)
					e := explore("ours", newOurs(w, stages, space.StageSet(n&1)), maxStates)
					total += e.States
					name := fmt.Sprint(callers, " ", faults, " ", sizes, " stages ", n)
					if !e.Complete || e.Ends == 0 {
						t.Errorf("%s: not complete: %d states, %d ends", name, e.States, e.Ends)
					}
					for _, v := range e.Violations() {
						t.Errorf("%s: %s\n%s", name, v, strings.Join(e.Traces[v], "\n"))
					}
				}
			}
		}
	}
	t.Logf("%d states, no violation", total)
}

// The others do what the design document says they do. Where reading the code
// had suggested otherwise, the explorer is right.
func TestExploreTheOthers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policy, callers, faults string
		sizes                   []int64
		want                    []Violation // besides the busy wait, which they all have
	}{
		{"2013-before", "rrr", "enomem@1", []int64{1}, []Violation{Stuck}},
		{"2013-before", "eee", "", []int64{1}, []Violation{Herd}},
		{"2013-after", "rrr", "enomem@1", []int64{1}, []Violation{Herd}},
		{"2013-after", "rrr", "", []int64{1}, []Violation{Herd}},
		{"2013-after", "eee", "", []int64{1}, []Violation{Herd}},
		{"a", "rrr", "", []int64{1}, []Violation{Herd}},
		{"a", "eee", "", []int64{1}, []Violation{Herd}},
		{"b", "rrr", "", []int64{1}, nil},
		{"b", "eee", "", []int64{1}, []Violation{Herd}},
		{"c", "rrr", "", []int64{1}, nil},
		{"c", "eee", "", []int64{1}, []Violation{Herd}},
		{"c", "eee", "enomem@1", []int64{1}, []Violation{Herd, Lost, WrongFull}},
		{"6.0", "rrr", "", []int64{1}, nil},
		{"6.0", "eee", "", []int64{1}, []Violation{Herd, Lost, WrongFull}},
		{"6.0", "eee", "", []int64{4}, []Violation{Lost, WrongFull}},
		{"2013-before", "ee", "panic@1", []int64{1}, []Violation{Stuck}},
		{"6.0", "ee", "panic@1", []int64{1}, []Violation{Lost, Stuck, TwoGrow, WrongFull}},
	} {
		t.Run(strings.TrimSpace(fmt.Sprint(c.policy, " ", c.callers, " ", c.faults, " ", c.sizes)), func(t *testing.T) {
			t.Parallel()
			ps, err := PolicyByName(c.policy)
			if err != nil {
				t.Fatal(err)
			}
			e := Explore(ps[0], small(t, c.callers, c.faults, c.sizes...))
			got := slices.DeleteFunc(e.Violations(), func(v Violation) bool { return v == Spin })
			slices.Sort(c.want)
			if d := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); d != "" || !e.Complete {
				t.Error(d)
			}
			for v, lines := range e.Traces {
				if len(lines) == 0 || len(lines) > 30 {
					t.Errorf("%s: a trace of %d lines", v, len(lines))
				}
			}
		})
	}
}

// A key that is equal for two states promises equal futures. Arriving at a
// known state by another way, the successors must have the keys they had.
func TestEqualKeysHaveEqualFutures(t *testing.T) {
	t.Parallel()
	callers := "errt"
	if testing.Short() {
		callers = "ert"
	}
	for _, p := range Policies() {
		for _, faults := range []string{"", "enomem@1", "cancel@2", "enospc@1"} {
			w := small(t, callers, faults, 1, 4, 2)
			start := p.start(w)
			if p.Ours {
				start = newOurs(w, []stageModel{commitStage(2)}, 0)
			}
			known := make(map[string][]string)
			frontier := []model{start}
			for len(frontier) > 0 {
				m := frontier[0]
				frontier = frontier[1:]
				key := string(m.key(nil))
				var next []string
				var models []model
				for _, s := range m.steps(nil) {
					c := m.clone()
					c.do(s)
					next = append(next, fmt.Sprintf("%d %x", s, c.key(nil)))
					models = append(models, c)
				}
				if old, ok := known[key]; ok {
					if !slices.Equal(old, next) {
						t.Fatalf("%s %s: one key, two futures", p.Name, faults)
					}
					continue
				}
				known[key] = next
				frontier = append(frontier, models...)
			}
		}
	}
}

// The simulator is deterministic from its seed, and says of each policy what
// the explorer says.
func TestSimulate(t *testing.T) {
	t.Parallel()
	w := &Workload{Callers: slices.Repeat([]Kind{Extent}, 64), Bytes: []int64{4 << 10}, Chunk: 1 << 30, Room: 100, Used: 1}
	freeze := *w
	freeze.Faults = mustFaults(t, "enomem@1")
	herd := map[string]bool{"2013-before": true, "2013-after": true, "a": true, "b": true}
	for _, p := range Policies() {
		o := Simulate(p, w, 7)
		if d := cmp.Diff(o, Simulate(p, w, 7)); d != "" {
			t.Errorf("%s: the same seed, another run: %s", p.Name, d)
		}
		if o.Needed != 1 || (o.Made > 32) != herd[p.Name] || o.NeverReturn != 0 {
			t.Errorf("%s: %+v", p.Name, o)
		}
		f := Simulate(p, &freeze, 7)
		if (f.NeverReturn > 0) != (p.Name == "2013-before") {
			t.Errorf("%s, one failure: %+v", p.Name, f)
		}
		if p.Ours && (o.Made != 1 || o.WrongErrors != 0 || f.Results["served"] != 64) {
			t.Errorf("ours: %+v, one failure: %+v", o, f)
		}
	}
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	f := mustFaults(t, "enomem@1,3 enospc@2,cancel@4;panic@9")
	if got, want := f.String(), "cancel@4,enomem@1,enomem@3,enospc@2,panic@9"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, bad := range []string{"enomem", "enomem@0", "enomem@x", "eio@1", "@1", "1"} {
		if _, err := ParseFaults(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	ok := Workload{Callers: kinds("er"), Bytes: []int64{1}, Chunk: 4, Room: 1, Used: 1}
	if err := ok.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Workload){
		"no callers":      func(w *Workload) { w.Callers = nil },
		"no chunk":        func(w *Workload) { w.Chunk = 0 },
		"negative room":   func(w *Workload) { w.Room = -1 },
		"more than fits":  func(w *Workload) { w.Bytes = []int64{5} },
		"nothing wanted":  func(w *Workload) { w.Bytes = []int64{0} },
		"too many crumbs": func(w *Workload) { w.Crumbs = 5 },
		"nobody there":    func(w *Workload) { w.Faults.Cancel = []int{3} },
	} {
		w := ok
		change(&w)
		if err := w.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := PolicyByName("7.1"); err == nil {
		t.Error("unknown policy accepted")
	}
}
