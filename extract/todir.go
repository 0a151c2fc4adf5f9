package extract

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/report"
)

const (
	bufSize = 1 << 20
	// Entries of one directory are handed out in batches, so that several
	// workers share a large directory.
	batchSize = 64
	// With more units waiting than this a worker copies its batch itself.
	maxQueued = 2048
	// Files larger than this are copied in segments, by several workers.
	segmentSize = 8 << 20
)

// ToDir copies what is below the directory top into the directory dest, which
// is made if it is not there. Existing files are not overwritten: they are an
// error. If top is no directory, dest is what it becomes, or the directory into
// which it goes under the name name.
//
// The error is the first one that ended the work; the Result is valid all the
// same. After an error dest holds part of the tree.
func ToDir(ctx context.Context, top *btrfs.File, name, dest string, o Options) (Result, error) {
	o = o.withDefaults()
	x := &copier{o: o, visited: map[inode]struct{}{}, links: map[inode]*link{}}
	x.idle = sync.NewCond(&x.mu)
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	defer x.cancel(nil)
	if err := x.start(top, name, dest); err != nil {
		return x.problems.r, err
	}
	var wg sync.WaitGroup
	for range o.Workers {
		wg.Go(func() { x.work(&worker{buf: make([]byte, bufSize)}) })
	}
	wg.Wait()
	x.closeRoot()
	return x.problems.r, context.Cause(x.ctx)
}

// copier is one run of ToDir: a stack of units of work, and workers.
type copier struct {
	problems
	o      Options
	ctx    context.Context
	cancel context.CancelCauseFunc
	root   *dir // links to files in other directories are made from here

	mu      sync.Mutex
	idle    *sync.Cond
	stack   []unit             // mu; last in, first out: keeps few directories open
	pending int                // mu; units on the stack or being worked on
	visited map[inode]struct{} // mu; directories
	links   map[inode]*link    // mu; files with more names to come
}

type unit func(*worker)

// worker is what one goroutine has for itself.
type worker struct {
	buf []byte
}

// link is a file with several names.
type link struct {
	mu   sync.Mutex
	path string // mu; where the first name was made, below the root
	left uint32 // copier.mu; names not yet seen
}

func (x *copier) push(u unit) {
	x.mu.Lock()
	x.stack = append(x.stack, u)
	x.pending++
	x.mu.Unlock()
	x.idle.Signal()
}

func (x *copier) work(w *worker) {
	for {
		x.mu.Lock()
		for len(x.stack) == 0 && x.pending > 0 {
			x.idle.Wait()
		}
		if len(x.stack) == 0 {
			x.mu.Unlock()
			return
		}
		u := x.stack[len(x.stack)-1]
		x.stack[len(x.stack)-1] = nil
		x.stack = x.stack[:len(x.stack)-1]
		x.mu.Unlock()
		u(w) // after a failure too: units close what they hold
		x.mu.Lock()
		x.pending--
		if x.pending == 0 {
			x.idle.Broadcast()
		}
		x.mu.Unlock()
	}
}

func (x *copier) crowded() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.stack) > maxQueued
}

// fail ends the work.
func (x *copier) fail(path string, err error) {
	x.cancel(fmt.Errorf("extract %q: %w", path, err))
}

// readFailed is for errors of reading the filesystem.
func (x *copier) readFailed(path string, err error) {
	if x.ctx.Err() != nil {
		return
	}
	if !isDamage(err) {
		x.fail(path, err)
		return
	}
	x.damaged(path, err)
	if !x.o.KeepGoing {
		x.fail(path, err)
	}
}

// node is a directory being copied. When its last part is done it gets its
// attributes: any change inside would change its times again.
type node struct {
	parent *node
	file   *btrfs.File
	path   string
	dir    *dir
	parts  atomic.Int32 // its own walk, batches under way, subdirectories
	keep   bool         // the top's attributes stay as they are
}

func (x *copier) start(top *btrfs.File, name, dest string) error {
	if top.Mode().IsDir() {
		d, err := openRoot(dest, true)
		if err != nil {
			return err
		}
		x.root = d
		n := &node{file: top, dir: d}
		n.parts.Store(1)
		x.visited[inodeOf(top)] = struct{}{}
		x.push(func(w *worker) { x.walk(n, w) })
		return nil
	}
	d, base, err := openFileTarget(dest, name)
	if err != nil {
		return err
	}
	x.root = d
	n := &node{dir: d, keep: true}
	n.parts.Store(1)
	x.push(func(w *worker) {
		defer x.partDone(n)
		x.copyFile(n, base, name, top, w)
	})
	return nil
}

