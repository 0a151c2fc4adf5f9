package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gobtrfs/internal/lab"
)

// newLabCmd is "gobtrfs lab": experiments that touch no filesystem.
func newLabCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Experiments with the allocator, without a filesystem",
	}
	cmd.AddCommand(newLabChunkAllocCmd(a))
	return cmd
}

// labOptions are the flags of "lab chunk-alloc".
type labOptions struct {
	policies, kind, faults string
	bursts                 []string
	chunk                  string
	callers, room          int
	seed                   uint64
	explore, json          bool
}

func newLabChunkAllocCmd(a *app) *cobra.Command {
	var o labOptions
	cmd := &cobra.Command{
		Use:   "chunk-alloc",
		Short: "Run one workload through every policy of chunk allocation",
		Long: `Runs the same workload through the ways in which btrfs decided, and was
proposed to decide, when to make a new chunk, and through ours.

Without --explore the workload is simulated once with a virtual clock; the seed
decides the schedule and nothing else does. Columns: chunks made and needed;
bytes in new chunks that nobody uses; callers that never return; errors that
were wrong (no space although there was some, somebody else's error); the
longest wait in virtual time, an attempt to make a chunk taking 20 ms.

With --explore every interleaving is walked, and for each violated invariant
the shortest schedule that leads to it is printed. Keep such cases small: 3 or
4 callers. The defaults are then 3 callers, chunks of 4 bytes, bursts of 1.

Callers are extent searches that find no hole (extent), or reservations that do
not fit (reserve). Faults: enomem@1,3 makes the first and third attempt fail for
a reason that is not space; enospc@2 says there is no room; panic@1 kills the
code that makes the chunk; cancel@4 is the fourth caller losing patience.`,
		Example: `  gobtrfs lab chunk-alloc --callers 64
  gobtrfs lab chunk-alloc --callers 64 --kind reserve --faults enomem@1
  gobtrfs lab chunk-alloc --explore --callers 3 --policy 6.0`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, err := o.workload(cmd.Flags().Changed)
			if err != nil {
				return usageError{err}
			}
			policies, err := lab.PolicyByName(o.policies)
			if err != nil {
				return usageError{err}
			}
			if o.explore {
				return o.runExplore(a, policies, w)
			}
			return o.runSimulate(a, policies, w)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.policies, "policy", "all", "policies, comma-separated: 2013-before, 2013-after, a, b, c, 6.0, ours")
	f.IntVar(&o.callers, "callers", 64, "how many ask at the same moment")
	f.StringVar(&o.kind, "kind", "extent", "what they are: extent, reserve or mixed")
	f.StringSliceVar(&o.bursts, "burst", []string{"4KiB"}, "bytes that each wants; a list repeats")
	f.StringVar(&o.chunk, "chunk-size", "1GiB", "size of a chunk")
	f.IntVar(&o.room, "room", 100, "chunks that the devices can still hold")
	f.StringVar(&o.faults, "faults", "", "fault script, such as enomem@1,3,cancel@4")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the schedule")
	f.BoolVar(&o.explore, "explore", false, "walk every interleaving")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// workload is what the flags describe.
func (o *labOptions) workload(changed func(string) bool) (*lab.Workload, error) {
	if o.explore { // smaller defaults: the number of interleavings explodes
		for name, set := range map[string]func(){
			"callers": func() { o.callers = 3 }, "burst": func() { o.bursts = []string{"1"} },
			"chunk-size": func() { o.chunk = "4" }, "room": func() { o.room = 2 },
		} {
			if !changed(name) {
				set()
			}
		}
		if o.callers > 8 {
			return nil, fmt.Errorf("%d callers have too many interleavings; at most 8", o.callers)
		}
	}
	faults, err := lab.ParseFaults(o.faults)
	if err != nil {
		return nil, err
	}
	w := &lab.Workload{Room: o.room, Used: 1, Faults: faults}
	if w.Chunk, err = parseLabSize(o.chunk); err != nil {
		return nil, err
	}
	// Half of the old chunk is crumbs: below the fill threshold, so that only
	// force, or a ticket, makes a chunk.
	w.Crumbs = w.Chunk / 2
	for _, s := range o.bursts {
		n, err := parseLabSize(s)
		if err != nil {
			return nil, err
		}
		w.Bytes = append(w.Bytes, n)
	}
	kinds, ok := map[string][]lab.Kind{
		"extent": {lab.Extent}, "reserve": {lab.Reserve}, "mixed": {lab.Extent, lab.Reserve},
	}[o.kind]
	if !ok {
		return nil, fmt.Errorf("kind %q: want extent, reserve or mixed", o.kind)
	}
	for i := range max(0, min(o.callers, 1<<16)) {
		w.Callers = append(w.Callers, kinds[i%len(kinds)])
	}
	return w, w.Validate()
}

// parseLabSize reads a number of bytes with an optional unit, K to T, in powers
// of 1024; a following "iB" or "B" changes nothing.
func parseLabSize(s string) (int64, error) {
	digits := strings.TrimRight(strings.ToUpper(s), "IB")
	shift := 0
	if n := len(digits); n > 0 {
		if k := strings.IndexByte("KMGT", digits[n-1]); k >= 0 {
			digits, shift = digits[:n-1], 10*(k+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	return n << shift, nil
}

func (o *labOptions) runSimulate(a *app, policies []lab.Policy, w *lab.Workload) error {
	outcomes := make([]lab.Outcome, len(policies))
	for i, p := range policies {
		outcomes[i] = lab.Simulate(p, w, o.seed)
	}
	if o.json {
		return a.printJSON(outcomes)
	}
	t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "policy\tcallers\tmade\tneeded\tunused bytes\tnever return\twrong errors\tlongest wait\tresults\t")
	for _, r := range outcomes {
		wait := r.LongestWait.Round(10 * time.Microsecond).String()
		if r.NeverReturn > 0 {
			wait = "for ever"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t\n",
			r.Policy, r.Callers, r.Made, r.Needed, r.Unused, r.NeverReturn, r.WrongErrors, wait, labResults(r.Results))
	}
	return t.Flush()
}

// labResults says how many fared how, in a fixed order.
func labResults(m map[string]int) string {
	var parts []string
	for name, n := range m {
		parts = append(parts, fmt.Sprintf("%d %s", n, name))
	}
	slices.SortFunc(parts, func(a, b string) int {
		_, a, _ = strings.Cut(a, " ")
		_, b, _ = strings.Cut(b, " ")
		return strings.Compare(a, b)
	})
	return strings.Join(parts, ", ")
}

func (o *labOptions) runExplore(a *app, policies []lab.Policy, w *lab.Workload) error {
	var all []*lab.Exploration
	for _, p := range policies {
		e := lab.Explore(p, w)
		all = append(all, e)
		if !o.json {
			printExploration(a.out, p, e)
		}
	}
	if o.json {
		if err := a.printJSON(all); err != nil {
			return err
		}
	}
	for i, e := range all {
		switch {
		case !e.Complete:
			return fmt.Errorf("%s: stopped after %d states; make the case smaller", e.Policy, e.States)
		case policies[i].Ours && len(e.Traces) > 0:
			return codeError{exitDamage, "our own policy violates an invariant"}
		}
	}
	return nil
}

func printExploration(out io.Writer, p lab.Policy, e *lab.Exploration) {
	fmt.Fprintf(out, "%s: %s\n%d states, %d steps, %d ends\n", p.Name, p.Title, e.States, e.Steps, e.Ends)
	if len(e.Traces) == 0 && e.Complete {
		fmt.Fprintln(out, "no violation in any schedule")
	}
	for _, v := range e.Violations() {
		fmt.Fprintf(out, "%s\n", v)
		for _, line := range e.Traces[v] {
			fmt.Fprintf(out, "    %s\n", line)
		}
	}
	fmt.Fprintln(out)
}
