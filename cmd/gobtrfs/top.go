package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"gobtrfs/fusefs"
)

func newTopCmd(a *app) *cobra.Command {
	var image imageFlags
	every := time.Second
	count := 0
	cmd := &cobra.Command{
		Use:   "top IMAGE|DIR",
		Short: "Watch a mount at work",
		Long: `top shows, once a second, what the mount of an image, or the mount that a directory
is in, does: throughput, requests, transactions, how full the block groups are,
who waits for space and what chunks were made, then and over the last screens. q or an interrupt ends it. Where
standard output is no terminal it prints one screen after the other.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if every < 100*time.Millisecond {
				return usagef("--every is at least 100ms")
			}
			return a.top(cmd.Context(), args[0], every, count)
		},
	}
	image.register(cmd)
	cmd.Flags().DurationVar(&every, "every", every, "time between screens")
	cmd.Flags().IntVar(&count, "count", 0, "end after `N` screens (default: never)")
	return cmd
}

// Terminal sequences (ECMA-48): an alternate screen without a cursor.
const (
	screenOpen  = "\x1b[?1049h\x1b[?25l"
	screenClose = "\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H\x1b[2J"
)

// The smallest terminal that top must fit.
const (
	topColumns = 80
	topLines   = 24
	topDevices = 3 // that are shown, or requests would find no room
)

func (a *app) top(ctx context.Context, name string, every time.Duration, count int) error {
	s, err := a.askStats(ctx, name) // what is wrong is said before the screen changes
	if err != nil {
		return err
	}
	quit := make(chan struct{})
	if in, ok := a.in.(*os.File); ok && isTerminal(a.in) && isTerminal(a.outFile) {
		old, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return err
		}
		defer term.Restore(int(in.Fd()), old)
		fmt.Fprint(a.outFile, screenOpen)
		defer fmt.Fprint(a.outFile, screenClose)
		go waitForQuit(in, quit)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var before *mountStats
	var past growth
	for n := 1; ; n++ {
		past.add(before, s)
		if err := a.draw(topScreen(before, s, past)); err != nil || n == count {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-quit:
			return nil
		case <-tick.C:
		}
		before = s
		if s, err = a.askStats(ctx, name); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// waitForQuit reads keys: in raw mode an interrupt is one, too.
func waitForQuit(in io.Reader, quit chan<- struct{}) {
	defer close(quit)
	for b := make([]byte, 1); ; {
		if n, err := in.Read(b); err != nil || n == 1 && (b[0] == 'q' || b[0] == 'Q' || b[0] == 3) {
			return
		}
	}
}

// draw shows a screen.
func (a *app) draw(lines []string) error {
	end := "\n"
	if isTerminal(a.outFile) {
		if _, err := a.out.WriteString(screenHome); err != nil {
			return err
		}
		end = "\r\n"
	}
	for i, l := range lines {
		if i == len(lines)-1 && isTerminal(a.outFile) {
			end = "" // or the terminal would scroll
		}
		if _, err := a.out.WriteString(l + end); err != nil {
			return err
		}
	}
	return a.out.Flush()
}

// askStats has the server of a mount print its numbers.
func (a *app) askStats(ctx context.Context, name string) (*mountStats, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	defer null.Close()
	asker := newApp(null, w, a.errOut)
	asker.argv = []string{"stats", "--json", "--", name}
	done := make(chan error, 1)
	go func() {
		err := asker.forward(ctx, &imageFlags{}, name)
		w.Close()
		done <- err
	}()
	var s mountStats
	decodeErr := json.NewDecoder(r).Decode(&s)
	var forwarded forwardedError
	switch err := <-done; {
	case err == nil:
		return nil, fmt.Errorf("%s is not mounted by gobtrfs", name)
	case !errors.As(err, &forwarded):
		return nil, err
	case forwarded.code != exitDone:
		return nil, codeError{code: forwarded.code}
	}
	return &s, decodeErr
}

// growth is what became of the chunks of each type between one screen and the
// next, the oldest first: made less removed.
type growth map[string][]int64

// growthColumns is how many screens growth remembers.
const growthColumns = 60

// add appends what happened since the last screen.
func (g *growth) add(before, now *mountStats) {
	if *g == nil {
		*g = growth{}
	}
	if before == nil {
		return
	}
	old := map[string]int64{}
	for i := range before.Space {
		old[before.Space[i].Type] = before.Space[i].chunks()
	}
	for i := range now.Space {
		t := now.Space[i].Type
		list := append((*g)[t], now.Space[i].chunks()-old[t])
		(*g)[t] = list[max(0, len(list)-growthColumns):]
	}
}

// chunks is how many chunks there are more than at the mount.
func (s *spaceStats) chunks() int64 { return int64(s.Made) - int64(s.RemovedCh) }

// line shows growth of one type as a row of characters: the number of chunks,
// "+" for ten or more, "-" if some went, "." for none.
func (g growth) line(typ string) string {
	b := make([]byte, 0, growthColumns)
	for _, n := range g[typ] {
		switch {
		case n < 0:
			b = append(b, '-')
		case n == 0:
			b = append(b, '.')
		case n > 9:
			b = append(b, '+')
		default:
			b = append(b, '0'+byte(n))
		}
	}
	return fmt.Sprintf("growth %-9s %s", typ, b)
}

// topScreen is one screen; before is the state at the last one, nil at first.
func topScreen(before, now *mountStats, past growth) []string {
	if before == nil {
		before = &mountStats{}
	}
	var u units
	seconds := max((now.UptimeNS - before.UptimeNS).Seconds(), 0.001)
	rate := func(now, before uint64) string { return u.size(uint64(float64(now-min(before, now)) / seconds)) }
	state := "writable"
	switch {
	case now.Failure != "":
		state = "FAILED: " + now.Failure
	case !now.Writable:
		state = "read-only"
	}
	name := cmp.Or(now.Label, now.FSID)
	lines := []string{
		fmt.Sprintf("gobtrfs %s   up %s   %s", name, now.UptimeNS.Round(time.Second), state),
		fmt.Sprintf("read %10s/s   written %10s/s   transaction %d   removed in use %d", rate(now.Read, before.Read), rate(now.Written, before.Written), now.Transaction, now.Removed),
		"",
		fmt.Sprintf("%-9s %-8s %11s %11s %5s %10s %7s %6s", "TYPE", "PROFILE", "TOTAL", "USED", "%", "PROMISED", "WAITING", "CHUNKS"),
	}
	for _, s := range now.Space {
		lines = append(lines, fmt.Sprintf("%-9s %-8s %11s %11s %5.1f %10s %7d %+6d",
			s.Type, s.Profile, u.size(s.Total), u.size(s.Used), 100*float64(s.Used)/float64(max(s.Total, 1)), u.size(s.Promised+s.Reserved), s.Waiting, s.chunks()))
	}
	for _, s := range now.Space {
		lines = append(lines, past.line(s.Type))
	}
	for i, d := range now.Devices {
		if i == topDevices && len(now.Devices) > i+1 {
			lines = append(lines, fmt.Sprintf("and %d more devices", len(now.Devices)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("device %-3d allocated %11s   unallocated %11s", d.ID, u.size(d.Allocated), u.size(d.Unallocated)))
	}
	lines = append(lines, "", fmt.Sprintf("%-9s %12s %10s %10s %10s", "REQUEST", "TOTAL", "PER SEC", "MEAN", "ERRORS"))
	old := map[string]fusefs.OpStats{}
	for _, o := range before.Ops {
		old[o.Name] = o
	}
	ops := slices.Clone(now.Ops)
	slices.SortStableFunc(ops, func(a, b fusefs.OpStats) int {
		return cmp.Compare(b.Requests-old[b.Name].Requests, a.Requests-old[a.Name].Requests)
	})
	for _, o := range ops {
		n := o.Requests - old[o.Name].Requests
		mean := (o.Time - old[o.Name].Time) / time.Duration(max(n, 1))
		lines = append(lines, fmt.Sprintf("%-9s %12d %10.0f %10s %10d", o.Name, o.Requests, float64(n)/seconds, mean.Round(time.Microsecond), o.Errors))
	}
	for i, l := range lines {
		if r := []rune(l); len(r) > topColumns {
			l = string(r[:topColumns])
		}
		lines[i] = strings.TrimRight(l, " ")
	}
	return lines[:min(len(lines), topLines)]
}
