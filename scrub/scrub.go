// Package scrub reads every copy of every block in use, on every device, and
// verifies it: tree blocks and data by their checksums, data without checksums
// by comparing its copies, RAID5 and RAID6 by their parity. With Repair, bad
// copies are overwritten with what a good one has, and nothing else is written.
//
// A planner walks the extent tree and the checksum tree side by side and cuts
// what is in use into units; workers read and verify them. When the context
// ends the units under way are finished, so that State says exactly from where
// to go on.
package scrub

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/clock"
	"gobtrfs/internal/volume"
)

// Options of a scrub.
type Options struct {
	// Repair overwrites bad copies with good ones. The devices must be open for
	// writing. Default: nothing is written.
	Repair bool
	// BytesPerSecond limits how much is read, over all devices. Default: 0, no
	// limit.
	BytesPerSecond uint64
	// Workers is the number of goroutines. Default: GOMAXPROCS, at least 2.
	Workers int
	// Resume goes on where an earlier scrub of the same filesystem stopped.
	// Default: nil, from the beginning.
	Resume *State
	// Problem is called for everything that is wrong; it must be safe for
	// concurrent use. Default: nobody is told, the numbers are in the report.
	Problem func(Problem)
	// Progress is called now and then with the bytes verified so far and those
	// in use, copies counted; from one goroutine. Default: nobody is told.
	Progress func(done, total uint64)
	// Clock is for the rate limit. Default: the system's.
	Clock clock.Clock
}

// Kind says what kind of block a problem is about.
type Kind string

// Kinds of problems.
const (
	KindSuper  Kind = "superblock"
	KindTree   Kind = "tree-block"
	KindData   Kind = "data"
	KindNoSum  Kind = "data-without-checksum" // its copies differ
	KindParity Kind = "parity"
	// KindParityNoSum: parity of nothing but data without checksums, or of space
	// that is only preallocated, which may have none.
	KindParityNoSum Kind = "parity-without-checksum"
	KindRead        Kind = "read" // the device did not give the bytes
)

// Problem is one bad block of one copy.
type Problem struct {
	Kind        Kind         `json:"kind"`
	Dev         disk.DevID   `json:"dev,omitempty"`
	DevName     string       `json:"dev_name,omitempty"`
	Physical    uint64       `json:"physical,omitempty"`
	Logical     disk.Logical `json:"logical,omitempty"`
	Length      uint64       `json:"length"`
	Mirror      int          `json:"mirror,omitempty"`
	Tree        bool         `json:"tree,omitempty"` // of a KindRead: what could not be read is a tree block
	What        string       `json:"what"`
	Correctable bool         `json:"correctable"` // another copy is good
	Corrected   bool         `json:"corrected"`
}

func (p *Problem) String() string {
	s := fmt.Sprintf("%s: %s (logical %d, mirror %d, device %d %s, physical %d, %d bytes)", p.Kind, p.What, uint64(p.Logical), p.Mirror, uint64(p.Dev), p.DevName, p.Physical, p.Length)
	switch {
	case p.Corrected:
		s += ", corrected"
	case !p.Correctable:
		s += ", no good copy"
	}
	return s
}

// DeviceStats counts for one device what btrfs scrub status -R counts, by the
// same names.
type DeviceStats struct {
	Dev                  disk.DevID `json:"dev"`
	Name                 string     `json:"name"`
	DataExtentsScrubbed  uint64     `json:"data_extents_scrubbed"`
	TreeExtentsScrubbed  uint64     `json:"tree_extents_scrubbed"`
	DataBytesScrubbed    uint64     `json:"data_bytes_scrubbed"`
	TreeBytesScrubbed    uint64     `json:"tree_bytes_scrubbed"`
	ReadErrors           uint64     `json:"read_errors"`
	CsumErrors           uint64     `json:"csum_errors"`   // blocks of data
	VerifyErrors         uint64     `json:"verify_errors"` // tree blocks, parity, differing copies
	NoCsum               uint64     `json:"no_csum"`       // sectors of data without checksums
	SuperErrors          uint64     `json:"super_errors"`
	UncorrectableErrors  uint64     `json:"uncorrectable_errors"`
	UnverifiedErrors     uint64     `json:"unverified_errors"` // copies without checksums that differ
	CorrectedErrors      uint64     `json:"corrected_errors"`
	LastPhysical         uint64     `json:"last_physical"`
	ParityBytesScrubbed  uint64     `json:"parity_bytes_scrubbed"`
	MissingBytesScrubbed uint64     `json:"missing_bytes"` // that could not be read because the device is missing
}

// State is where a scrub stopped.
type State struct {
	FSID       disk.UUID     `json:"fsid"`
	Generation disk.TransID  `json:"generation"`
	Next       disk.Logical  `json:"next"` // everything below has been scrubbed
	Finished   bool          `json:"finished"`
	Devices    []DeviceStats `json:"devices"`
}

// Report is the outcome.
type Report struct {
	State
	Errors      uint64 // problems found, in all parts of a scrub that was resumed
	Uncorrected uint64 // of those, not corrected
}

// ErrOtherFilesystem is returned when the state to resume from is not of the
// filesystem.
var ErrOtherFilesystem = errors.New("the saved state is of another filesystem")

