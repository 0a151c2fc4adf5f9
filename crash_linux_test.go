package btrfs_test

import (
	"bytes"
	"context"
	"flag"
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
	crashStates = flag.Int("crash.states", 30, "crash states of each workload to reopen")
	crashChecks = flag.Int("crash.checks", 1, "crash states of each workload to show to btrfs check and the kernel")
)

// recorder keeps everything that is written to a device, and when it was
// flushed, in a log that the devices of a filesystem share.
type recorder struct {
	blockdev.Device
	dev int
	log *eventLog
}

type eventLog struct {
	mu     sync.Mutex
	events []event
	// devs are looked at when a superblock was flushed, for what the commit
	// shows; nil: never.
	devs    disks
	super   bool // a superblock was written and not flushed
	commits []committed
	err     error
}

func (l *eventLog) add(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
	switch {
	case l.devs == nil:
	case e.data != nil:
		l.super = l.super || e.off == disk.SuperInfoOffset
	case l.super:
		l.super = false
		l.look()
	}
}

// look notes what the devices show. mu must be held.
func (l *eventLog) look() {
	files, err := listing(l.devs.devices()...)
	if err != nil {
		l.err = err
		return
	}
	l.commits = append(l.commits, committed{len(l.events), files})
}

// event is a write, or a flush (data is nil).
type event struct {
	dev  int
	off  int64
	data []byte
}

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	r.log.add(event{r.dev, off, bytes.Clone(p)})
	return r.Device.WriteAt(p, off)
}

func (r *recorder) Sync() error {
	err := r.Device.Sync()
	r.log.add(event{dev: r.dev})
	return err
}

// committed is what was durable when an event had happened.
type committed struct {
	after int // events
	files []byte
}

