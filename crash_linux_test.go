package btrfs_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/internal/clock"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/report"
)

var (
	crashSeed   = flag.Uint64("crash.seed", 1, "seed of the crash states")
	crashSeeds  = flag.Uint64("crash.seeds", 1, "seeds of crash states, one after the other")
	crashStates = flag.Int("crash.states", 30, "crash states of each workload to reopen")
	crashChecks = flag.Int("crash.checks", 1, "crash states of each workload to show to btrfs check and the kernel")
)

// TestCrashStates cuts the power at every point of workloads, and in between:
// of the writes since the last flush any may be on the device, others not, some
// of them torn. Each state must open and show one of the commits, none older
// than the last that was acknowledged; our check looks at all, btrfs check and
// the kernel at some (T10).
func TestCrashStates(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for seed := *crashSeed; seed < *crashSeed+*crashSeeds; seed++ {
		for i, w := range crashWorkloads {
			t.Run(w.name, func(t *testing.T) {
				crashStatesOf(t, &w, seed, rand.New(rand.NewPCG(seed, uint64(i))))
			})
		}
	}
}

// crash is a workload that ran, and the states that power cuts leave of it.
type crash struct {
	t       *testing.T
	w       *crashWorkload
	rnd     *rand.Rand
	log     *eventLog
	durable disks           // everything up to the last flush
	id      uint64          // of durable: the sum of what was added
	open    []event         // writes since then
	seen    map[uint64]bool // states, by their ids
	exports int             // how many states are to be shown to others
	first   float64         // which part of what lies between two of them comes before the first
	writes  int             // of how many states one is written on

	states, exported int
	torn             int // rows with torn parity, in all states
}

func crashStatesOf(t *testing.T, w *crashWorkload, seed uint64, rnd *rand.Rand) {
	t.Helper()
	start := time.Now()
	before := w.prepare(t, rnd)
	w.degraded = slices.Contains(before, nil)
	c := newCrash(t, w, rnd, before, recordWorkload(t, w, before.clone(), rnd))
	recorded := time.Since(start)
	c.run(*crashStates)
	if c.states < min(*crashStates, len(c.log.events))/2 {
		t.Errorf("%d states of %d", c.states, *crashStates)
	}
	t.Logf("-crash.seed=%d, %s, degraded: %v: %d events, %d commits, %d states, %d exported, %d torn rows; recorded in %v, judged in %v",
		seed, w.name, w.degraded, len(c.log.events), len(c.log.commits), c.states, c.exported, c.torn, recorded.Round(time.Millisecond), (time.Since(start) - recorded).Round(time.Millisecond))
}

func newCrash(t *testing.T, w *crashWorkload, rnd *rand.Rand, before disks, log *eventLog) *crash {
	return &crash{t: t, w: w, rnd: rnd, log: log, durable: before, seen: make(map[uint64]bool), exports: *crashChecks, first: rnd.Float64(), writes: 8}
}

// superWeight is how many times more states there are while a copy of the
// superblock is on its way, when it is decided what will be seen.
const superWeight = 8

// run looks at about n different states.
func (c *crash) run(n int) {
	total := 0
	for _, heavy := range superEpochs(c.log.events) {
		total++
		if heavy {
			total += superWeight - 1
		}
	}
	each, due := float64(n)/float64(total), 0.0
	for at, heavy := range superEpochs(c.log.events) {
		c.land(c.log.events[at])
		due += each
		if heavy {
			due += each * (superWeight - 1)
		}
		for tries := 0; due >= 1 && tries < 4; {
			if c.draw(at) {
				due--
			} else {
				tries++
			}
		}
	}
	// Discards come behind a commit's last flush.
	written := slices.DeleteFunc(slices.Clone(c.open), func(e event) bool { return e.data == nil })
	if len(written) > 0 {
		c.t.Errorf("%d writes were never flushed", len(written))
	}
}

// superEpochs says of each event whether a superblock was written and not flushed.
func superEpochs(events []event) []bool {
	out := make([]bool, len(events))
	open := make(map[int]bool)
	for i := range events {
		switch e := &events[i]; {
		case e.super():
			open[e.dev] = true
		case e.flush():
			delete(open, e.dev)
		}
		out[i] = len(open) > 0
	}
	return out
}

