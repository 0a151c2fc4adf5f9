package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime/debug"

	"github.com/spf13/cobra"

	"gobtrfs/extract"
)

type extractFlags struct {
	image     imageFlags
	tar       string
	keepGoing bool
	noOwner   bool
	quiet     bool
	json      bool
	workers   int
}

func newExtractCmd(a *app) *cobra.Command {
	var o extractFlags
	cmd := &cobra.Command{
		Use:   "extract IMAGE [PATH] DEST",
		Short: "Copy files out: to a directory, or as a tar stream",
		Long: `extract copies the directory PATH (the whole filesystem if it is not given) to
the directory DEST, or with --tar to a tar file. Owners, modes, times in
nanoseconds, xattrs, ACLs, hard links, holes and devices are kept where DEST can
hold them. Existing files are never overwritten.

With --keep-going damaged files are passed over, and listed at the end; what could
be read of them is kept, and the exit code is 3.`,
		Args: cobra.RangeArgs(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	o.image.registerSubvol(cmd)
	f := cmd.Flags()
	f.StringVar(&o.tar, "tar", "", "write a tar to `FILE` (- is standard output) instead of a directory")
	f.BoolVar(&o.keepGoing, "keep-going", false, "go on past damaged files")
	f.BoolVar(&o.noOwner, "no-owner", false, "do not set owners")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress")
	f.BoolVar(&o.json, "json", false, "print a summary as JSON (not with --tar -)")
	f.IntVar(&o.workers, "workers", 0, "goroutines (0: twice the CPUs)")
	return cmd
}

// Extracting makes much short-lived garbage over a small live heap, so the
// collector may run seldom, until the heap is large.
const (
	extractGCPercent   = 300
	extractMemoryLimit = 360 << 20
)

func (o *extractFlags) run(ctx context.Context, a *app, args []string) error {
	want := 2
	if o.tar != "" {
		want = 1
	}
	src, rest := "/", args[1:]
	switch len(args) {
	case want:
	case want + 1:
		src, rest = args[1], args[2:]
	default:
		return usagef("extract takes IMAGE [PATH] DEST, or IMAGE [PATH] with --tar")
	}
	if o.json && o.tar == "-" {
		return usagef("--json and --tar - would both write to standard output")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(extractGCPercent))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(extractMemoryLimit))
	m, err := o.image.open(ctx, a, args[0])
	if err != nil {
		return err
	}
	defer m.Close()
	top, err := o.image.file(ctx, m, src, false)
	if err != nil {
		return err
	}
	var progress extract.Progress
	opt := extract.Options{KeepGoing: o.keepGoing, NoOwner: o.noOwner, Workers: o.workers, Progress: &progress}
	st := a.startStatus(o.quiet, func() string {
		var u units
		return fmt.Sprintf("%d files, %s", progress.Files.Load(), u.size(uint64(progress.Bytes.Load())))
	})
	var r extract.Result
	if o.tar != "" {
		err = a.withOutput(o.tar, func(w io.Writer) error {
			r, err = extract.ToTar(ctx, top, path.Base(src), w, opt)
			return err
		})
	} else {
		r, err = extract.ToDir(ctx, top, path.Base(src), a.path(rest[0]), opt)
	}
	st.Close()
	return o.report(a, &progress, r, err)
}

// withOutput lets f write to a file, or to standard output for "-".
func (a *app) withOutput(name string, f func(io.Writer) error) error {
	if name == "-" {
		return f(a.out)
	}
	out, err := os.Create(a.path(name))
	if err != nil {
		return err
	}
	return errors.Join(f(out), out.Close())
}

type extractSummary struct {
	Files   int64         `json:"files"`
	Bytes   int64         `json:"bytes"`
	Damaged []problemJSON `json:"damaged"`
	Unkept  []problemJSON `json:"unkept"`
	Error   string        `json:"error,omitempty"`
}

type problemJSON struct {
	Path  string `json:"path"`
	Error string `json:"error"`
}

// report says what could not be copied and chooses the exit code.
func (o *extractFlags) report(a *app, progress *extract.Progress, r extract.Result, err error) error {
	if o.json {
		s := extractSummary{Files: progress.Files.Load(), Bytes: progress.Bytes.Load(), Damaged: problemList(r.Damaged), Unkept: problemList(r.Unkept)}
		if err != nil {
			s.Error = err.Error()
		}
		if jsonErr := a.printJSON(s); jsonErr != nil {
			return errors.Join(err, jsonErr)
		}
	} else {
		const shown = 10
		for i, p := range r.Unkept {
			if i == shown {
				break
			}
			fmt.Fprintf(a.errOut, "gobtrfs: warning: %s\n", p)
		}
		if more := r.UnkeptCount - min(shown, r.UnkeptCount); more > 0 {
			fmt.Fprintf(a.errOut, "gobtrfs: warning: %d more properties were not kept\n", more)
		}
	}
	if err == nil && r.DamagedCount == 0 {
		return nil
	}
	if o.keepGoing && !o.json {
		for _, p := range r.Damaged {
			fmt.Fprintf(a.errOut, "gobtrfs: damaged: %s\n", p)
		}
	}
	if err != nil {
		return err
	}
	return codeError{exitDamage, fmt.Sprintf("%d damaged files", r.DamagedCount)}
}

func problemList(ps []extract.Problem) []problemJSON {
	out := make([]problemJSON, len(ps))
	for i, p := range ps {
		out[i] = problemJSON{p.Path, p.Err.Error()}
	}
	return out
}
