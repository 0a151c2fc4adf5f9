package fstree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/lockrank"
	"gobtrfs/internal/space"
)

// DefaultDirtyBytes is how much written contents wait in memory at most, if
// WriterOptions says nothing.
const DefaultDirtyBytes = 128 << 20

const (
	// maxPendingRuns bounds the stretches that wait: each holds a promise of
	// metadata, and an insertion into a file's moves those behind it.
	maxPendingRuns = 4096
	// What a file and each of its stretches may cost, in items: an extent, its
	// checksums, the extent that is cut for it; and the inode.
	itemsFile = 2
	itemsRun  = 3
	// itemsBytes of contents may need one more item.
	itemsBytes = 4 << 20
)

// Ranks of the locks of pending contents. They are taken under the writer.
const (
	rankPending lockrank.Rank = 70 + iota
	rankBacklog
	rankNumbers
)

type fileKey struct{ sub, ino disk.ObjectID }

func (k fileKey) compare(o fileKey) int {
	return cmp.Or(cmp.Compare(k.sub, o.sub), cmp.Compare(k.ino, o.ino))
}

// pendingFile is a regular file with contents that were written by callers and
// are in no extent yet, or one that somebody is working on.
//
//	segs ──flush: take──> out ──extents are in the tree──> gone
//	 ^──────── failed ─────┘
//
// Readers of the running state see the tree, over it out, over it segs. Who
// changes extents of the file, to flush or to truncate, holds busy; writers do
// not, so they go on while out is on its way to the device.
type pendingFile struct {
	key   fileKey
	log   *backlog
	busy  chan struct{} // a semaphore; I/O allowed; before the writer
	users int           // protected by backlog.mu

	mu      lockrank.Mutex
	segs    segments    // protected by mu, as what follows
	out     segments    // read-only while it is not empty; changed by the holder of busy
	data    uint64      // promised for segs, in bytes
	items   space.Bytes // promised for segs
	known   bool        // size and flags are those of the inode, and it may be written
	size    uint64      // of the inode in the tree
	flags   uint64      // of the inode
	wrote   disk.Time   // of the last write, while stamped
	stamped bool        // the inode in the tree does not tell wrote
	queued  bool        // in backlog.queue; protected by backlog.mu
	gone    bool        // the inode was removed
}

// backlog is all pending contents of a filesystem.
type backlog struct {
	limit uint64 // of bytes

	mu    lockrank.Mutex
	files map[fileKey]*pendingFile // protected by mu, as what follows
	queue []*pendingFile           // those that have contents, the oldest first
	bytes uint64                   // of all segments, those under way too
	runs  int                      // of all segs
	room  chan struct{}            // closed, and made anew, when bytes fall or a writer leaves
	// admitted is what writers bring who were let in and have not left; held
	// counts those who were not.
	admitted uint64
	held     int
	// flushing counts flushes in the background; failed is why the last one
	// ended, for one writer to be told.
	flushing int
	failed   error
	closed   bool
	aging    bool // a goroutine waits to call expire
	expire   func()
	wg       sync.WaitGroup
}

// Waiting is how many bytes of contents each subvolume has that are in no
// extent yet.
func (w *Writer) Waiting() map[disk.ObjectID]uint64 {
	b := w.late
	b.mu.Lock()
	files := slices.Collect(maps.Values(b.files))
	b.mu.Unlock()
	n := make(map[disk.ObjectID]uint64)
	for _, f := range files {
		f.mu.Lock()
		n[f.key.sub] += f.segs.bytes() + f.out.bytes()
		f.mu.Unlock()
	}
	return n
}

func newBacklog(limit uint64) *backlog {
	if limit == 0 {
		limit = DefaultDirtyBytes
	}
	b := &backlog{limit: limit, files: make(map[fileKey]*pendingFile), room: make(chan struct{})}
	b.mu.Init(rankBacklog, 0)
	return b
}

// get finds or makes the entry of a file. Give it back with put.
func (b *backlog) get(k fileKey) *pendingFile {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.files[k]
	if f == nil {
		f = &pendingFile{key: k, log: b, busy: make(chan struct{}, 1)}
		f.mu.Init(rankPending, 0)
		b.files[k] = f
	}
	f.users++
	return f
}

