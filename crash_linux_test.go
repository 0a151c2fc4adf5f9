package btrfs_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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

var (
	crashSeed   = flag.Uint64("crash.seed", 1, "seed of the crash states")
	crashStates = flag.Int("crash.states", 300, "crash states to reopen")
	crashChecks = flag.Int("crash.checks", 8, "crash states to show to btrfs check")
)

// recorder keeps everything that is written to a device, and when it was
// flushed.
type recorder struct {
	blockdev.Device
	mu     sync.Mutex
	events []event // protected by mu
}

// event is a write, or a flush (data is nil).
type event struct {
	off  int64
	data []byte
}

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event{off, bytes.Clone(p)})
	return r.Device.WriteAt(p, off)
}

func (r *recorder) Sync() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event{})
	return r.Device.Sync()
}

// committed is what was durable when an event had happened.
type committed struct {
	after int // events
	files []byte
}

// listing is the manifest of a filesystem as bytes.
func listing(d blockdev.Device) ([]byte, error) {
	ctx := context.Background()
	f, err := btrfs.OpenDevices(ctx, []blockdev.Device{d}, btrfs.Options{})
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
func save(t *testing.T, d blockdev.Device) string {
	t.Helper()
	path := filepath.Join(oracle.Dir(t), "state.img")
	f, err := blockdev.OpenFile(path, blockdev.FileOptions{Create: true, Size: d.Size()})
	must(t, err)
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < d.Size(); off += int64(len(buf)) {
		n := min(int64(len(buf)), d.Size()-off)
		_, err := d.ReadAt(buf[:n], off)
		must(t, err)
		if !bytes.Equal(buf[:n], zero[:n]) {
			_, err = f.WriteAt(buf[:n], off)
			must(t, err)
		}
	}
	must(t, f.Close())
	return path
}

// TestCrashStates cuts the power at every point of a workload, and in between:
// of the writes since the last flush any may be on the device, others not, one
// of them torn. Each state must open and show one of the commits, none older
// than the last that was acknowledged; btrfs check looks at some.
func TestCrashStates(t *testing.T) { crashStatesOf(t, false) }

// TestCrashStatesOfFsync is TestCrashStates with an fsync after some of the
// operations: what was logged must be found like what was committed.
func TestCrashStatesOfFsync(t *testing.T) { crashStatesOf(t, true) }

func crashStatesOf(t *testing.T, fsyncs bool) {
	t.Helper()
	oracle.Need(t, oracle.Progs)
	t.Logf("-crash.seed=%d", *crashSeed)
	rnd := rand.New(rand.NewPCG(*crashSeed, 0))
	before := load(t, oracle.Mkfs(t, 256<<20, [][]string{{}, {"-n", "4096"}, {"-m", "single"}}[*crashSeed%3]...))
	rec, commits := crashWorkload(t, before.Clone(), rnd, fsyncs)
	states := 0
	durable := before.Clone() // everything up to the last flush
	var open []event          // writes since then
	judge := func(at int, d *blockdev.Memory, what string) {
		states++
		got, err := listing(d)
		if err != nil {
			t.Fatalf("event %d, %s: %v", at, what, err)
		}
		oldest := 0
		for i, c := range commits {
			if c.after <= at {
				oldest = i
			}
		}
		if !slices.ContainsFunc(commits[oldest:], func(c committed) bool { return bytes.Equal(c.files, got) }) {
			t.Fatalf("event %d, %s: shows none of the commits from %d on", at, what, oldest)
		}
		r, err := check.Run(t.Context(), []blockdev.Device{d}, check.Options{VerifyData: true, Workers: 1, NoPaths: true})
		must(t, err)
		if r.Errors > 0 {
			t.Fatalf("event %d, %s: %v", at, what, r.Findings)
		}
		if states%max(1, *crashStates / *crashChecks) == 0 {
			oracle.CheckWith(t, oracle.CheckOptions{Data: true}, save(t, d))
		}
	}
	each := max(1, *crashStates/len(rec.events))
	for at, e := range rec.events {
		if e.data == nil {
			apply(t, durable, open)
			open = nil
			judge(at, durable.Clone(), "flushed")
			continue
		}
		open = append(open, e)
		if fsyncs && at%4 != int(*crashSeed%4) {
			continue // there are many more of them
		}
		for range each {
			d := durable.Clone()
			apply(t, d, someOf(rnd, open))
			judge(at, d, "some of the writes")
		}
		d := durable.Clone()
		apply(t, d, open)
		judge(at, d, "in order")
	}
	t.Logf("%d events, %d commits, %d states", len(rec.events), len(commits), states)
}

func apply(t *testing.T, d blockdev.Device, events []event) {
	t.Helper()
	for _, e := range events {
		_, err := d.WriteAt(e.data, e.off)
		must(t, err)
	}
}

// someOf drops and shuffles writes, and tears one. Copies of the superblock
// are one sector of 4 KiB, which a device writes whole.
func someOf(rnd *rand.Rand, events []event) []event {
	var out []event
	keep := rnd.IntN(10)
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

// crashWorkload runs random edits with a commit now and then.
func crashWorkload(t *testing.T, m *blockdev.Memory, rnd *rand.Rand, fsyncs bool) (*recorder, []committed) {
	t.Helper()
	ctx := context.Background()
	files, err := listing(m)
	must(t, err)
	commits := []committed{{0, files}}
	rec := &recorder{Device: m}
	// A clock that stands: commits are where the operations put them.
	f, err := btrfs.OpenDevices(ctx, []blockdev.Device{rec}, btrfs.Options{Writable: true, Clock: clock.NewManual(time.Unix(1e9, 0))})
	must(t, err)
	defer f.Close()
	top, err := f.TopLevel(ctx)
	must(t, err)
	e, err := top.Edit()
	must(t, err)
	w := &ourSide{Editor: e, w: f.Writer()}
	gen := opMaker{rnd: rnd}
	last := f.Super().Generation
	note := func() {
		if f.Super().Generation == last {
			return
		}
		last = f.Super().Generation
		files, err := listing(m)
		must(t, err)
		commits = append(commits, committed{len(rec.events), files})
	}
	for range 12 {
		for range rnd.IntN(60) {
			// What is refused is refused here as well.
			o := gen.next()
			err := o.onOurs(ctx, w)
			if fsyncs {
				gen.learn(o, err)
			}
			if err != nil && f.Failed() != nil {
				t.Fatal(fmt.Errorf("workload: %w", err))
			}
			if fsyncs { // btrfs check dislikes orphans with attributes
				must(t, w.release(ctx))
			}
			note() // snapshots commit by themselves
			if fsyncs && len(gen.live) > 0 && rnd.IntN(4) == 0 {
				if err := e.Fsync(ctx, gen.live[rnd.IntN(len(gen.live))], false); err != nil && f.Failed() != nil {
					t.Fatal(fmt.Errorf("fsync: %w", err))
				}
				last = 0 // what is logged counts as much as what is committed
				note()
			}
		}
		must(t, f.Sync(ctx))
		note()
	}
	return rec, commits
}
