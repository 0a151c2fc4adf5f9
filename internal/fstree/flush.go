package fstree

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/compress"
	"gobtrfs/internal/space"
	"gobtrfs/internal/txn"
)

const (
	// batchFiles and batchBytes bound what one operation of a flush enters in
	// the trees, but for a single file.
	batchFiles = 256
	batchBytes = 64 << 20
	// batchExtents is how many extents of one file it replaces: each means
	// work for the commit that its reserve must be enough for.
	batchExtents = 1000
)

// flight is what one file has under way to the device.
type flight struct {
	f      *pendingFile
	direct bool     // out is the caller's, not the pending file's
	out    segments // what is written
	rest   segments // what is left for another operation
	data   uint64   // promised and not used yet, in bytes
	items  space.Bytes

	// As prepare found the file.
	runs    []run
	size    uint64 // when this is written
	sums    bool
	inPlace bool              // what it has may be written over
	encoder *compress.Encoder // nil: not to be compressed
	force   bool              // without asking whether that is likely to pay
	keep    bool              // the file is not marked if it does not
	inline  []byte            // of a file that goes into its item, instead of runs
	inComp  disk.Compression
	isIn    bool

	placed []placed
	failed bool // compression did not pay
	gone   bool // the inode was removed
}

// run is a stretch of whole sectors that are written.
type run struct {
	from, to uint64
	end      uint64   // where the contents end that were written: the file's new size is no less
	b        [][]byte // whole sectors each
}

// flush writes contents of files to the device and enters them in the trees:
// first all contents, without the writer, then all files as one operation, or
// several if they replace many extents.
//
// REQUIRES: busy of all files.
func (w *Writer) flush(ctx context.Context, flights []*flight) error {
	ctx = context.WithoutCancel(ctx)
	for len(flights) > 0 {
		if err := w.flushOnce(ctx, flights); err != nil {
			return err
		}
		var more []*flight
		for _, l := range flights {
			if len(l.rest) > 0 {
				l.out, l.rest = l.rest, nil
				l.placed, l.failed = nil, false
				more = append(more, l)
			}
		}
		flights = more
	}
	return nil
}