func (x *copier) closeRoot() {
	if x.root != nil {
		if err := x.root.close(); err != nil {
			x.fail("", err)
		}
	}
}

// partDone finishes a directory after its last part, and then perhaps its
// parents.
func (x *copier) partDone(n *node) {
	for n != nil && n.parts.Add(-1) == 0 {
		parent := n.parent
		if !n.keep && x.ctx.Err() == nil {
			x.finish(n.path, n.file, n.dir.setAttrs)
		}
		if n.dir != x.root {
			if err := n.dir.close(); err != nil {
				x.fail(n.path, err)
			}
		}
		n = parent
	}
}

// finish reads a file's xattrs and sets all its attributes.
func (x *copier) finish(path string, f *btrfs.File, set func(*attrs) []error) {
	if f.IsStub() {
		return // it stands for a subvolume that is not there: it has none
	}
	a := attrs{item: f.Item(), owner: !x.o.NoOwner}
	var err error
	if a.xattrs, err = f.Xattrs(x.ctx); err != nil {
		x.readFailed(path, fmt.Errorf("read xattrs: %w", err))
	}
	for _, err := range set(&a) {
		if errors.Is(err, errUnkept) {
			x.unkept(path, err)
		} else {
			x.fail(path, err)
		}
	}
}

// walk hands out a directory's entries in batches.
func (x *copier) walk(n *node, w *worker) {
	defer x.partDone(n)
	var batch []btrfs.DirEntry
	flush := func() {
		entries := batch
		batch = nil
		n.parts.Add(1)
		job := func(w *worker) {
			defer x.partDone(n)
			for i := range entries {
				if x.ctx.Err() != nil {
					return
				}
				x.entry(n, &entries[i], w)
			}
		}
		if x.crowded() {
			job(w)
		} else {
			x.push(job)
		}
	}
	for e, err := range n.file.ReadDir(x.ctx, 0) {
		if err != nil {
			x.readFailed(n.path, fmt.Errorf("read directory: %w", err))
			break
		}
		batch = append(batch, *e)
		if len(batch) == batchSize {
			flush()
		}
	}
	if len(batch) > 0 {
		flush()
	}
}

// entry copies one entry of a directory; subdirectories only get in line.
func (x *copier) entry(n *node, e *btrfs.DirEntry, w *worker) {
	path := joinPath(n.path, e.Name)
	if err := report.CheckName(e.Name); err != nil {
		x.readFailed(path, err)
		return
	}
	f, err := n.file.OpenEntry(x.ctx, e)
	if err != nil {
		x.readFailed(path, err)
		return
	}
	if !f.Mode().IsDir() {
		x.copyFile(n, e.Name, path, f, w)
		return
	}
	if !f.IsStub() && !x.enter(inodeOf(f)) {
		x.readFailed(path, report.ErrLoop)
		return
	}
	sub := &node{parent: n, file: f, path: path}
	sub.parts.Store(1)
	n.parts.Add(1)
	name := e.Name
	x.push(func(w *worker) {
		if x.ctx.Err() == nil {
			if sub.dir, err = n.dir.mkdir(name); err == nil {
				x.o.Progress.Files.Add(1)
				x.walk(sub, w)
				return
			}
			x.fail(path, err)
		}
		x.partDone(n)
	})
}

// enter says whether the directory is new.
func (x *copier) enter(i inode) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, seen := x.visited[i]; seen {
		return false
	}
	x.visited[i] = struct{}{}
	return true
}

// copyFile makes what is not a directory.
func (x *copier) copyFile(n *node, name, path string, f *btrfs.File, w *worker) {
	x.o.Progress.Files.Add(1)
	make := func() bool { return x.makeFile(n, name, path, f, w) }
	if f.Item().Nlink < 2 {
		make()
		return
	}
	l := x.linkOf(f)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.path == "" {
		if make() {
			l.path = joinPath(n.path, name)
		}
		return
	}
	if err := x.root.link(l.path, n.dir, name); err != nil {
		x.fail(path, err)
	}
}

func (x *copier) linkOf(f *btrfs.File) *link {
	x.mu.Lock()
	defer x.mu.Unlock()
	id := inodeOf(f)
	l := x.links[id]
	if l == nil {
		l = &link{left: f.Item().Nlink}
		x.links[id] = l
	}
	if l.left--; l.left == 0 {
		delete(x.links, id)
	}
	return l
}

