package btrfs_test

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"sync"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/disk"
)

// event is a write, a discard (no data) or a flush (nothing at all).
type event struct {
	dev  int
	off  int64
	data []byte
	n    int64 // bytes discarded
}

func (e *event) flush() bool { return e.data == nil && e.n == 0 }

// super says whether the event is a copy of the superblock, one sector, which a
// device writes whole or not at all.
func (e *event) super() bool {
	return len(e.data) == disk.SuperInfoSize && (e.off == disk.SuperInfoOffset || e.off == 64<<20 || e.off == 256<<30)
}

func (e *event) to(d blockdev.Device) error {
	if e.data == nil {
		return d.Discard(e.off, e.n)
	}
	_, err := d.WriteAt(e.data, e.off)
	return err
}

// recorder keeps everything that is written to a device, and when it was
// flushed, in a log that the devices of a filesystem share.
type recorder struct {
	blockdev.Device
	dev int
	log *eventLog
}

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	r.log.add(event{dev: r.dev, off: off, data: bytes.Clone(p)})
	return r.Device.WriteAt(p, off)
}

func (r *recorder) Discard(off, n int64) error {
	r.log.add(event{dev: r.dev, off: off, n: n})
	return r.Device.Discard(off, n)
}

func (r *recorder) Sync() error {
	err := r.Device.Sync()
	r.log.add(event{dev: r.dev})
	return err
}

type eventLog struct {
	mu     sync.Mutex
	events []event
	// devs are looked at when a superblock was flushed, for what the commit
	// shows; nil: never.
	devs    disks
	supers  map[int]bool // devices with a superblock that was written and not flushed
	commits []committed
	err     error
}

// committed is what was durable when that many events had happened.
type committed struct {
	after int
	files []byte
}

func (l *eventLog) add(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
	switch {
	case l.devs == nil:
	case !e.flush():
		if e.super() && e.off == disk.SuperInfoOffset {
			if l.supers == nil {
				l.supers = make(map[int]bool)
			}
			l.supers[e.dev] = true
		}
	case l.supers[e.dev]:
		// All copies are written before any is flushed.
		if delete(l.supers, e.dev); len(l.supers) == 0 {
			l.look()
		}
	}
}

// look notes what the devices show. mu must be held.
func (l *eventLog) look() {
	files, err := l.devs.listing()
	if err != nil {
		l.err = err
		return
	}
	l.commits = append(l.commits, committed{len(l.events), files})
}

// last is what the last commit shows.
func (l *eventLog) last() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.commits[len(l.commits)-1].files
}

// disks are the devices of a filesystem; nil: missing.
type disks []*blockdev.Memory

func (d disks) clone() disks {
	out := make(disks, len(d))
	for i := range d {
		if d[i] != nil {
			out[i] = d[i].Clone()
		}
	}
	return out
}

func (d disks) devices() (out []blockdev.Device) {
	for _, m := range d {
		if m != nil {
			out = append(out, m)
		}
	}
	return out
}

func (d disks) listing() ([]byte, error) {
	devs := d.devices()
	return listingWith(btrfs.Options{Degraded: len(devs) < len(d)}, devs)
}

const crashPage = 4096

// layer is a device over another one, which it leaves as it is.
type layer struct {
	*blockdev.Memory
	mu    sync.RWMutex
	pages map[int64]*[crashPage]byte // what differs; protected by mu
}

func newLayer(m *blockdev.Memory) *layer {
	return &layer{Memory: m, pages: make(map[int64]*[crashPage]byte)}
}

func (l *layer) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.Memory.ReadAt(p, off)
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.pages) == 0 {
		return n, err
	}
	for done := 0; done < n; {
		pos := off + int64(done)
		in := int(pos % crashPage)
		size := min(n-done, crashPage-in)
		if page := l.pages[pos/crashPage]; page != nil {
			copy(p[done:done+size], page[in:])
		}
		done += size
	}
	return n, err
}

func (l *layer) WriteAt(p []byte, off int64) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for done := 0; done < len(p); {
		pos := off + int64(done)
		page, err := l.own(pos / crashPage)
		if err != nil {
			return done, err
		}
		done += copy(page[pos%crashPage:], p[done:])
	}
	return len(p), nil
}

