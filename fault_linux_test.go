package btrfs_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

var (
	faultSeed  = flag.Uint64("fault.seed", 1, "seed of the workloads in which device operations fail, and of the kinds of failure")
	faultPart  = flag.Int("fault.part", 4, "how small a part of each workload is done: one in so many rounds")
	faultSteps = flag.Int("fault.steps", 12, "device operations of each workload that fail, one in each run, in one of the ways; 0: all of them, in all ways")
)

// fault is the failure of one device operation.
type fault struct {
	n       atomic.Int64 // operations so far, of all devices
	at      int64        // the number of the one that fails; 0: none
	cause   error
	short   bool // a write that fails has written half
	forEver bool // from then on everything on that device fails
	fired   atomic.Bool
}

// faultKinds are the ways in which an operation fails.
var faultKinds = []fault{
	{cause: syscall.EIO}, {cause: syscall.EIO, short: true}, {cause: syscall.EIO, forEver: true},
	{cause: syscall.ENOSPC, short: true}, {cause: syscall.ENOSPC, forEver: true},
}

var errFault = errors.New("injected fault")

// faulty is a device with a fault.
type faulty struct {
	blockdev.Device
	*fault
	dead atomic.Bool
}

// fails says whether the next operation does.
func (d *faulty) fails() error {
	if d.n.Add(1) == d.at {
		d.fired.Store(true)
		d.dead.Store(d.forEver)
	} else if !d.dead.Load() {
		return nil
	}
	return fmt.Errorf("%w: %w", errFault, d.cause)
}

func (d *faulty) ReadAt(p []byte, off int64) (int, error) {
	if err := d.fails(); err != nil {
		return 0, err
	}
	return d.Device.ReadAt(p, off)
}

func (d *faulty) WriteAt(p []byte, off int64) (int, error) {
	err := d.fails()
	if err == nil {
		return d.Device.WriteAt(p, off)
	}
	if d.short && len(p) > disk.SuperInfoSize { // a superblock is written whole
		n, _ := d.Device.WriteAt(p[:len(p)/1024*512], off)
		return n, err
	}
	return 0, err
}

func (d *faulty) Discard(off, n int64) error {
	if err := d.fails(); err != nil {
		return err
	}
	return d.Device.Discard(off, n)
}

func (d *faulty) Sync() error {
	if err := d.fails(); err != nil {
		return err
	}
	return d.Device.Sync()
}

// TestDeviceFaults fails every device operation of workloads in turn: reads,
// writes, of which half may be written, discards and flushes. Whoever is told of
// it is told the device's error and nothing else; later changes are refused; what
// was committed can still be read; nobody waits for ever, and no goroutine is
// left. The devices show a commit, none older than what was acknowledged, and all
// of it if nobody was told of a failure.
func TestDeviceFaults(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	t.Logf("-fault.seed=%d", *faultSeed)
	workloads := slices.Clone(crashWorkloads)
	for seed := range uint64(4) {
		w := drawWorkload(*faultSeed*4+seed, rand.New(rand.NewPCG(*faultSeed, seed)))
		workloads = append(workloads, *w)
	}
	for i, w := range workloads {
		t.Run(w.name, func(t *testing.T) { faultsOf(t, &w, uint64(i)) })
	}
}

// faultTest is a workload that runs again and again.
type faultTest struct {
	t      *testing.T
	w      *crashWorkload
	before disks
	nr     uint64
	// What the devices show after commits and when all is done, without times,
	// which differ from run to run; and how many commits were there when a sync
	// or an fsync was done.
	commits [][]byte
	acks    []int
}

func faultsOf(t *testing.T, w *crashWorkload, nr uint64) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(*faultSeed, nr))
	x := &faultTest{t: t, w: w, before: w.prepare(t, rnd), nr: nr}
	var none fault
	x.whole(&none)
	total := none.n.Load()
	step, ways := int64(1), len(faultKinds)
	if *faultSteps > 0 {
		step, ways = max(1, total/int64(*faultSteps)), 1
	}
	runs, told := 0, 0
	start := time.Now()
	for at := 1 + int64(*faultSeed)%step; at <= total; at += step {
		for way := range ways {
			kind := &faultKinds[(way+int(at)+int(*faultSeed))%len(faultKinds)]
			runs++
			if x.run(&fault{at: at, cause: kind.cause, short: kind.short, forEver: kind.forEver}) {
				told++
			}
		}
	}
	t.Logf("%d device operations, %d runs in which one failed, %d were told of it; %v", total, runs, told, time.Since(start).Round(time.Millisecond))
}

