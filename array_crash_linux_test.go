package btrfs_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/clock"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/report"
)

// arrayLog is what was written to the devices of an array, in order.
type arrayLog struct {
	mu     sync.Mutex
	events []arrayEvent // protected by mu
}

type arrayEvent struct {
	dev int
	event
}

// arrayMember is a device whose writes and flushes are logged.
type arrayMember struct {
	blockdev.Device
	log *arrayLog
	nr  int
}

func (m *arrayMember) note(e event) {
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	m.log.events = append(m.log.events, arrayEvent{m.nr, e})
}

func (m *arrayMember) WriteAt(p []byte, off int64) (int, error) {
	m.note(event{off: off, data: bytes.Clone(p)})
	return m.Device.WriteAt(p, off)
}

func (m *arrayMember) Sync() error {
	m.note(event{})
	return m.Device.Sync()
}

// arrayState is the devices of an array; nil: missing.
type arrayState []*blockdev.Memory

func (s arrayState) clone() arrayState {
	out := make(arrayState, len(s))
	for i, m := range s {
		if m != nil {
			out[i] = m.Clone()
		}
	}
	return out
}

func (s arrayState) devices() (out []blockdev.Device) {
	for _, m := range s {
		if m != nil {
			out = append(out, m)
		}
	}
	return out
}

func (s arrayState) listing(ctx context.Context) ([]byte, error) {
	f, err := btrfs.OpenDevices(ctx, s.devices(), btrfs.Options{Degraded: true})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	top, err := f.TopLevel(ctx)
	if err != nil {
		return nil, err
	}
	root, err := top.Root(ctx)
	if err != nil {
		return nil, err
	}
	var b []byte
	for e, err := range report.Manifest(ctx, root, manifest.All) {
		if err != nil {
			return nil, err
		}
		b = manifest.Append(b, &e, manifest.All)
	}
	return b, nil
}

// TestArrayCrashStates is TestCrashStates for full stripes: what is torn may be
// a member of a row, or its parity. It is done with all members there, and with
// one missing, when nothing but parity holds the bytes of that one.
func TestArrayCrashStates(t *testing.T) {
	oracle.Need(t, oracle.Root, oracle.Progs, oracle.Loop)
	specs := []string{"3 -d raid5 -m raid5", "4 -d raid6 -m raid6", "4 -d raid10 -m raid10"}
	for _, degraded := range []bool{false, true} {
		spec := specs[*crashSeed%uint64(len(specs))]
		t.Run(fmt.Sprint(spec, " degraded=", degraded), func(t *testing.T) {
			c := newArrayCrash(t, spec, degraded)
			c.run(*crashStates / 4)
			t.Logf("-crash.seed=%d: %d events, %d commits, %d states, %d torn rows", *crashSeed, len(c.log.events), len(c.commits), c.states, c.torn)
		})
	}
}

// arrayCrash is one workload and the states that its crashes leave.
type arrayCrash struct {
	t       *testing.T
	rnd     *rand.Rand
	before  arrayState
	log     arrayLog
	commits []committed
	states  int
	torn    int // rows with torn parity, in all states
}

func newArrayCrash(t *testing.T, spec string, degraded bool) *arrayCrash {
	t.Helper()
	c := &arrayCrash{t: t, rnd: rand.New(rand.NewPCG(*crashSeed, 5))}
	for _, image := range newArray(spec).make(t, 256<<20) {
		c.before = append(c.before, load(t, image))
	}
	if degraded {
		// Something must lie on the missing member.
		c.workload(c.before, 2)
		c.before[c.rnd.IntN(len(c.before))] = nil
		c.log.events, c.commits = nil, nil
	}
	c.workload(c.before.clone(), 6)
	return c
}

