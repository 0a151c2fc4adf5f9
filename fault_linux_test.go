package btrfs_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/clock"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

// faulty fails one write or flush: the one with the number at. From then on
// it fails everything if forEver is set.
type faulty struct {
	blockdev.Device
	at      int64
	forEver bool
	short   bool // a write that fails has written half
	n       atomic.Int64
}

var errFault = errors.New("injected fault")

func (d *faulty) fails() bool {
	n := d.n.Add(1)
	return n == d.at || d.forEver && n > d.at
}

func (d *faulty) WriteAt(p []byte, off int64) (int, error) {
	if !d.fails() {
		return d.Device.WriteAt(p, off)
	}
	if d.short && len(p) > disk.SuperInfoSize { // a superblock is written whole
		n, _ := d.Device.WriteAt(p[:len(p)/1024*512], off)
		return n, errFault
	}
	return 0, errFault
}

func (d *faulty) Sync() error {
	if d.fails() {
		return errFault
	}
	return d.Device.Sync()
}

// TestDeviceFaults fails every write and every flush of a workload in turn.
// The error is the device's and nothing else, later changes are refused, what
// was committed can still be read, and the device shows a commit.
func TestDeviceFaults(t *testing.T) {
	oracle.Need(t, oracle.Progs)
	ctx := context.Background()
	before := load(t, oracle.Mkfs(t, 256<<20))
	// The same seed makes the same operations; what each fault cuts off is a
	// prefix of them.
	run := func(d blockdev.Device) (states [][]byte, err error) {
		f, err := btrfs.OpenDevices(ctx, []blockdev.Device{d}, btrfs.Options{Writable: true, Clock: clock.NewManual(time.Unix(1e9, 0))})
		if err != nil {
			return nil, err
		}
		defer f.Close()
		top, err := f.TopLevel(ctx)
		must(t, err)
		e, err := top.Edit()
		must(t, err)
		w := &ourSide{Editor: e, w: f.Writer()}
		gen := opMaker{rnd: rand.New(rand.NewPCG(7, 7))}
		last := f.Super().Generation
		note := func() { // snapshots commit by themselves
			if g := f.Super().Generation; g != last {
				files, err := listing(d)
				must(t, err)
				last, states = g, append(states, files)
			}
		}
		for range 6 {
			for range 25 {
				err := gen.next().onOurs(ctx, w)
				if cause := f.Failed(); cause != nil {
					if _, err := top.Root(ctx); err != nil && !errors.Is(err, syscall.ESTALE) {
						t.Errorf("after a fault the last commit cannot be read: %v", err)
					}
					if err := e.Mkdir(ctx, "/after", btrfs.Attr{}); !errors.Is(err, errFault) {
						t.Errorf("a change after a fault: %v", err)
					}
					return states, cause
				}
				if errors.Is(err, errFault) {
					return states, err
				}
				note()
			}
			if err := f.Sync(ctx); err != nil {
				return states, err
			}
			note()
		}
		return states, nil
	}
	count := &faulty{Device: before.Clone()}
	states, err := run(count)
	must(t, err)
	empty, err := listing(before)
	must(t, err)
	states = append(states, empty)
	total := count.n.Load()
	step := max(1, total/60)
	for at := int64(1); at <= total; at += step {
		m := before.Clone()
		d := &faulty{Device: m, at: at, forEver: at%2 == 0, short: at%3 == 0}
		if _, err := run(d); !errors.Is(err, errFault) {
			t.Fatalf("fault %d of %d: %v", at, total, err)
		}
		got, err := listing(m)
		if err != nil {
			t.Fatalf("fault %d: %v", at, err)
		}
		// Times differ from run to run, sizes and names do not.
		if !slices.ContainsFunc(states, func(s []byte) bool { return bytes.Equal(shape(t, s), shape(t, got)) }) {
			t.Errorf("fault %d: the device does not show a commit", at)
		}
		r, err := check.Run(ctx, []blockdev.Device{m}, check.Options{VerifyData: true, NoPaths: true})
		must(t, err)
		if r.Errors > 0 {
			t.Fatalf("fault %d: %v", at, r.Findings)
		}
	}
	t.Logf("%d device operations", total)
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