// land notes an event: a flush makes the writes to its device durable.
func (c *crash) land(e event) {
	if !e.flush() {
		c.open = append(c.open, e)
		return
	}
	var landed, rest []event
	for _, w := range c.open {
		if w.dev == e.dev {
			landed = append(landed, w)
		} else {
			rest = append(rest, w)
		}
	}
	s, err := newCrashState(c.durable, landed)
	must(c.t, err)
	c.id += s.change()
	must(c.t, s.settle())
	c.open = rest
}

// draw judges a state, unless it was seen before.
func (c *crash) draw(at int) bool {
	some, what := c.open, "in order"
	switch e := c.log.events[at]; {
	case len(some) > 0 && c.rnd.IntN(8) > 0:
		some, what = someOf(c.rnd, some), "some of the writes"
	case len(some) > 0 && !e.flush() && len(e.data) >= 1024 && !e.super() && c.rnd.IntN(2) == 0:
		some, what = append(slices.Clone(some[:len(some)-1]), tear(c.rnd, e)...), "in order, the last one torn"
	}
	s, err := newCrashState(c.durable, some)
	must(c.t, err)
	id := c.id + s.change()
	if c.seen[id] {
		return false
	}
	c.seen[id] = true
	c.states++
	c.judge(at, s, what)
	return true
}

// judge wants a state to show one of the commits, none older than the last that
// was acknowledged, and to be without a fault.
func (c *crash) judge(at int, s crashState, what string) {
	t := c.t
	files, err := s.listing()
	if err != nil {
		t.Fatalf("event %d, %s: %v", at, what, err)
	}
	oldest := 0
	for i, k := range c.log.commits {
		if k.after <= at+1 {
			oldest = i
		}
	}
	if !slices.ContainsFunc(c.log.commits[oldest:], func(k committed) bool { return bytes.Equal(k.files, files) }) {
		t.Fatalf("event %d, %s: shows none of the commits from %d on; from that one differ\n%s", at, what, oldest, differing(c.log.commits[oldest].files, files))
	}
	// Reading the files has verified their contents. All copies and parity, which
	// take most of the time, are looked at now and then.
	c.check(at, s, what, len(c.open) == 0 || c.states%4 == 0)
	if float64(c.states*c.exports) > (float64(c.exported)+c.first)*float64(*crashStates) {
		c.exported++
		c.export(s)
	}
	if c.states%c.writes == 0 {
		c.goOn(at, s, what)
	}
}

// differing are the lines of which one listing has more than the other.
func differing(want, got []byte) string {
	count := make(map[string]int)
	for line := range bytes.Lines(want) {
		count["- "+string(line)]++
	}
	for line := range bytes.Lines(got) {
		if k := "- " + string(line); count[k] > 0 {
			count[k]--
		} else {
			count["+ "+string(line)]++
		}
	}
	var out strings.Builder
	for _, line := range slices.Sorted(maps.Keys(count)) {
		if count[line] > 0 {
			out.WriteString(line)
		}
	}
	return out.String()
}

// check lets our check look at a state. Torn parity is no fault after a power
// cut: everything that it belongs to stands on its own device.
func (c *crash) check(at int, s crashState, what string, data bool) {
	torn := 0
	for _, f := range checkErrors(c.t, s.devices(), check.Options{VerifyData: data, Degraded: s.degraded()}) {
		if f.Code == check.CodeParity {
			torn++
			continue
		}
		c.t.Fatalf("event %d, %s: %v", at, what, f)
	}
	if torn > 0 && len(c.open) == 0 {
		c.t.Fatalf("event %d, %s: parity of %d rows is wrong though everything is written", at, what, torn)
	}
	c.torn += torn
}

// checkErrors is what our check finds wrong.
func checkErrors(t *testing.T, devs []blockdev.Device, o check.Options) []check.Finding {
	t.Helper()
	o.Workers, o.NoPaths = 1, true
	r, err := check.Run(t.Context(), devs, o)
	must(t, err)
	var out []check.Finding
	for _, f := range r.Findings {
		if f.Severity == check.Error {
			out = append(out, f)
		}
	}
	return out
}

