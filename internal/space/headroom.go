package space

import "sync/atomic"

// headroom is what may still be promised, and whether anybody waits for it, in
// one word:
//
//	bits 63..1  total + overcommit - used - reserved - pinned - readonly - promised, signed
//	bit  0      waiting: take the lock
//
// One word, so that a reservation without waiters is a single compare-and-swap
// and a release a single addition, and so that no wake-up can be lost: whoever
// gives bytes back learns from the same addition whether somebody waits, and
// whoever begins to wait sets the bit before it looks at the bytes again.
type headroom struct{ v atomic.Int64 }

const waitingBit = 1

// take charges n unless it does not fit or somebody waits.
func (h *headroom) take(n Bytes) bool {
	for {
		old := h.v.Load()
		if old&waitingBit != 0 || Bytes(old>>1) < n {
			return false
		}
		if h.v.CompareAndSwap(old, old-int64(n)<<1) {
			return true
		}
	}
}

// takeBeyond charges n if no more than extra of it is missing, whoever waits.
// Info.mu must be held, for the queues decide who may.
func (h *headroom) takeBeyond(n, extra Bytes) bool {
	for {
		old := h.v.Load()
		if Bytes(old>>1)+extra < n {
			return false
		}
		if h.v.CompareAndSwap(old, old-int64(n)<<1) {
			return true
		}
	}
}

// add changes the amount and says whether somebody waits.
func (h *headroom) add(n Bytes) bool { return h.v.Add(int64(n)<<1)&waitingBit != 0 }

func (h *headroom) load() Bytes { return Bytes(h.v.Load() >> 1) }

func (h *headroom) setWaiting(on bool) {
	if on {
		h.v.Or(waitingBit)
	} else {
		h.v.And(^waitingBit)
	}
}