// makeFile makes the first name of a file and says whether it did. A regular
// file's contents may follow later.
func (x *copier) makeFile(n *node, name, path string, f *btrfs.File, w *worker) bool {
	var err error
	switch m := f.Mode(); m.Type() {
	case 0:
		out, err := n.dir.create(name)
		if err != nil {
			x.fail(path, err)
			return false
		}
		n.parts.Add(1)
		x.fill(&copying{node: n, path: path, in: f, out: out}, w)
		return true
	case fs.ModeSymlink:
		target, rerr := f.Readlink(x.ctx)
		if rerr != nil {
			x.readFailed(path, rerr)
			return false
		}
		err = n.dir.symlink(target, name)
	case fs.ModeIrregular:
		x.readFailed(path, fmt.Errorf("unknown file type %o: %w", f.Item().Mode, btrfs.ErrCorrupt))
		return false
	default:
		err = n.dir.mknod(name, f.Item())
	}
	if errors.Is(err, errUnkept) {
		x.unkept(path, err)
		return false
	}
	if err != nil {
		x.fail(path, err)
		return false
	}
	x.finish(path, f, func(a *attrs) []error { return n.dir.setAttrsOf(name, a) })
	return true
}

// copying is a regular file on its way.
type copying struct {
	node  *node
	path  string
	in    *btrfs.File
	out   *file
	parts atomic.Int32
}

// fill copies the contents, large ones by way of the stack.
func (x *copier) fill(c *copying, w *worker) {
	c.parts.Store(1)
	defer x.fileDone(c)
	size := c.in.Size()
	if size <= bufSize && c.in.Item().NBytes >= uint64(size) { // no holes to look for
		x.copyRange(c, 0, size, w)
		return
	}
	if size <= segmentSize {
		x.copyExtents(c, 0, size, w)
	} else {
		for off := int64(0); off < size; {
			// Holes are passed over here, not segment by segment: a file may
			// have more of them than could ever be counted through.
			data, err := c.in.SeekData(x.ctx, off)
			if err != nil {
				if !isNoData(err) {
					x.readFailed(c.path, err)
				}
				break
			}
			off = data - data%segmentSize
			end := min(size, off+segmentSize)
			start := off
			c.parts.Add(1)
			job := func(w *worker) {
				defer x.fileDone(c)
				x.copyExtents(c, start, end, w)
			}
			if x.crowded() {
				job(w)
			} else {
				x.push(job)
			}
			off = end
		}
	}
	// A hole at the end takes no write.
	if err := c.out.truncate(size); err != nil && x.ctx.Err() == nil {
		x.fail(c.path, err)
	}
}

// fileDone finishes a file after its last part.
func (x *copier) fileDone(c *copying) {
	if c.parts.Add(-1) > 0 {
		return
	}
	if x.ctx.Err() == nil {
		x.finish(c.path, c.in, c.out.setAttrs)
	}
	if err := c.out.close(); err != nil {
		x.fail(c.path, err)
	}
	x.partDone(c.node)
}

// copyExtents copies the data in [start, end), holes left out. Reads start and
// end where compressed extents do, so that none is decompressed twice.
func (x *copier) copyExtents(c *copying, start, end int64, w *worker) {
	pos, upto := start, start // data found and not yet copied
	for e, err := range c.in.Extents(x.ctx, start) {
		if err != nil {
			x.readFailed(c.path, err)
			break
		}
		from, to := max(int64(e.Start), start), min(int64(min(e.End, 1<<63-1)), end)
		if from >= end {
			break
		}
		if !e.IsData() {
			x.copyRange(c, pos, upto, w)
			pos, upto = to, to
			continue
		}
		if e.Item.Compression != disk.CompressNone && to-pos > bufSize {
			x.copyRange(c, pos, upto, w)
			pos = from
		}
		upto = to
	}
	x.copyRange(c, pos, upto, w)
}

// copyRange copies a range that is all data.
func (x *copier) copyRange(c *copying, pos, end int64, w *worker) {
	for pos < end && x.ctx.Err() == nil {
		n, err := read(x.ctx, c.in, w.buf[:min(end-pos, bufSize)], pos, x.o.KeepGoing)
		if err != nil {
			x.readFailed(c.path, err)
		}
		if n == 0 {
			return // shorter than its extents: nothing more to have
		}
		if err := c.out.writeAt(w.buf[:n], pos); err != nil {
			x.fail(c.path, err)
			return
		}
		x.o.Progress.Bytes.Add(int64(n))
		pos += int64(n)
	}
}