// goOn writes on where the power was cut.
func (c *crash) goOn(at int, s crashState, what string) {
	t := c.t
	fail := func(err error) {
		if err != nil {
			t.Fatalf("event %d, %s, gone on: %v", at, what, err)
		}
	}
	f, err := btrfs.OpenDevices(t.Context(), s.devices(), btrfs.Options{Writable: true, Degraded: s.degraded()})
	fail(err)
	defer f.Close()
	top, err := f.TopLevel(t.Context())
	fail(err)
	e, err := top.Edit()
	fail(err)
	now := time.Unix(1, 0)
	fail(e.Chtimes(t.Context(), "/", &now, &now))
	fail(f.Sync(t.Context()))
	fail(f.Verify())
	c.check(at, s, what+", gone on", false)
}

// export shows a state to btrfs check and to the kernel, which must see the same
// files.
func (c *crash) export(s crashState) {
	t := c.t
	var images []string
	for _, l := range s {
		if l != nil {
			images = append(images, save(t, l))
		}
	}
	// Linux sets the times of what loses names when it replays a log.
	fields := manifest.All &^ (manifest.Mtime | manifest.Ctime)
	if c.w.bulky {
		fields &^= manifest.SHA256
	}
	// And it takes how to compress from the property, which a log may hold for an
	// inode of which it says no more than that it is there.
	if logged(t, images, c.w.options(images, false)) {
		fields &^= manifest.Flags
	}
	ours := c.files(s, images)
	// The low-memory mode misses what is gone of a subvolume that is dropped.
	// Data is verified from all mirrors, and what btrfs check 6.2 and 6.19 rebuild
	// from right parity is wrong where a run of checksums crosses stripes.
	// What a missing device of RAID6 held it does not read at all.
	if o := (oracle.CheckOptions{Data: !c.w.parity() && !s.degraded(), NoLowmem: true}); (!c.w.parity() || !s.degraded()) && c.w.known(t) {
		for _, line := range oracle.Complaints(t, o, images...) {
			if !s.degraded() || !missingDevice.MatchString(line) {
				t.Errorf("btrfs check: %s", line)
			}
		}
	}
	m := c.w.mounted(t, images)
	oracle.RequireSame(t, oracle.HostManifest(t, m.Dir, oracle.HostOptions{NoContents: c.w.bulky}), ours, fields)
	// A commit, as the copies of the superblock may still be old.
	must(t, os.Chtimes(m.Dir, time.Unix(1, 0), time.Unix(1, 0)))
	m.Sync()
	if !s.degraded() {
		oracle.Scrub(t, m.Dir)
	}
	m.Unmount()
	for _, image := range images {
		must(t, os.Remove(image))
	}
}

// logged says whether a filesystem has a log.
func logged(t *testing.T, images []string, o btrfs.Options) bool {
	t.Helper()
	f, err := btrfs.Open(t.Context(), images[0], o)
	must(t, err)
	defer f.Close()
	return f.Super().LogRoot != 0
}

// files are those of a state that was saved in images.
func (c *crash) files(s crashState, images []string) (out []manifest.Entry) {
	if !c.w.bulky {
		return imageManifest(c.t, images[0], c.w.options(images, false))
	}
	b, err := s.listing()
	must(c.t, err)
	for e, err := range manifest.Read(bytes.NewReader(b)) {
		must(c.t, err)
		out = append(out, e)
	}
	return out
}

// recordWorkload runs a workload and notes what each commit showed.
func recordWorkload(t *testing.T, w *crashWorkload, devs disks, rnd *rand.Rand) *eventLog {
	t.Helper()
	log := &eventLog{devs: devs}
	log.look()
	must(t, log.err)
	var recorded []blockdev.Device
	for i, d := range devs {
		if d != nil {
			recorded = append(recorded, &recorder{d, i, log})
		}
	}
	c := w.start(t, recorded, len(recorded) < len(devs), rnd)
	c.log = log
	// What is refused is refused here as well.
	err := w.run(c)
	if cause := c.f.Failed(); cause != nil {
		err = cause
	}
	must(t, err)
	must(t, c.sync())
	must(t, c.f.Close())
	must(t, log.err)
	return log
}

// start is begin where nothing can fail.
func (w *crashWorkload) start(t *testing.T, devs []blockdev.Device, degraded bool, rnd *rand.Rand) *crashRun {
	t.Helper()
	c, err := w.begin(devs, degraded, rnd)
	must(t, err)
	return c
}