// workload runs random edits on devices, with a commit now and then.
func (c *arrayCrash) workload(s arrayState, commits int) {
	t, ctx := c.t, c.t.Context()
	files, err := s.listing(ctx)
	must(t, err)
	c.commits = append(c.commits, committed{0, files})
	var devs []blockdev.Device
	for i, m := range s {
		if m != nil {
			devs = append(devs, &arrayMember{m, &c.log, i})
		}
	}
	f, err := btrfs.OpenDevices(ctx, devs, btrfs.Options{Writable: true, Degraded: true, Clock: clock.NewManual(time.Unix(1e9, 0))})
	must(t, err)
	defer f.Close()
	top, err := f.TopLevel(ctx)
	must(t, err)
	e, err := top.Edit()
	must(t, err)
	w, gen := &ourSide{Editor: e, w: f.Writer()}, opMaker{rnd: c.rnd}
	last := f.Super().Generation
	note := func() {
		if g := f.Super().Generation; g != last {
			last = g
			files, err := s.listing(ctx)
			must(t, err)
			c.commits = append(c.commits, committed{len(c.log.events), files})
		}
	}
	for range commits {
		for range 20 + c.rnd.IntN(40) {
			if err := gen.next().onOurs(ctx, w); err != nil && f.Failed() != nil {
				t.Fatal(fmt.Errorf("workload: %w", err))
			}
			note()
		}
		must(t, f.Sync(ctx))
		note()
	}
}

// run looks at about n states.
func (c *arrayCrash) run(n int) {
	durable := c.before.clone()
	var open []arrayEvent // written and not flushed
	every := max(1, len(c.log.events)/max(1, n))
	for at, e := range c.log.events {
		if e.data == nil {
			open = slices.DeleteFunc(open, func(o arrayEvent) bool {
				if o.dev != e.dev {
					return false
				}
				_, err := durable[o.dev].WriteAt(o.data, o.off)
				must(c.t, err)
				return true
			})
			continue
		}
		open = append(open, e)
		if at%every != 0 {
			continue
		}
		s := durable.clone()
		for _, e := range someOfArray(c.rnd, open) {
			_, err := s[e.dev].WriteAt(e.data, e.off)
			must(c.t, err)
		}
		c.judge(at, s)
	}
	c.judge(len(c.log.events), durable)
}

// someOfArray is someOf for the writes of several devices.
func someOfArray(rnd *rand.Rand, events []arrayEvent) (out []arrayEvent) {
	keep := rnd.IntN(11)
	for _, e := range events {
		if rnd.IntN(10) < keep {
			out = append(out, e)
		}
	}
	rnd.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	if len(out) > 0 {
		if e := &out[rnd.IntN(len(out))]; len(e.data) > disk.SuperInfoSize {
			e.data = e.data[:rnd.IntN(len(e.data)/512)*512]
		}
	}
	return out
}

// judge wants a state to show one of the commits, none older than the last that
// was acknowledged, and to be without a fault.
func (c *arrayCrash) judge(at int, s arrayState) {
	t := c.t
	c.states++
	got, err := s.listing(t.Context())
	if err != nil {
		t.Fatalf("event %d: %v", at, err)
	}
	oldest := 0
	for i, k := range c.commits {
		if k.after <= at {
			oldest = i
		}
	}
	if !slices.ContainsFunc(c.commits[oldest:], func(k committed) bool { return bytes.Equal(k.files, got) }) {
		t.Fatalf("event %d: shows none of the commits from %d on", at, oldest)
	}
	// It can be written again, too: nobody takes the crash for missed commits.
	f, err := btrfs.OpenDevices(t.Context(), s.clone().devices(), btrfs.Options{Writable: true, Degraded: slices.Contains(s, nil)})
	if err != nil {
		t.Fatalf("event %d: %v", at, err)
	}
	must(t, f.Verify())
	must(t, f.Close())
	if slices.Contains(s, nil) {
		return
	}
	r, err := check.Run(t.Context(), s.devices(), check.Options{VerifyData: true, Workers: 1, NoPaths: true})
	must(t, err)
	torn := 0 // rows whose parity a scrub must make anew
	for _, f := range r.Findings {
		if f.Code == check.CodeParity {
			torn++
		} else if f.Severity == check.Error {
			t.Errorf("event %d: %v", at, f)
		}
	}
	if torn > 0 && at == len(c.log.events) {
		t.Errorf("parity of %d rows is wrong after the last commit", torn)
	}
	c.torn += torn
	if c.states%max(1, *crashStates / *crashChecks) == 0 {
		var images []string
		for _, m := range s {
			images = append(images, save(t, m))
		}
		oracle.CheckWith(t, oracle.CheckOptions{Data: true}, images...)
	}
}
