//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	btrfs "gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
)

// readWrite carries out the requests that change something. Permissions are the
// kernel's to check (default_permissions), and so is the order of requests on
// one directory: it sends one change at a time, and no lookup beside it.
type readWrite struct {
	fuse.RawFileSystem
	s *server
	w *fstree.Writer

	atime      AtimeMode
	noDirAtime bool

	// Inodes without names that the kernel has just forgotten wait for reap,
	// because FORGET has no answer that could wait.
	mu       sync.Mutex
	removed  map[place]struct{} // without a name, and known to the kernel
	waiting  []place            // forgotten, to be released
	reaping  bool
	reapDone sync.Cond // of mu: reaping ended
	freed    bool      // space was given back since statfs last had that committed
	counted  time.Time // when that was

	failure sync.Once // to log it
}

func newReadWrite(s *server, w *fstree.Writer) *readWrite {
	r := &readWrite{RawFileSystem: fuse.NewDefaultRawFileSystem(), s: s, w: w, removed: map[place]struct{}{}}
	r.reapDone.L = &r.mu
	w.KeepRemoved(r.keep)
	return r
}

// keep says whether an inode that loses its last name is still in the kernel's
// memory. It is then held until the kernel forgets it. It is called within the
// operation that takes the name away.
func (r *readWrite) keep(sub, ino disk.ObjectID) bool {
	p := place{sub, ino}
	id, ok := r.s.node(p)
	if !ok || !r.s.known.has(id) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed[p] = struct{}{}
	return true
}

// forgotten is told of every inode that the kernel has dropped from its memory.
func (r *readWrite) forgotten(p place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.removed[p]; !ok {
		return
	}
	delete(r.removed, p)
	r.waiting = append(r.waiting, p)
	if !r.reaping {
		r.reaping = true
		go r.reap()
	}
}

// reap releases what waits, and ends.
func (r *readWrite) reap() {
	for {
		r.mu.Lock()
		r.freed = r.freed || len(r.waiting) > 0
		batch := r.waiting
		r.waiting = nil
		if len(batch) == 0 {
			r.reaping = false
			r.reapDone.Broadcast()
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		for _, p := range batch {
			// What cannot be given back now is given back at the next mount.
			if err := r.w.Release(r.s.ctx, p.subvol, p.ino); err != nil && r.s.ctx.Err() == nil {
				r.s.faults.log.Warn("a removed file keeps its space until the next mount", "subvol", uint64(p.subvol), "ino", uint64(p.ino), "err", err)
			}
		}
	}
}

// removedInodes is how many inodes without a name the kernel still knows.
func (r *readWrite) removedInodes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.removed) + len(r.waiting)
}

// settle waits until everything that was forgotten is released, and says
// whether there was anything.
func (r *readWrite) settle() (some bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.reaping {
		some = true
		r.reapDone.Wait()
	}
	return some
}

// mayHaveFreed notes that a change may have given space back.
func (r *readWrite) mayHaveFreed() {
	r.mu.Lock()
	r.freed = true
	r.mu.Unlock()
}

// statfsInterval is how often statfs commits at most.
const statfsInterval = time.Second

// totals answers statfs(2). Only a commit counts what removed files had as
// free, and sync(2), by which others have that counted, does not reach us. So
// the first who asks after a removal gets a commit.
func (r *readWrite) totals(ctx context.Context) (spaceTotals, error) {
	r.settle()
	now := r.w.Txn().Clock().Now()
	r.mu.Lock()
	due := r.freed && now.Sub(r.counted) >= statfsInterval
	if due {
		r.freed, r.counted = false, now
	}
	r.mu.Unlock()
	if due {
		// Numbers from before are better than none.
		if err := r.s.fs.Sync(ctx); err != nil {
			r.s.faults.log.Debug("statfs without a commit", "err", err)
		}
	}
	return runningTotals(r.w.Txn().Space().Snapshot()), nil
}

// finish ends the work on a mount that is gone.
func (s *server) finish() error {
	if r, ok := s.RawFileSystem.(*readWrite); ok {
		return r.finish()
	}
	return nil
}

// finish releases what the kernel still knew when the mount went away, and
// commits.
func (r *readWrite) finish() error {
	r.mu.Lock()
	rest := r.removed
	r.removed = map[place]struct{}{}
	for p := range rest {
		r.waiting = append(r.waiting, p)
	}
	if len(rest) > 0 && !r.reaping {
		r.reaping = true
		go r.reap()
	}
	r.mu.Unlock()
	r.settle()
	return r.s.fs.Sync(context.WithoutCancel(r.s.ctx))
}

// change runs an operation on the inode of a node. If space is short because
// files that were just removed are not yet given back, it waits for that and
// tries once more.
func (r *readWrite) change(op string, id uint64, run func(ctx context.Context, p place) error) fuse.Status {
	p, ok := r.s.place(id)
	if !ok {
		return fuse.EPERM // a stub
	}
	if r.failed() {
		return erofs
	}
	err := run(r.s.ctx, p)
	if errors.Is(err, syscall.ENOSPC) && r.settle() {
		err = run(r.s.ctx, p)
	}
	return r.s.done(op, id, err)
}

// failed says whether a failure has ended all changes, as one of the device in
// a commit does, and has the log say so once.
func (r *readWrite) failed() bool {
	err := r.w.Txn().Err()
	if err == nil {
		return false
	}
	r.failure.Do(func() { r.s.faults.log.Error("nothing can be changed any more", "err", err) })
	return true
}

// entry answers a request that has made, or named, an inode.
func (r *readWrite) entry(ctx context.Context, dir place, name string, p place, out *fuse.EntryOut) error {
	return r.s.fs.View(ctx, p.subvol, func(ctx context.Context, sub *btrfs.Subvolume) error {
		f, err := sub.Inode(ctx, p.ino)
		if err == nil {
			r.s.fillEntry(dir, name, f, out)
		}
		return err
	})
}

// Fsync makes one inode durable, mostly through the log tree. Callers at the
// same time share one write of it, or one commit. When nothing can be changed
// any more it fails for everybody, even those whose changes are durable: nobody
// shall take it for a promise.
func (r *readWrite) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	const dataOnly = 1 // FUSE_FSYNC_FDATASYNC
	if r.failed() {
		return fuse.EIO
	}
	return r.change("fsync", in.NodeId, func(ctx context.Context, p place) error {
		return r.w.Fsync(ctx, p.subvol, p.ino, in.FsyncFlags&dataOnly != 0)
	})
}

// FsyncDir is Fsync.
func (r *readWrite) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return r.Fsync(cancel, in)
}

// inode reads the attributes of an inode.
func (r *readWrite) inode(p place) (item disk.InodeItem, err error) {
	err = r.s.fs.View(r.s.ctx, p.subvol, func(ctx context.Context, sub *btrfs.Subvolume) error {
		f, err := sub.Inode(ctx, p.ino)
		if err == nil {
			item = *f.Item()
		}
		return err
	})
	return item, stale(err)
}