// listing is the manifest of a filesystem as bytes.
func listing(devs ...blockdev.Device) ([]byte, error) {
	ctx := context.Background()
	f, err := btrfs.OpenDevices(ctx, devs, btrfs.Options{})
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

// TestCrashStates cuts the power at every point of workloads, and in between:
// of the writes since the last flush any may be on the device, others not, one
// of them torn. Each state must open and show one of the commits, none older
// than the last that was acknowledged; our check looks at all, btrfs check and
// the kernel at some (T10).
func TestCrashStates(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	t.Logf("-crash.seed=%d", *crashSeed)
	for i, w := range crashWorkloads {
		t.Run(w.name, func(t *testing.T) {
			crashStatesOf(t, &w, rand.New(rand.NewPCG(*crashSeed, uint64(i))))
		})
	}
}

// disks are the devices of a filesystem.
type disks []*blockdev.Memory

func (d disks) clone() disks {
	out := make(disks, len(d))
	for i := range d {
		out[i] = d[i].Clone()
	}
	return out
}

func (d disks) devices() []blockdev.Device {
	out := make([]blockdev.Device, len(d))
	for i := range d {
		out[i] = d[i]
	}
	return out
}

func (d disks) apply(t *testing.T, events []event) {
	t.Helper()
	for _, e := range events {
		_, err := d[e.dev].WriteAt(e.data, e.off)
		must(t, err)
	}
}

func crashStatesOf(t *testing.T, w *crashWorkload, rnd *rand.Rand) {
	t.Helper()
	var before disks
	for _, image := range oracle.MkfsN(t, w.devices, w.size, w.mkfs...) {
		before = append(before, load(t, image))
	}
	log := recordWorkload(t, w, before.clone(), rnd)
	commits := log.commits
	states, exported := 0, 0
	durable := before.clone() // everything up to the last flush
	var open []event          // writes since then
	judge := func(at int, d disks, what string) {
		states++
		got, err := listing(d.devices()...)
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
		if bad := checkErrors(t, d.devices(), !w.bulky); bad != nil {
			t.Fatalf("event %d, %s: %v", at, what, bad)
		}
		if states%max(1, *crashStates / *crashChecks) == 0 {
			exported++
			exportState(t, d)
		}
	}
	// As many states between two events as were asked for, or one in some.
	each := float64(*crashStates-len(log.events)) / float64(max(1, len(log.events)))
	skip := float64(*crashStates) / float64(len(log.events))
	due, turn := 0.0, 0.0
	for at, e := range log.events {
		if turn += skip; turn < 1 && at < len(log.events)-1 {
			open = landed(t, durable, open, e)
			continue
		}
		turn = min(turn-1, 1)
		open = landed(t, durable, open, e)
		if e.data == nil {
			judge(at, durable.clone(), "flushed")
			continue
		}
		for due += max(0, each); due >= 1; due-- {
			d := durable.clone()
			d.apply(t, someOf(rnd, open))
			judge(at, d, "some of the writes")
		}
		d := durable.clone()
		if rnd.IntN(2) == 0 {
			d.apply(t, open)
			judge(at, d, "in order")
		} else {
			d.apply(t, someOf(rnd, open))
			judge(at, d, "some of the writes")
		}
	}
	t.Logf("%d events, %d commits, %d states, %d exported", len(log.events), len(commits), states, exported)
}

// checkErrors is what our check finds wrong.
func checkErrors(t *testing.T, devs []blockdev.Device, data bool) []check.Finding {
	t.Helper()
	r, err := check.Run(t.Context(), devs, check.Options{VerifyData: data, Workers: 1, NoPaths: true})
	must(t, err)
	var out []check.Finding
	for _, f := range r.Findings {
		if f.Severity == check.Error {
			out = append(out, f)
		}
	}
	return out
}

// landed notes an event: a flush makes the writes to its device durable. What
// comes back is what is not.
func landed(t *testing.T, durable disks, open []event, e event) []event {
	t.Helper()
	if e.data != nil {
		return append(open, e)
	}
	rest := open[:0:0]
	for _, w := range open {
		if w.dev == e.dev {
			durable.apply(t, []event{w})
		} else {
			rest = append(rest, w)
		}
	}
	return rest
}

// exportState shows a state to btrfs check and to the kernel.
func exportState(t *testing.T, d disks) {
	t.Helper()
	var images []string
	for _, dev := range d {
		images = append(images, save(t, dev))
	}
	// The low-memory mode misses what is gone of a subvolume that is dropped.
	oracle.CheckWith(t, oracle.CheckOptions{Data: true, NoLowmem: true}, images...)
	for _, mode := range []string{"ro", "rw"} {
		m := oracle.Mount(t, mode+",subvolid=5", images...)
		if mode == "rw" {
			// A commit, as the copies of the superblock may still be old.
			must(t, os.Chtimes(m.Dir, time.Unix(1, 0), time.Unix(1, 0)))
			m.Sync()
			oracle.Scrub(t, m.Dir)
		}
		m.Unmount()
	}
	for _, image := range images {
		must(t, os.Remove(image))
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

// recordWorkload runs a workload and notes what each commit showed.
func recordWorkload(t *testing.T, w *crashWorkload, devs disks, rnd *rand.Rand) *eventLog {
	t.Helper()
	ctx := context.Background()
	log := &eventLog{devs: devs}
	log.look()
	var recorded []blockdev.Device
	for i, d := range devs {
		recorded = append(recorded, &recorder{d, i, log})
	}
	// A clock that stands: commits are where the operations put them.
	f, err := btrfs.OpenDevices(ctx, recorded, btrfs.Options{Writable: true, Clock: clock.NewManual(time.Unix(1e9, 0))})
	must(t, err)
	top, err := f.TopLevel(ctx)
	must(t, err)
	e, err := top.Edit()
	must(t, err)
	c := &crashRun{ctx: ctx, f: f, e: e, w: &ourSide{Editor: e, w: f.Writer()}, rnd: rnd}
	// What is refused is refused here as well.
	err = w.run(c)
	if cause := f.Failed(); cause != nil {
		err = cause
	}
	must(t, err)
	must(t, f.Sync(ctx))
	must(t, f.Close())
	must(t, log.err)
	return log
}