// Run opens the filesystem on devs and scrubs it. When ctx ends the report says
// where to go on, and the error is that of the context.
func Run(ctx context.Context, devs []blockdev.Device, o Options) (*Report, error) {
	vol, err := volume.Open(ctx, devs, volume.Options{Degraded: true})
	if err != nil {
		return nil, err
	}
	return Verify(ctx, vol, o)
}

// Verify is Run on an open volume.
func Verify(ctx context.Context, vol *volume.Volume, o Options) (*Report, error) {
	if o.Workers <= 0 {
		o.Workers = max(2, runtime.GOMAXPROCS(0))
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if err := vol.MayWrite(); o.Repair && err != nil {
		return nil, fmt.Errorf("repair: %w", err)
	}
	store, err := openTrees(ctx, vol)
	if err != nil {
		return nil, err
	}
	s := &scrubber{o: o, vol: vol, sb: vol.Super(), trees: store, devs: make(map[disk.DevID]*deviceState)}
	s.geo = s.sb.Geometry()
	for _, d := range vol.Devices() {
		s.fsids = append(s.fsids, d.Item.FSID)
		s.devs[d.ID] = &deviceState{dev: d.Device, stats: DeviceStats{Dev: d.ID, Name: d.Name}}
	}
	s.fsids = append(s.fsids, s.sb.NodeFSID())
	return s.run(ctx)
}

// scrubber is one run.
type scrubber struct {
	o     Options
	vol   *volume.Volume
	sb    *disk.Superblock
	geo   disk.Geometry
	trees *trees
	fsids []disk.UUID

	mu     sync.Mutex // protects what follows
	devs   map[disk.DevID]*deviceState
	errors uint64
	left   uint64 // not corrected
	done   uint64
	total  uint64
}

// deviceState is one device and its numbers.
type deviceState struct {
	dev   blockdev.Device // nil: missing
	stats DeviceStats
}

func (s *scrubber) run(ctx context.Context) (*Report, error) {
	state := State{FSID: s.sb.FSID, Generation: s.sb.Generation}
	if r := s.o.Resume; r != nil {
		if r.FSID != s.sb.FSID {
			return nil, ErrOtherFilesystem
		}
		state.Next = r.Next
		for _, d := range r.Devices {
			if t := s.devs[d.Dev]; t != nil {
				d.Name = t.stats.Name
				t.stats = d
				s.errors += d.ReadErrors + d.CsumErrors + d.VerifyErrors + d.SuperErrors
				s.left += d.UncorrectableErrors + d.UnverifiedErrors
			}
		}
	}
	if state.Next == 0 {
		s.supers()
	}
	units, drained := make(chan *unit, queueUnits), make(chan struct{}, 1)
	var wg sync.WaitGroup
	errs := make([]error, s.o.Workers+1)
	// Units under way are finished when ctx ends, those that wait are left. They
	// are taken in order, so the first that is left says where to go on.
	work := context.WithoutCancel(ctx)
	for i := range s.o.Workers {
		wg.Go(func() {
			w := &worker{s: s}
			for ctx.Err() == nil {
				u, ok := <-units
				if !ok {
					return
				}
				if len(units) <= lowUnits {
					select {
					case drained <- struct{}{}:
					default:
					}
				}
				if err := w.verify(work, u); err != nil && errs[i] == nil {
					errs[i] = err
				}
			}
		})
	}
	p := &planner{s: s, out: units, drained: drained, next: state.Next}
	errs[s.o.Workers] = p.run(ctx)
	close(units)
	wg.Wait()
	state.Next = p.next
	err := errors.Join(errs...)
	if u, ok := <-units; ok {
		state.Next = u.start
		if err == nil {
			err = ctx.Err()
		}
	}
	state.Finished = err == nil
	r := &Report{State: state, Errors: s.errors, Uncorrected: s.left}
	for _, d := range s.vol.Devices() {
		r.Devices = append(r.Devices, s.devs[d.ID].stats)
	}
	if err == nil && s.o.Repair {
		err = s.vol.Sync()
	}
	return r, err
}

// count changes the numbers of one device.
func (s *scrubber) count(id disk.DevID, f func(*DeviceStats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.devs[id]; d != nil {
		f(&d.stats)
	}
}

// report counts a problem and tells about it.
func (s *scrubber) report(p Problem) {
	s.mu.Lock()
	s.errors++
	if !p.Corrected {
		s.left++
	}
	d := s.devs[p.Dev]
	if d != nil {
		p.DevName = d.stats.Name
		switch p.Kind {
		case KindRead:
			d.stats.ReadErrors++
		case KindData:
			d.stats.CsumErrors++
		case KindSuper:
			d.stats.SuperErrors++
		default:
			d.stats.VerifyErrors++
		}
		switch {
		case p.Corrected:
			d.stats.CorrectedErrors++
		case p.Kind == KindNoSum || p.Kind == KindParityNoSum || p.Kind == KindParity && !p.Correctable:
			d.stats.UnverifiedErrors++
		case !p.Correctable:
			d.stats.UncorrectableErrors++
		}
	}
	s.mu.Unlock()
	if s.o.Problem != nil {
		s.o.Problem(p)
	}
}

func (s *scrubber) progress(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done += n
	if s.o.Progress != nil {
		s.o.Progress(s.done, s.total)
	}
}
