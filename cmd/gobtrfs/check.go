package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"gobtrfs/check"
)

func newCheckCmd(a *app) *cobra.Command {
	var o checkFlags
	cmd := &cobra.Command{
		Use:   "check IMAGE|DIR",
		Short: "Verify a whole filesystem and say what is wrong",
		Long: `check reads a filesystem and says what is wrong with it. It changes nothing.

Every tree, every reference and all free space is checked; --verify-data reads
the data too. Findings have a stable code, a severity, the place, and what they
mean. A filesystem that is mounted is checked as of a commit that is made for it;
until the check ends, who needs another one waits: fsync, and writers that have
filled the memory for what is not yet written. Exit codes: 0 nothing is wrong, 3 damage was found, 1 the check could not
be done.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), a, args[0])
		},
	}
	f := cmd.Flags()
	o.image.registerMembers(cmd)
	f.BoolVar(&o.verify, "verify-data", false, "read all data and verify every copy of it, and parity")
	f.BoolVar(&o.degraded, "degraded", false, "missing devices alone are no damage")
	f.BoolVar(&o.json, "json", false, "print one JSON object a line: findings, then a summary")
	f.BoolVar(&o.progress, "progress", false, "show progress on standard error")
	f.IntVar(&o.max, "max-findings", 100, "findings of one kind that are listed; all are counted")
	f.Int64Var(&o.memory, "memory", check.DefaultMemory, "take at most about this many `BYTES`; what does not fit goes to a temporary file")
	f.StringVar(&o.tempDir, "temp-dir", "", "`DIR` for the temporary file (default: $TMPDIR)")
	f.IntVar(&o.workers, "workers", 0, "goroutines (0: one for each CPU)")
	return cmd
}

type checkFlags struct {
	image                  imageFlags
	verify, json, progress bool
	degraded               bool
	max, workers           int
	memory                 int64
	tempDir                string
}

// registerMembers adds the flags that say where the filesystem is, to verbs that
// judge it as it stands.
func (i *imageFlags) registerMembers(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&i.devices, "device", nil, "further member `PATH` of the filesystem (repeatable)")
	f.StringArrayVar(&i.scan, "scan", nil, "look for further members in `DIR` (repeatable)")
	f.Int64Var(&i.offset, "offset", 0, "the filesystem starts at byte `N` of IMAGE")
	f.IntVar(&i.partition, "partition", 0, "the filesystem is in partition `N` of IMAGE (GPT or MBR)")
}

func (o *checkFlags) run(ctx context.Context, a *app, name string) error {
	live, err := o.image.serving(ctx, a, name)
	if err != nil {
		return err
	}
	var m image
	defer m.Close()
	if live == nil {
		err = o.image.openDevices(ctx, &m, name)
	}
	if err != nil {
		return err
	}
	var last atomic.Pointer[check.Progress]
	phase := &phaseClock{}
	opt := check.Options{VerifyData: o.verify, Degraded: o.degraded, MaxFindings: o.max, Workers: o.workers, Memory: o.memory, TempDir: a.path(o.tempDir), Progress: func(p check.Progress) { last.Store(&p) }}
	st := a.startStatus(!o.progress, func() string { return checkProgress(last.Load(), phase, time.Now()) })
	var r *check.Report
	if live == nil {
		r, err = check.Run(ctx, m.devs, opt)
	} else {
		err = live.fs.Still(ctx, o.verify, func(ctx context.Context) (err error) {
			r, err = check.Run(ctx, live.devs, opt)
			return err
		})
	}
	st.Close()
	if err != nil {
		return err
	}
	if o.json {
		err = reportJSON(a, r)
	} else {
		reportText(a, r)
	}
	if err == nil && r.Damaged() {
		err = codeError{code: exitDamage}
	}
	return err
}

// phaseClock estimates how long the phase under way will still take.
type phaseClock struct {
	name  string
	began time.Time
}

// left is about the time that remains, 0 if that cannot be said yet.
func (c *phaseClock) left(p *check.Progress, now time.Time) time.Duration {
	if c.name != p.Phase {
		c.name, c.began = p.Phase, now
	}
	spent := now.Sub(c.began)
	if spent < time.Second || p.Done == 0 || p.Done >= p.Total {
		return 0
	}
	return time.Duration(float64(spent) * float64(p.Total-p.Done) / float64(p.Done)).Round(time.Second)
}

func checkProgress(p *check.Progress, c *phaseClock, now time.Time) string {
	switch {
	case p == nil:
		return "starting"
	case p.Total == 0:
		return fmt.Sprintf("%s: %.1f MiB", p.Phase, float64(p.Done)/(1<<20))
	}
	s := fmt.Sprintf("%s: %.1f of about %.1f MiB (%d %%)", p.Phase, float64(p.Done)/(1<<20), float64(p.Total)/(1<<20), min(p.Done*100/p.Total, 100))
	if left := c.left(p, now); left > 0 {
		s += fmt.Sprintf(", about %v left", left)
	}
	return s
}

// checkSummary is the last line of --json.
type checkSummary struct {
	Summary  bool               `json:"summary"`
	Clean    bool               `json:"clean"`
	Complete bool               `json:"complete"`
	Safe     bool               `json:"safe_to_write"`
	Errors   int                `json:"errors"`
	Warnings int                `json:"warnings"`
	Counts   map[check.Code]int `json:"counts"`
	Stats    check.Stats        `json:"stats"`
	Files    []check.File       `json:"files,omitempty"`
}

func reportJSON(a *app, r *check.Report) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	for i := range r.Findings {
		if err := e.Encode(&r.Findings[i]); err != nil {
			return err
		}
	}
	return e.Encode(checkSummary{true, !r.Damaged(), r.Complete, r.SafeToWrite(), r.Errors, r.Warnings, r.Counts, r.Stats, r.Files()})
}

// reportText prints the summary first, then each kind of finding with what it
// means, then the findings.
func reportText(a *app, r *check.Report) {
	w := a.out
	switch {
	case !r.Complete && r.Stats.Nodes > 0:
		fmt.Fprintf(w, "DAMAGED: %d errors, %d warnings; only what can be read in spite of a damaged superblock or chunk tree was checked\n", r.Errors, r.Warnings)
	case !r.Complete:
		fmt.Fprintln(w, "DAMAGED: the filesystem could not be opened, so nothing below that was checked")
	case r.Damaged():
		fmt.Fprintf(w, "DAMAGED: %d errors, %d warnings\n", r.Errors, r.Warnings)
	case r.Warnings > 0:
		fmt.Fprintf(w, "clean, with %d warnings\n", r.Warnings)
	default:
		fmt.Fprintln(w, "clean")
	}
	if r.Damaged() && r.Stats.Nodes > 0 {
		if r.SafeToWrite() {
			fmt.Fprintln(w, "nothing that was found gets worse by mounting it for writing")
		} else {
			fmt.Fprintln(w, "do not mount it for writing")
		}
	}
	if s := &r.Stats; s.Nodes > 0 {
		fmt.Fprintf(w, "%d tree blocks of %d trees, %d inodes, %d names, %d extents, %d bytes in use\n", s.Nodes, s.Trees, s.Inodes, s.Names, s.Extents, s.BytesUsed)
		if s.Verified > 0 {
			fmt.Fprintf(w, "%d bytes of data verified\n", s.Verified)
		}
	}
	affectedFiles(a, r.Files())
	for i := range r.Findings {
		f := &r.Findings[i]
		if i == 0 || r.Findings[i-1].Code != f.Code || r.Findings[i-1].Severity != f.Severity {
			repair := ""
			if f.Repairable {
				repair = "; can be repaired"
			}
			fmt.Fprintf(w, "\n%v %s, %d found: %s%s\n", f.Severity, f.Code, r.Counts[f.Code], f.Means, repair)
		}
		fmt.Fprintf(w, "  %s\n", f.Detail())
	}
}

// affectedFiles says how many files errors are about, and names the first.
func affectedFiles(a *app, files []check.File) {
	const shown = 10
	if len(files) == 0 {
		return
	}
	fmt.Fprintf(a.out, "\n%d files or directories are affected:\n", len(files))
	for i, f := range files {
		if i == shown {
			fmt.Fprintf(a.out, "  and %d more\n", len(files)-shown)
			break
		}
		name := fmt.Sprintf("inode %d", f.Inode)
		if f.Path != "" {
			name = fmt.Sprintf("%q", f.Path)
		}
		fmt.Fprintf(a.out, "  %s in subvolume %v\n", name, f.Tree)
	}
}
