//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	// Beyond what is too many, the kernel is asked to drop one in pruneShare of
	// those it may know, and asked again when it has one in pruneAgain more: what
	// is in use it keeps.
	pruneShare, pruneAgain = 8, 16
	// pruneMost is the most that it is asked to drop at a time, pruneBatch how
	// many go into one notification.
	pruneMost, pruneBatch = 1 << 16, 512
)

// prune asks the kernel to drop inodes that nobody uses. Those that it drops
// come back as FORGETs.
func (s *server) prune() {
	if !s.pruning.CompareAndSwap(false, true) {
		return
	}
	s.work.Go(func() {
		defer s.pruning.Store(false)
		ids := s.known.some(int(min(s.known.total.Load()-s.inodes+s.inodes/pruneShare, pruneMost)))
		for len(ids) > 0 {
			n := min(len(ids), pruneBatch)
			if s.kernel.PruneNotify(ids[:n]) == fuse.ENOSYS {
				s.known.next.Store(1 << 62) // an older kernel, which never will
				return
			}
			ids = ids[n:]
		}
		s.known.next.Store(max(s.inodes, s.known.total.Load()+s.inodes/pruneAgain))
	})
}
