package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"gobtrfs/blockdev"
	"gobtrfs/scrub"
)

func newScrubCmd(a *app) *cobra.Command {
	var o scrubFlags
	cmd := &cobra.Command{
		Use:   "scrub IMAGE|DIR",
		Short: "Verify every copy of every block, and repair bad copies",
		Long: `scrub reads every copy of every block in use on every device of a filesystem,
and verifies it: tree blocks and data by their checksums, data without
checksums by comparing its copies, and parity. Of a mounted filesystem it takes
turns with those who write.

--repair overwrites bad copies with what a good one has, and writes nothing
else. --state FILE keeps where an interrupted scrub stopped; the next run with
the same file goes on from there. Exit codes: 0 nothing is wrong, or all was
corrected; 3 damage is left; 1 the scrub could not be done.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), a, args[0])
		},
	}
	f := cmd.Flags()
	o.image.registerMembers(cmd)
	f.BoolVar(&o.repair, "repair", false, "overwrite bad copies with good ones")
	f.StringVar(&o.state, "state", "", "file that keeps where an interrupted scrub stopped")
	f.Uint64Var(&o.limit, "limit", 0, "read at most this many bytes a second (0: no limit)")
	f.BoolVar(&o.json, "json", false, "print one JSON object a line: problems, then the state")
	f.BoolVar(&o.progress, "progress", false, "show progress on standard error")
	f.BoolVarP(&o.raw, "raw", "R", false, "print all numbers of each device")
	return cmd
}

type scrubFlags struct {
	image                       imageFlags
	repair, json, progress, raw bool
	state                       string
	limit                       uint64
}

// maxScrubProblems is how many problems the text output lists.
const maxScrubProblems = 1000

func (o *scrubFlags) run(ctx context.Context, a *app, name string) error {
	live, err := o.image.serving(ctx, a, name)
	if err != nil {
		return err
	}
	opt := scrub.Options{Repair: o.repair, BytesPerSecond: o.limit}
	state := a.path(o.state)
	if opt.Resume, err = loadScrub(state); err != nil {
		return err
	}
	var m image
	defer m.Close()
	switch {
	case live != nil && o.repair && live.fs.Writer() == nil:
		err = fmt.Errorf("%s is mounted read-only: --repair cannot write", name)
	case live != nil:
	case o.repair:
		err = o.openForWriting(&m, name)
	default:
		err = o.image.openDevices(ctx, &m, name)
	}
	if err != nil {
		return err
	}
	var done, total atomic.Uint64
	opt.Progress = func(d, t uint64) { done.Store(d); total.Store(t) }
	var mu sync.Mutex
	var problems []scrub.Problem
	opt.Problem = func(p scrub.Problem) {
		mu.Lock()
		defer mu.Unlock()
		if len(problems) < maxScrubProblems {
			problems = append(problems, p)
		}
	}
	st := a.startStatus(!o.progress, func() string {
		return fmt.Sprintf("scrub: %.1f of about %.1f MiB", float64(done.Load())/(1<<20), float64(total.Load())/(1<<20))
	})
	var r *scrub.Report
	if live == nil {
		r, err = scrub.Run(ctx, m.devs, opt)
	} else {
		r, err = live.scrub(ctx, opt)
	}
	st.Close()
	if r == nil {
		return err
	}
	saveErr := saveScrub(state, r)
	if o.json {
		saveErr = errors.Join(saveErr, scrubJSON(a, r, problems))
	} else {
		o.text(a, r, problems)
	}
	if err = errors.Join(err, saveErr); err == nil && r.Uncorrected > 0 {
		err = codeError{code: exitDamage}
	}
	return err
}

// openForWriting opens the members named on the command line for repair. Others
// that a search might find are not written to.
func (o *scrubFlags) openForWriting(m *image, name string) error {
	if len(o.image.scan) > 0 || o.image.offset != 0 || o.image.partition != 0 {
		return usagef("--repair needs every member named by --device, and no --offset or --partition")
	}
	for _, p := range append([]string{name}, o.image.devices...) {
		d, err := blockdev.OpenFile(p, blockdev.FileOptions{})
		if err != nil {
			return err
		}
		m.devs = append(m.devs, d)
	}
	return nil
}

// loadScrub reads the state of an interrupted scrub, nil if there is none.
func loadScrub(file string) (*scrub.State, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s scrub.State
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if s.Finished {
		return nil, nil
	}
	return &s, nil
}

func saveScrub(file string, r *scrub.Report) error {
	if file == "" {
		return nil
	}
	b, err := json.MarshalIndent(&r.State, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o666)
}

func scrubJSON(a *app, r *scrub.Report, problems []scrub.Problem) error {
	e := json.NewEncoder(a.out)
	for i := range problems {
		if err := e.Encode(&problems[i]); err != nil {
			return err
		}
	}
	return e.Encode(struct {
		Summary bool `json:"summary"`
		scrub.State
		Errors      uint64 `json:"errors"`
		Uncorrected uint64 `json:"uncorrected"`
	}{true, r.State, r.Errors, r.Uncorrected})
}

func (o *scrubFlags) text(a *app, r *scrub.Report, problems []scrub.Problem) {
	w := a.out
	status := "finished"
	if !r.Finished {
		status = fmt.Sprintf("interrupted at logical %d", uint64(r.Next))
	}
	switch {
	case r.Errors == 0:
		fmt.Fprintf(w, "%s, no errors found\n", status)
	default:
		fmt.Fprintf(w, "%s, %d errors found, %d not corrected\n", status, r.Errors, r.Uncorrected)
	}
	for i := range r.Devices {
		d := &r.Devices[i]
		fmt.Fprintf(w, "device %d (%s): %d bytes of data, %d bytes of metadata; errors: read %d, csum %d, verify %d, super %d; corrected %d, uncorrectable %d\n",
			uint64(d.Dev), d.Name, d.DataBytesScrubbed, d.TreeBytesScrubbed, d.ReadErrors, d.CsumErrors, d.VerifyErrors, d.SuperErrors, d.CorrectedErrors, d.UncorrectableErrors)
		if o.raw {
			rawNumbers(a, d)
		}
	}
	for i := range problems {
		fmt.Fprintf(w, "  %s\n", problems[i].String())
	}
}

// rawNumbers prints what btrfs scrub status -R prints, in its words.
func rawNumbers(a *app, d *scrub.DeviceStats) {
	for _, n := range []struct {
		name string
		v    uint64
	}{
		{"data_extents_scrubbed", d.DataExtentsScrubbed}, {"tree_extents_scrubbed", d.TreeExtentsScrubbed},
		{"data_bytes_scrubbed", d.DataBytesScrubbed}, {"tree_bytes_scrubbed", d.TreeBytesScrubbed},
		{"read_errors", d.ReadErrors}, {"csum_errors", d.CsumErrors}, {"verify_errors", d.VerifyErrors},
		{"no_csum", d.NoCsum}, {"super_errors", d.SuperErrors}, {"uncorrectable_errors", d.UncorrectableErrors},
		{"unverified_errors", d.UnverifiedErrors}, {"corrected_errors", d.CorrectedErrors}, {"last_physical", d.LastPhysical},
	} {
		fmt.Fprintf(a.out, "\t%s: %d\n", n.name, n.v)
	}
}