// whole runs the workload without a fault.
func (x *faultTest) whole(none *fault) {
	devs := x.before.clone()
	log := &eventLog{devs: devs}
	log.look()
	var recorded []blockdev.Device
	for i, d := range devs {
		if d != nil {
			recorded = append(recorded, &recorder{d, i, log})
		}
	}
	c, err := x.open(recorded, none)
	must(x.t, err)
	c.log, c.acked = log, func() { x.acks = append(x.acks, len(log.commits)) }
	must(x.t, x.w.run(c))
	must(x.t, c.sync())
	must(x.t, c.f.Close())
	must(x.t, log.err)
	for _, k := range log.commits {
		x.commits = append(x.commits, shape(x.t, k.files))
	}
}

// open starts a part of the workload on devices with a fault.
func (x *faultTest) open(devs []blockdev.Device, f *fault) (*crashRun, error) {
	var faults []blockdev.Device
	for _, d := range devs {
		faults = append(faults, &faulty{Device: d, fault: f})
	}
	c, err := x.w.begin(faults, len(faults) < len(x.before), rand.New(rand.NewPCG(*faultSeed, x.nr)))
	if err == nil {
		c.part = *faultPart
	}
	return c, err
}

// run runs the workload with a fault, and says whether anybody was told of it.
func (x *faultTest) run(f *fault) bool {
	t := x.t
	what := fmt.Sprintf("operation %d fails with %v, short %v, for ever %v", f.at, f.cause, f.short, f.forEver)
	goroutines := runtime.NumGoroutine()
	s, err := newCrashState(x.before, nil)
	must(t, err)
	acked := 0
	err = x.once(s.devices(), f, &acked)
	// Whose first superblock cannot be read opens for reading only, by the others.
	if err != nil && !errors.Is(err, errFault) && !errors.Is(err, btrfs.ErrReadOnly) {
		t.Fatalf("%s: %v", what, err)
	}
	for wait := 0; runtime.NumGoroutine() > goroutines; wait++ {
		if wait == 1000 {
			t.Fatalf("%s: %d goroutines, %d before", what, runtime.NumGoroutine(), goroutines)
		}
		time.Sleep(time.Millisecond)
	}
	got, lerr := s.listing()
	if lerr != nil {
		t.Fatalf("%s: %v", what, lerr)
	}
	oldest := 0
	switch {
	case err == nil:
		oldest = len(x.commits) - 1
	case acked > 0:
		oldest = x.acks[acked-1] - 1
	}
	files := shape(t, got)
	if !slices.ContainsFunc(x.commits[oldest:], func(s []byte) bool { return bytes.Equal(s, files) }) {
		t.Fatalf("%s (%v): the devices do not show a commit from %d on", what, err, oldest)
	}
	for _, bad := range checkErrors(t, s.devices(), check.Options{VerifyData: true, Degraded: s.degraded()}) {
		if bad.Code != check.CodeParity || err == nil {
			t.Fatalf("%s (%v): %v", what, err, bad)
		}
	}
	return err != nil
}

// once is a run up to the fault, and a look around afterwards.
func (x *faultTest) once(devs []blockdev.Device, f *fault, acked *int) error {
	t := x.t
	timer := time.AfterFunc(5*time.Minute, func() { panic("a run with a fault does not end") })
	defer timer.Stop()
	c, err := x.open(devs, f)
	if err != nil {
		return err
	}
	defer c.f.Close()
	c.acked = func() { *acked++ }
	err = x.w.run(c)
	if err == nil {
		err = c.sync()
	}
	if c.f.Failed() == nil {
		return err
	}
	if top, rerr := c.f.TopLevel(c.ctx); rerr == nil && !f.forEver {
		if _, rerr := top.Root(c.ctx); rerr != nil && !errors.Is(rerr, syscall.ESTALE) {
			t.Errorf("after a fault the last commit cannot be read: %v", rerr)
		}
	}
	if aerr := c.e.Mkdir(c.ctx, "/after", btrfs.Attr{}); !errors.Is(aerr, errFault) {
		t.Errorf("a change after a fault: %v", aerr)
	}
	return err
}

// shape is a listing without what depends on the time of the run.
func shape(t *testing.T, files []byte) []byte {
	t.Helper()
	var b []byte
	for e, err := range manifest.Read(bytes.NewReader(files)) {
		must(t, err)
		b = manifest.Append(b, &e, manifest.All&^(manifest.Mtime|manifest.Ctime|manifest.Btime))
	}
	return b
}