// own is a page to be changed. mu must be held.
func (l *layer) own(i int64) (*[crashPage]byte, error) {
	page := l.pages[i]
	if page == nil {
		page = new([crashPage]byte)
		if _, err := l.Memory.ReadAt(page[:], i*crashPage); err != nil {
			return nil, err
		}
		l.pages[i] = page
	}
	return page, nil
}

// Discard zeroes what was written, here and below.
func (l *layer) Discard(off, n int64) error {
	zero, buf := make([]byte, 64<<10), make([]byte, 64<<10)
	for end := off + n; off < end; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-off)]
		if _, err := l.ReadAt(buf, off); err != nil && err != io.EOF {
			return err
		}
		if bytes.Equal(buf, zero[:len(buf)]) {
			continue
		}
		if _, err := l.WriteAt(zero[:len(buf)], off); err != nil {
			return err
		}
	}
	return nil
}

// crashState is what a power cut leaves of the devices; nil: missing.
type crashState []*layer

func newCrashState(d disks, events []event) (crashState, error) {
	s := make(crashState, len(d))
	for i := range d {
		if d[i] != nil {
			s[i] = newLayer(d[i])
		}
	}
	for _, e := range events {
		if err := e.to(s[e.dev]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s crashState) devices() (out []blockdev.Device) {
	for _, l := range s {
		if l != nil {
			out = append(out, l)
		}
	}
	return out
}

func (s crashState) degraded() bool {
	for _, l := range s {
		if l == nil {
			return true
		}
	}
	return false
}

func (s crashState) listing() ([]byte, error) {
	return listingWith(btrfs.Options{Degraded: s.degraded()}, s.devices())
}

var pageSeed = maphash.MakeSeed()

// pageID is a term for a page with its contents; sums of them tell states apart.
func pageID(dev int, page int64, contents []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(pageSeed)
	var at [16]byte
	binary.LittleEndian.PutUint64(at[:], uint64(dev))
	binary.LittleEndian.PutUint64(at[8:], uint64(page))
	h.Write(at[:])
	h.Write(contents)
	return h.Sum64()
}

// change is what the state's pages add to the sum of the pages below.
func (s crashState) change() (sum uint64) {
	var old [crashPage]byte
	for dev, l := range s {
		if l == nil {
			continue
		}
		for i, page := range l.pages {
			if _, err := l.Memory.ReadAt(old[:], i*crashPage); err != nil || old == *page {
				continue
			}
			sum += pageID(dev, i, page[:]) - pageID(dev, i, old[:])
		}
	}
	return sum
}

// settle makes the state the devices' contents.
func (s crashState) settle() error {
	for _, l := range s {
		if l == nil {
			continue
		}
		for i, page := range l.pages {
			if _, err := l.Memory.WriteAt(page[:], i*crashPage); err != nil {
				return err
			}
		}
	}
	return nil
}

// someOf drops and shuffles writes, and tears some of them.
func someOf(rnd *rand.Rand, events []event) (out []event) {
	keep, torn := rnd.IntN(11), pick(rnd, 0, 1, 1, 4)
	var kept []event
	ordered := false // what was written after a discard is not discarded
	for _, e := range events {
		if rnd.IntN(10) < keep {
			kept = append(kept, e)
			ordered = ordered || e.data == nil
		}
	}
	if !ordered {
		rnd.Shuffle(len(kept), func(i, j int) { kept[i], kept[j] = kept[j], kept[i] })
	}
	for _, e := range kept {
		if !e.super() && len(e.data) >= 1024 && rnd.IntN(len(kept)) < torn {
			out = append(out, tear(rnd, e)...)
		} else {
			out = append(out, e)
		}
	}
	return out
}

// tear is what landed of a write that was under way: its beginning, its end, or
// any of its sectors.
func tear(rnd *rand.Rand, e event) (out []event) {
	const sector = 512
	n := len(e.data) / sector
	part := func(from, to int) {
		if from < to {
			out = append(out, event{dev: e.dev, off: e.off + int64(from)*sector, data: e.data[from*sector : to*sector]})
		}
	}
	switch at := rnd.IntN(n + 1); rnd.IntN(3) {
	case 0:
		part(0, at)
	case 1:
		part(at, n)
	default:
		for from := 0; from < n; {
			to := min(n, from+1+rnd.IntN(1+n/4))
			if rnd.IntN(2) == 0 {
				part(from, to)
			}
			from = to
		}
	}
	return out
}