// begin opens a filesystem for a workload.
func (w *crashWorkload) begin(devs []blockdev.Device, degraded bool, rnd *rand.Rand) (*crashRun, error) {
	ctx := context.Background()
	o := w.open
	// A clock that stands: commits are where the operations put them.
	o.Writable, o.Degraded, o.Clock = true, degraded, clock.NewManual(time.Unix(1e9, 0))
	f, err := btrfs.OpenDevices(ctx, devs, o)
	if err != nil {
		return nil, err
	}
	c := &crashRun{ctx: ctx, f: f, rnd: rnd, part: 1}
	top, err := f.TopLevel(ctx)
	if err == nil {
		c.e, err = top.Edit()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	c.w = &ourSide{Editor: c.e, w: f.Writer()}
	return c, nil
}

// listing is the manifest of a filesystem as bytes.
func listing(devs ...blockdev.Device) ([]byte, error) { return listingWith(btrfs.Options{}, devs) }

func listingWith(o btrfs.Options, devs []blockdev.Device) ([]byte, error) {
	ctx := context.Background()
	f, err := btrfs.OpenDevices(ctx, devs, o)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	top, err := f.TopLevel(ctx)
	if err != nil {
		return nil, err
	}
	return listingOf(ctx, top)
}

func listingOf(ctx context.Context, top *btrfs.Subvolume) ([]byte, error) {
	root, err := top.Root(ctx)
	if err != nil {
		return nil, err
	}
	var b []byte
	for n, err := range report.Walk(ctx, root) {
		if err != nil {
			return nil, err
		}
		e, err := entryOf(ctx, n.File, n.Path)
		if err != nil {
			return nil, err
		}
		b = manifest.Append(b, &e, manifest.All)
	}
	return b, nil
}

// entryOf is the manifest's entry of a file, except that the hash is of its data
// and their places: what is preallocated takes no time.
func entryOf(ctx context.Context, f *btrfs.File, path string) (manifest.Entry, error) {
	e, err := report.Describe(ctx, f, path, manifest.All&^manifest.SHA256)
	if err != nil || e.Type != 'f' {
		return e, err
	}
	h, buf, end := sha256.New(), make([]byte, 64<<10), int64(0)
	for x, err := range f.Extents(ctx, 0) {
		if err != nil {
			return e, err
		}
		if !x.IsData() {
			continue
		}
		off, to := int64(x.Start), min(int64(x.End), f.Size())
		if off != end {
			fmt.Fprintf(h, "at %d\n", off)
		}
		for off < to {
			n, err := f.ReadAtContext(ctx, buf[:min(int64(len(buf)), to-off)], off)
			if err != nil && (err != io.EOF || n == 0) {
				return e, err
			}
			h.Write(buf[:n])
			off += int64(n)
		}
		end = to
	}
	e.Has |= manifest.SHA256
	h.Sum(e.SHA256[:0])
	return e, nil
}

// load reads an image into memory, holes kept.
func load(t *testing.T, image string) *blockdev.Memory {
	t.Helper()
	fi, err := os.Stat(image)
	must(t, err)
	m := blockdev.NewMemory(fi.Size())
	f, err := os.Open(image)
	must(t, err)
	defer f.Close()
	for _, r := range oracle.DataRanges(t, image) {
		b := make([]byte, r.End-r.Start)
		_, err := f.ReadAt(b, r.Start)
		must(t, err)
		_, err = m.WriteAt(b, r.Start)
		must(t, err)
	}
	return m
}

// save writes a device to an image, holes kept.
func save(t *testing.T, l *layer) string {
	t.Helper()
	path := filepath.Join(oracle.Dir(t), "state.img")
	f, err := blockdev.OpenFile(path, blockdev.FileOptions{Create: true, Size: l.Size()})
	must(t, err)
	below, n := l.Memory.Written()
	buf := make([]byte, n)
	for _, off := range below {
		part := buf[:min(n, l.Size()-off)]
		_, err := l.Memory.ReadAt(part, off)
		must(t, err)
		_, err = f.WriteAt(part, off)
		must(t, err)
	}
	for i, page := range l.pages {
		_, err := f.WriteAt(page[:], i*crashPage)
		must(t, err)
	}
	must(t, f.Close())
	return path
}