// flushOnce is flush with one operation.
func (w *Writer) flushOnce(ctx context.Context, flights []*flight) error {
	err := w.tx.Look(ctx, func(ctx context.Context) error {
		for _, l := range flights {
			if err := w.prepare(ctx, l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	p := placer{w: w}
	for _, l := range flights {
		p.promised += l.data
	}
	if err := w.fillPlaces(ctx, &p, flights); err != nil {
		return p.undo(ctx, err)
	}
	op := txn.Operation{Items: itemsWrite, Class: space.ClassTransaction, Run: func(ctx context.Context) error {
		return w.enter(ctx, &p, flights)
	}}
	for _, l := range flights {
		op.Promised += l.items
		l.items = 0
	}
	if err := w.tx.Run(ctx, op); err != nil {
		if w.tx.Err() != nil {
			return err // no accounts are kept any more
		}
		return p.undo(ctx, err)
	}
	for _, l := range flights {
		l.data = 0
	}
	for _, l := range flights {
		if len(l.rest) > 0 { // no part of the promise is anybody's in particular
			l.data = p.promised
			return nil
		}
	}
	w.tx.ReleaseData(p.promised)
	return nil
}

// fillPlaces compresses what is to be compressed, finds places, and writes.
func (w *Writer) fillPlaces(ctx context.Context, p *placer, flights []*flight) error {
	var pieces []piece
	for _, l := range flights {
		for i := range l.runs {
			switch {
			case l.inPlace: // needs the writer
			case l.encoder != nil:
				q, failed := l.encode(w, &l.runs[i])
				l.failed = l.failed || failed && !l.keep
				pieces = append(pieces, q...)
			default:
				pieces = append(pieces, l.plain(&l.runs[i])...)
			}
		}
	}
	if err := p.place(ctx, pieces); err != nil {
		return err
	}
	return p.fill(ctx)
}

// prepare finds out how a file's contents are to be written, and completes
// them to whole sectors.
//
// REQUIRES: the writer.
func (w *Writer) prepare(ctx context.Context, l *flight) error {
	e, err := w.edit(ctx, l.f.key.sub)
	f := fileEdit{edit: e, ino: l.f.key.ino}
	if err == nil {
		f.item, err = e.inode(ctx, f.ino)
	}
	if errors.Is(err, syscall.ENOENT) {
		l.gone = true
		return nil
	} else if err != nil {
		return err
	}
	if err := l.limit(ctx, &f); err != nil {
		return err
	}
	sector := w.tx.SectorSize()
	l.runs, l.size = nil, max(f.item.Size, l.out.end())
	l.sums = f.item.Flags&disk.InodeNoDataSum == 0
	l.inPlace = f.item.Flags&(disk.InodeNoDataCow|disk.InodePrealloc) != 0
	if l.encoder, l.force, l.keep, err = f.encoder(ctx); err != nil {
		return err
	}
	inline, err := f.isInline(ctx)
	if err != nil {
		return err
	}
	spans := l.out.spans(sector)
	if l.size <= sector && !l.inPlace && (inline || f.item.NBytes == 0) {
		// A file is inline only as a whole.
		whole := make([]byte, l.size)
		if err := f.read(ctx, whole[:min(l.size, f.item.Size)], 0); err != nil {
			return err
		}
		l.out.copyTo(whole, 0)
		if l.tryInline(whole, sector) {
			return nil
		}
		spans = []span{{0, sector}}
	} else if inline && spans[0].from > 0 {
		spans = append([]span{{0, sector}}, spans...)
	}
	for _, s := range spans {
		r, err := l.gather(ctx, &f, s)
		if err != nil {
			return err
		}
		l.runs = append(l.runs, r)
	}
	return nil
}

// limit leaves what would replace more than batchExtents for later.
func (l *flight) limit(ctx context.Context, f *fileEdit) error {
	if f.item.NBytes == 0 {
		return nil
	}
	v, err := f.view(ctx)
	if err != nil {
		return err
	}
	n := 0
	for _, s := range l.out.spans(f.w.tx.SectorSize()) {
		it := v.treeExtents(ctx, f.ino, s.to, s.from)
		for it.Next() {
			if e := it.Extent(); !e.Hole {
				if n++; n == batchExtents {
					l.out, l.rest = l.out.split(e.End)
					return nil
				}
			}
		}
		if err := it.Err(); err != nil {
			return err
		}
	}
	return nil
}

// tryInline keeps small contents for the tree, compressed if that helps.
func (l *flight) tryInline(whole []byte, sector uint64) bool {
	if l.encoder != nil {
		if b, ok := l.encoder.CompressInline(nil, whole); ok && len(b) <= maxInline {
			l.isIn, l.inline, l.inComp = true, b, l.encoder.Spec().Algorithm
			return true
		}
	}
	l.isIn, l.inline, l.inComp = uint64(len(whole)) < sector && len(whole) <= maxInline, whole, disk.CompressNone
	return l.isIn
}

// gather makes a run of the segments in a span. Segments of whole sectors are
// used where they are; what is missing from the others comes from the file.
func (l *flight) gather(ctx context.Context, f *fileEdit, s span) (run, error) {
	r := run{from: s.from, to: s.to, end: min(s.to, l.size)}
	sector := f.w.tx.SectorSize()
	for at := s.from; at < s.to; {
		i := l.out.from(at)
		if i < len(l.out) && l.out[i].off <= at {
			g := &l.out[i]
			if n := min(g.end(), s.to) - at; n >= sector {
				n -= n % sector
				r.b = append(r.b, g.b[at-g.off:at-g.off+n:at-g.off+n])
				at += n
				continue
			}
		}
		// The sectors up to the next one that a segment has wholly.
		to := at + sector
		for to < s.to && !l.out.whole(to, sector) {
			to += sector
		}
		b := make([]byte, to-at)
		if err := f.read(ctx, b[:min(to, max(at, l.size))-at], at); err != nil {
			return r, err
		}
		l.out.copyTo(b, at)
		r.b = append(r.b, b)
		at = to
	}
	return r, nil
}

// enter puts contents that are on the device into the trees. The files' size
// grows with them.
//
// REQUIRES: the writer.
func (w *Writer) enter(ctx context.Context, p *placer, flights []*flight) error {
	var sums []placed
	for _, l := range flights {
		e, err := w.edit(ctx, l.f.key.sub)
		f := fileEdit{edit: e, ino: l.f.key.ino, avail: &p.promised}
		if err == nil {
			f.item, err = e.inode(ctx, f.ino)
		}
		if errors.Is(err, syscall.ENOENT) {
			l.gone = true
			if err := w.giveUp(l); err != nil {
				return err
			}
			continue
		}
		if err == nil {
			err = f.enter(ctx, l)
		}
		if err != nil {
			return fmt.Errorf("contents of inode %d of subvolume %d: %w", uint64(f.ino), uint64(l.f.key.sub), err)
		}
		sums = append(sums, l.placed...)
	}
	if err := w.addSums(ctx, sums); err != nil {
		return err
	}
	// Readers find everything in the tree from here on.
	for _, l := range flights {
		if !l.direct {
			l.f.landed(l.out, l.rest)
		}
	}
	return nil
}

// giveUp frees the places of a file that was removed meanwhile.
func (w *Writer) giveUp(l *flight) error {
	for _, x := range l.placed {
		if err := w.tx.FreeData(x.addr, x.n); err != nil {
			return err
		}
	}
	l.placed = nil
	return nil
}

// addSums enters the checksums of new extents, those that lie behind each
// other together.
func (w *Writer) addSums(ctx context.Context, all []placed) error {
	for len(all) > 0 {
		x := all[0]
		n := 1
		for x.sums != nil && n < len(all) && all[n].sums != nil && all[n].addr == x.addr+disk.Logical(x.n) {
			x.sums, x.n = append(x.sums[:len(x.sums):len(x.sums)], all[n].sums...), x.n+all[n].n
			n++
		}
		if x.sums != nil {
			if err := w.tx.AddCsums(ctx, x.addr, x.sums); err != nil {
				return err
			}
		}
		all = all[n:]
	}
	return nil
}

// enter puts one file's contents into its subvolume.
func (f *fileEdit) enter(ctx context.Context, l *flight) error {
	sector := f.w.tx.SectorSize()
	if l.isIn {
		if err := f.drop(ctx, 0, sector); err != nil {
			return err
		}
		if err := f.insertInline(ctx, f.ino, l.inline, l.size, l.inComp); err != nil {
			return err
		}
		f.item.NBytes += l.size
		f.item.Size = l.size
	}
	rest := l.placed
	for i := range l.runs {
		r := &l.runs[i]
		if r.from > f.item.Size {
			if err := f.clearTail(ctx); err != nil {
				return err
			}
		}
		if err := f.fillGap(ctx, r.from); err != nil {
			return err
		}
		if l.inPlace {
			if err := f.overwrite(ctx, r.b, r.from); err != nil {
				return err
			}
		} else {
			if err := f.drop(ctx, r.from, r.to); err != nil {
				return err
			}
			for ; len(rest) > 0 && rest[0].off < r.to; rest = rest[1:] {
				if err := f.insertPlaced(ctx, &rest[0]); err != nil {
					return err
				}
			}
		}
		f.item.Size = max(f.item.Size, r.end)
	}
	switch {
	case l.failed:
		f.item.Flags |= disk.InodeNoCompress
	case len(l.placed) > 0 || l.isIn:
		for i := range l.placed {
			if err := f.w.needCodec(ctx, l.placed[i].comp); err != nil {
				return err
			}
		}
		if err := f.w.needCodec(ctx, l.inComp); err != nil {
			return err
		}
	}
	return f.putInode(ctx, f.ino, &f.item)
}

// insertPlaced adds an extent that is on the device to the file.
func (f *fileEdit) insertPlaced(ctx context.Context, x *placed) error {
	fe := disk.FileExtent{
		Generation: f.w.tx.Trans(), RAMBytes: x.ram, Type: disk.FileExtentRegular, Compression: x.comp,
		DiskBytenr: x.addr, DiskNumBytes: x.n, NumBytes: x.ram,
	}
	f.w.tx.AddDataRef(f.t, x.addr, x.n, f.ino, x.off, true)
	f.item.NBytes += x.ram
	return f.t.Insert(ctx, f.extentKey(x.off), fe.Append(nil))
}

// take moves what waits to out. It says whether there is anything.
//
// REQUIRES: busy.
func (f *pendingFile) take(l *flight) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.segs) == 0 {
		return false
	}
	l.f, l.out, l.data, l.items = f, f.segs, f.data, f.items
	f.out, f.segs, f.data, f.items = f.segs, nil, 0, 0
	f.log.account(f, 0, -len(l.out))
	return true
}

// landed says that out is in the tree; rest is still to come.
func (f *pendingFile) landed(out, rest segments) {
	f.mu.Lock()
	f.out = rest
	f.log.account(f, -int(out.bytes()), 0)
	f.log.idle(f)
	f.mu.Unlock()
}

// putBack makes what could not be written wait again, under what was written
// since.
func (w *Writer) putBack(l *flight) {
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	bytes, runs := f.segs.bytes()+f.out.bytes(), len(f.segs)
	over := f.segs
	f.segs, f.out = f.out, nil
	for i := range over {
		f.segs.write(over[i].b, over[i].off)
	}
	if f.gone {
		f.segs = nil
	} else {
		f.data, f.items = f.data+l.data, f.items+l.items
		l.data, l.items = 0, 0
	}
	w.tx.ReleaseData(l.data)
	w.tx.ReleaseItems(l.items)
	f.log.account(f, int(f.segs.bytes())-int(bytes), len(f.segs)-runs)
	f.log.idle(f)
}

// flushHeld writes what waits of a file.
//
// REQUIRES: busy of f.
func (w *Writer) flushHeld(ctx context.Context, f *pendingFile) error {
	var l flight
	if !f.take(&l) {
		return nil
	}
	return w.flushTaken(ctx, []*flight{&l})
}

func (w *Writer) flushTaken(ctx context.Context, flights []*flight) error {
	err := w.flush(ctx, flights)
	if err != nil {
		for _, l := range flights {
			w.putBack(l)
		}
	}
	return err
}

// lock takes a file's busy and is its user. Give it back with unlock.
func (w *Writer) lock(ctx context.Context, k fileKey) (*pendingFile, error) {
	f := w.late.get(k)
	select {
	case f.busy <- struct{}{}:
		return f, nil
	case <-ctx.Done():
		w.late.put(f)
		return nil, context.Cause(ctx)
	}
}

func (w *Writer) unlock(f *pendingFile) {
	<-f.busy
	w.late.put(f)
}

// settle takes a file for a change of its extents that needs all written
// contents in the tree. Give it back with unlock.
func (w *Writer) settle(ctx context.Context, k fileKey) (*pendingFile, error) {
	f, err := w.lock(ctx, k)
	if err != nil {
		return nil, err
	}
	if err := w.flushHeld(ctx, f); err != nil {
		w.unlock(f)
		return nil, err
	}
	return f, nil
}

// settleBoth is settle for two files, which may be one.
func (w *Writer) settleBoth(ctx context.Context, a, b fileKey) (unlock func(), err error) {
	if a.compare(b) > 0 {
		a, b = b, a
	}
	f, err := w.settle(ctx, a)
	if err != nil {
		return nil, err
	}
	if a == b {
		return func() { w.unlock(f) }, nil
	}
	g, err := w.settle(ctx, b)
	if err != nil {
		w.unlock(f)
		return nil, err
	}
	return func() { w.unlock(g); w.unlock(f) }, nil
}

// FlushFile puts what was written to a file before into the running
// transaction: its next commit makes it durable.
func (w *Writer) FlushFile(ctx context.Context, sub, ino disk.ObjectID) error {
	if w.late.find(fileKey{sub, ino}) == nil {
		return nil
	}
	f, err := w.settle(ctx, fileKey{sub, ino})
	if err != nil {
		return err
	}
	w.unlock(f)
	return nil
}

// Flush puts everything that was written before into the running transaction.
func (w *Writer) Flush(ctx context.Context) error {
	return w.flushThese(ctx, w.late.waiting(func(*pendingFile) bool { return true }))
}

// flushSubvol is Flush for one subvolume.
func (w *Writer) flushSubvol(ctx context.Context, sub disk.ObjectID) error {
	return w.flushThese(ctx, w.late.waiting(func(f *pendingFile) bool { return f.key.sub == sub }))
}

// waiting lists files with contents, the oldest first, and is their user.
func (b *backlog) waiting(want func(*pendingFile) bool) []*pendingFile {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []*pendingFile
	for _, f := range b.queue {
		if want(f) {
			f.users++
			out = append(out, f)
		}
	}
	return out
}

// flushThese flushes files, and waits for those that others are flushing. It
// gives them back.
func (w *Writer) flushThese(ctx context.Context, files []*pendingFile) error {
	defer w.late.putAll(files)
	for at := 0; at < len(files); {
		// To wait for a second file while one is held could be a circle.
		select {
		case files[at].busy <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		n, err := w.flushBatch(ctx, files[at:])
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

func (b *backlog) putAll(files []*pendingFile) {
	for _, f := range files {
		b.put(f)
	}
}

// FlushFree flushes files that nobody works on, and waits for none: those who
// hold them may wait for what the flush gives back.
func (w *Writer) FlushFree(ctx context.Context) error {
	files := w.late.waiting(func(*pendingFile) bool { return true })
	defer w.late.putAll(files)
	for at := 0; at < len(files); {
		if !files[at].tryLock() {
			at++
			continue
		}
		n, err := w.flushBatch(ctx, files[at:])
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// flushBelow flushes in the background until no more waits than so much.
func (w *Writer) flushBelow(bytes uint64, runs int) error {
	ctx := context.Background()
	for w.late.exceeds(bytes, runs) {
		files := w.late.waiting(func(*pendingFile) bool { return true })
		at := 0
		for at < len(files) && !files[at].tryLock() {
			at++
		}
		if at == len(files) { // others are at it
			w.late.putAll(files)
			return nil
		}
		_, err := w.flushBatch(ctx, files[at:])
		w.late.putAll(files)
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *backlog) exceeds(bytes uint64, runs int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.closed && (b.bytes > bytes || b.runs > runs)
}

func (f *pendingFile) tryLock() bool {
	select {
	case f.busy <- struct{}{}:
		return true
	default:
		return false
	}
}

// flushBatch flushes the first of files, which the caller has made busy, and
// those behind it that are free, as one operation. It says how many, and frees
// them.
func (w *Writer) flushBatch(ctx context.Context, files []*pendingFile) (n int, err error) {
	var flights []*flight
	bytes := uint64(0)
	for n < len(files) && n < batchFiles && bytes < batchBytes && (n == 0 || files[n].tryLock()) {
		l := new(flight)
		if files[n].take(l) {
			flights = append(flights, l)
			bytes += l.out.bytes()
		}
		n++
	}
	if len(flights) > 0 {
		err = w.flushTaken(ctx, flights)
	}
	for _, f := range files[:n] {
		<-f.busy
	}
	return n, err
}