// find is the entry of a file that has one, else nil. It stays good while the
// writer is held.
func (b *backlog) find(k fileKey) *pendingFile {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.files[k]
}

func (b *backlog) put(f *pendingFile) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.users--
	b.forget(f)
}

// forget drops an entry that nobody needs. mu must be held.
func (b *backlog) forget(f *pendingFile) {
	if f.users == 0 && !f.queued && b.files[f.key] == f {
		delete(b.files, f.key)
	}
}

// account enters a change of a file's segments.
func (b *backlog) account(f *pendingFile, bytes, runs int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes += uint64(bytes)
	b.runs += runs
	if !f.queued && len(f.segs) > 0 {
		f.queued = true
		b.queue = append(b.queue, f)
		if !b.aging && !b.closed && b.expire != nil {
			b.aging = true
			b.wg.Go(b.expire)
		}
	}
	if bytes < 0 {
		b.wakeLocked()
	}
}

// idle takes a file that has nothing to flush out of the queue.
func (b *backlog) idle(f *pendingFile) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.queued && len(f.segs) == 0 && len(f.out) == 0 {
		f.queued = false
		b.queue = slices.DeleteFunc(b.queue, func(g *pendingFile) bool { return g == f })
		b.forget(f)
	}
}

// sizeLocked is the size that readers see. mu must be held.
func (f *pendingFile) sizeLocked() uint64 { return max(f.size, f.segs.end(), f.out.end()) }

// promise is what pending contents need until they are in extents.
type promise struct {
	data  uint64 // bytes
	items int
}

// costLocked is what n bytes at off, in the sectors from from to to, need
// beyond what is promised already. mu must be held.
func (f *pendingFile) costLocked(off, n, from, to, sector uint64) promise {
	p := promise{data: f.segs.untouched(from, to, sector)}
	end := off + n
	if len(f.segs) == 0 {
		// The first or the last sector of before may have to be written anew.
		p.data += 2 * sector
		p.items = itemsFile + itemsRun
	} else if i := f.segs.from(off); i > 0 && f.segs[i-1].end() == off || i < len(f.segs) && f.segs[i].off <= end {
		p.items = 0
	} else {
		p.items = itemsRun
	}
	if off/itemsBytes != (end-1)/itemsBytes {
		p.items += int(n/itemsBytes) + 1
	}
	return p
}

// write adds contents that are paid for. mu must be held.
func (f *pendingFile) writeLocked(p []byte, off uint64, now disk.Time) {
	runs, grown := len(f.segs), len(p)-int(f.segs.within(off, off+uint64(len(p))))
	f.segs.write(p, off)
	f.wrote, f.stamped = now, true
	f.log.account(f, grown, len(f.segs)-runs)
}

// writePending writes p to memory. The file is read before if that was not
// done yet.
func (w *Writer) writePending(ctx context.Context, k fileKey, p []byte, off uint64) error {
	if err := w.admit(ctx, uint64(len(p))); err != nil {
		return err
	}
	defer w.late.leave(uint64(len(p)))
	f := w.late.get(k)
	defer w.late.put(f)
	sector := w.tx.SectorSize()
	from, to := off/sector*sector, roundUp(off+uint64(len(p)), sector)
	var have promise
	var paid space.Bytes
	defer func() {
		w.tx.ReleaseData(have.data)
		w.tx.ReleaseItems(paid)
	}()
	now := w.tx.Now()
	for {
		f.mu.Lock()
		if !f.known {
			f.mu.Unlock()
			if err := w.learn(ctx, f); err != nil {
				return err
			}
			continue
		}
		if err := f.mayWriteLocked(off); err != nil {
			f.mu.Unlock()
			return err
		}
		need := f.costLocked(off, uint64(len(p)), from, to, sector)
		if need.data <= have.data && need.items <= have.items {
			f.data += need.data
			have.data -= need.data
			if need.items > 0 { // else what was promised is not needed any more
				f.items += paid
				paid = 0
			}
			f.writeLocked(p, off, now)
			f.mu.Unlock()
			w.flushSoon()
			return nil
		}
		inPlace := f.flags&(disk.InodeNoDataCow|disk.InodePrealloc) != 0
		f.mu.Unlock()
		if err := w.pay(ctx, k.sub, need, &have, &paid); err != nil {
			if inPlace && errors.Is(err, syscall.ENOSPC) {
				return w.writeInPlace(ctx, k, p, off)
			}
			return err
		}
	}
}

// pay raises a promise to what is needed.
func (w *Writer) pay(ctx context.Context, sub disk.ObjectID, need promise, have *promise, paid *space.Bytes) error {
	if err := w.charge(ctx, sub, need.data-min(need.data, have.data), need.items-min(need.items, have.items), w.Commit); err != nil {
		return err
	}
	if need.data > have.data {
		if err := w.tx.ReserveData(ctx, need.data-have.data, space.ClassNormal); err != nil {
			return err
		}
		have.data = need.data
	}
	if need.items > have.items {
		n, err := w.tx.ReserveItems(ctx, need.items-have.items, space.ClassNormal)
		if err != nil {
			return err
		}
		have.items = need.items
		*paid += n
	}
	return nil
}

func (f *pendingFile) mayWriteLocked(off uint64) error {
	ino := uint64(f.key.ino)
	switch {
	case f.gone:
		return fmt.Errorf("inode %d of subvolume %d: %w", ino, uint64(f.key.sub), syscall.ENOENT)
	case f.flags&disk.InodeImmutable != 0:
		return fmt.Errorf("inode %d is immutable: %w", ino, syscall.EPERM)
	case f.flags&disk.InodeAppend != 0 && off < f.sizeLocked():
		return fmt.Errorf("inode %d may only be appended to: %w", ino, syscall.EPERM)
	}
	return nil
}

// learn reads the inode of a file that is to be written.
func (w *Writer) learn(ctx context.Context, f *pendingFile) error {
	return w.tx.Look(ctx, func(ctx context.Context) error {
		e, err := w.edit(ctx, f.key.sub)
		if err != nil {
			return err
		}
		file := fileEdit{edit: e}
		item, err := file.open(ctx, f.key.ino)
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.known, f.size, f.flags = true, item.Size, item.Flags
		f.mu.Unlock()
		return nil
	})
}

// admit waits until less waits in memory than may, what others who were let in
// bring included: more than the limit is there by one writer's contents at most.
// Who is let in leaves.
func (w *Writer) admit(ctx context.Context, n uint64) error {
	b := w.late
	for {
		b.mu.Lock()
		err := b.failed
		b.failed = nil
		if b.closed {
			err = space.ErrClosed
		}
		if err != nil || !b.fullLocked() {
			if err == nil {
				b.admitted += n
			}
			b.mu.Unlock()
			return err
		}
		room := b.room
		b.held++
		b.mu.Unlock()
		w.flushSoon()
		select {
		case <-room:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		b.mu.Lock()
		b.held--
		b.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// leave is the end of what admit let in: its contents are in memory, or nothing
// came of it.
func (b *backlog) leave(n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.admitted -= n
	if b.held > 0 && !b.fullLocked() {
		b.wakeLocked()
	}
}

func (b *backlog) fullLocked() bool {
	return b.bytes+b.admitted >= b.limit || b.runs >= maxPendingRuns
}

// wakeLocked has those who wait look again.
func (b *backlog) wakeLocked() {
	close(b.room)
	b.room = make(chan struct{})
}

// maxFlushes is how many flushes run in the background: while one is in the
// trees the other writes to the device.
const maxFlushes = 2

// flushSoon starts a flush in the background if much waits.
func (w *Writer) flushSoon() {
	b := w.late
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.flushing == maxFlushes || b.bytes < b.limit/2 && b.runs < maxPendingRuns/2 {
		return
	}
	b.flushing++
	b.wg.Go(func() {
		err := w.flushBelow(b.limit/4, maxPendingRuns/4)
		b.mu.Lock()
		b.flushing--
		b.mu.Unlock()
		if err != nil {
			b.fail(err)
		}
	})
}

// commitAged commits what has waited for the transaction's interval. A change
// in the trees starts an interval of the transaction's own, which contents in
// memory do not.
func (w *Writer) commitAged() {
	b := w.late
	for more := true; more; {
		if w.tx.Clock().Sleep(w.ctx, w.tx.CommitInterval()) != nil {
			return
		}
		if err := w.Commit(w.ctx); err != nil {
			b.fail(err)
		}
		b.mu.Lock()
		more = len(b.queue) > 0
		b.aging = more
		b.mu.Unlock()
	}
}

// fail has a writer told of a failure in the background.
func (b *backlog) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = err
	b.wakeLocked()
}

// absorb shows an inode as writes have left it that are not in the tree. Of
// its times only: the size comes with the contents.
func (b *backlog) absorb(k fileKey, item *disk.InodeItem) {
	if f := b.find(k); f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.absorbLocked(item)
	}
}

func (f *pendingFile) absorbLocked(item *disk.InodeItem) {
	if f.stamped {
		item.Mtime, item.Ctime = f.wrote, f.wrote
	}
}

// overlay shows an inode as readers of the running state see it, but for the
// space that it takes. f may be nil: nothing waits.
func (f *pendingFile) overlay(item *disk.InodeItem) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.absorbLocked(item)
	item.Size = max(item.Size, f.segs.end(), f.out.end())
}

// note learns of a change of an inode in the tree.
func (b *backlog) note(k fileKey, item *disk.InodeItem) {
	if f := b.find(k); f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.size, f.flags = item.Size, item.Flags
		if f.stamped && !later(f.wrote, item.Ctime) {
			f.stamped = false
		}
	}
}

func later(a, b disk.Time) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }

// read lays pending contents over p, which the tree has filled as far as the
// file reaches there: what follows is zeros.
func (f *pendingFile) read(p []byte, off uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out.copyTo(p, off)
	f.segs.copyTo(p, off)
}

// touched are the sectors that have pending contents.
func (f *pendingFile) touched(sector uint64) []span {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.out) == 0 {
		return f.segs.spans(sector)
	}
	both := slices.Concat(f.out, f.segs)
	slices.SortFunc(both, func(a, b segment) int { return cmp.Compare(a.off, b.off) })
	return both.spans(sector)
}

// unlearn makes writers ask again whether they may write to a subvolume.
func (b *backlog) unlearn(sub disk.ObjectID) {
	for _, f := range b.ofSubvol(sub) {
		f.mu.Lock()
		f.known = false
		f.mu.Unlock()
	}
}

func (b *backlog) ofSubvol(sub disk.ObjectID) []*pendingFile {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []*pendingFile
	for k, f := range b.files {
		if k.sub == sub {
			out = append(out, f)
		}
	}
	return out
}

// forgetInode drops the pending contents of a file whose inode goes. What is on its
// way to the device finds that out when it comes to the tree.
//
// REQUIRES: the writer.
func (w *Writer) forgetInode(k fileKey) {
	if f := w.late.find(k); f != nil {
		w.dropFile(f)
	}
}

func (w *Writer) dropFile(f *pendingFile) {
	f.mu.Lock()
	bytes, runs := f.segs.bytes(), len(f.segs)
	data, items := f.data, f.items
	f.segs, f.data, f.items, f.stamped, f.gone = nil, 0, 0, false, true
	w.late.account(f, -int(bytes), -runs)
	w.late.idle(f)
	f.mu.Unlock()
	w.tx.ReleaseData(data)
	w.tx.ReleaseItems(items)
}

// forgetSubvol is forgetInode for all files of a subvolume that goes.
//
// REQUIRES: the writer.
func (w *Writer) forgetSubvol(sub disk.ObjectID) {
	for _, f := range w.late.ofSubvol(sub) {
		w.dropFile(f)
	}
}

// Close ends background work and forgets what is not committed.
func (w *Writer) Close() {
	w.stop()
	b := w.late
	b.mu.Lock()
	b.closed = true
	b.wakeLocked()
	b.mu.Unlock()
	b.wg.Wait()
}
