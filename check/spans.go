package check

import (
	"cmp"
)

// span is a range of data, in bytes of the logical address space.
type span struct {
	start, end uint64
	leaf       int64 // spanDeferred: whose first inode uses it
}

// spanKind says what is known of the data in a span.
type spanKind int

const (
	spanAllocated spanKind = iota // in a data extent
	spanCsum                      // has checksums
	spanNeed                      // must have checksums
	spanPrealloc                  // need not have any
	spanNever                     // of files without checksums
	spanDeferred                  // must have some unless its inode says otherwise, which is not known yet
	spanLogCsum                   // has checksums in a log tree
	spanLogNeed                   // must have some, there or in the checksum tree
	spanLogData                   // an extent that a log tree uses; leaf is 1
	spanStripe                    // has places in the raid-stripe-tree
	spanStride                    // one of these places: physical, leaf is the device
	spanKinds
)

func compareSpans(a, b span) int { return cmp.Compare(a.start, b.start) }

func joinSpans(last *span, b span) bool {
	if b.start > last.end {
		return false
	}
	last.end = max(last.end, b.end)
	return true
}

func compareDeferred(a, b span) int {
	return cmp.Or(cmp.Compare(a.leaf, b.leaf), cmp.Compare(a.start, b.start))
}

func joinDeferred(last *span, b span) bool { return last.leaf == b.leaf && joinSpans(last, b) }

func newSpans(p *pool) (out [spanKinds]*sorter[span]) {
	for k := range out {
		out[k] = &sorter[span]{pool: p, compare: compareSpans, absorb: joinSpans}
	}
	out[spanDeferred].compare, out[spanDeferred].absorb = compareDeferred, joinDeferred
	out[spanLogData].compare, out[spanLogData].absorb = compareStrides, func(last *span, b span) bool { return *last == b }
	out[spanStride].compare, out[spanStride].absorb = compareStrides, keepApart
	return out
}

// span notes what is known of [start, start+length). What wraps around is cut
// off.
func (w *worker) span(k spanKind, start, length uint64, leaf int64) {
	end := start + length
	if end < start {
		end = ^uint64(0)
	}
	if end == start {
		return
	}
	w.spans[k].put(w.c.spans[k], span{start, end, leaf})
}

// flushSpans hands over what the workers still have.
func (c *checker) flushSpans() {
	for _, w := range c.workers {
		for k := range w.spans {
			w.spans[k].flush(c.spans[k])
		}
	}
}

// settleDeferred decides about the data of inodes whose items stand in another
// leaf, now that leaves have been put together.
func (c *checker) settleDeferred() {
	c.flushSpans()
	leaves := &c.forests[2].levels[0]
	w := c.workers[0]
	for m := c.spans[spanDeferred].read(); ; {
		s, ok := m.next()
		if !ok {
			break
		}
		switch n := leaves.nodes.at(int(s.leaf)); {
		case !n.headKnown:
		case n.headNoSum:
			w.span(spanNever, s.start, s.end-s.start, 0)
		default:
			w.span(spanNeed, s.start, s.end-s.start, 0)
		}
	}
	c.spans[spanDeferred].drop()
	c.flushSpans()
}

// spanReader yields the spans of one kind, joined and in order.
type spanReader func() (span, bool)

func (c *checker) readSpans(k spanKind) spanReader { return c.spans[k].read().next }

// without yields what is in a and not in b.
func without(a, b spanReader) spanReader {
	x, okA := a()
	y, okB := b()
	return func() (span, bool) {
		for okA {
			switch {
			case okB && y.end <= x.start:
				y, okB = b()
			case !okB || y.start >= x.end:
				out := x
				x, okA = a()
				return out, true
			case y.start > x.start:
				out := span{start: x.start, end: y.start}
				x.start = y.start
				return out, true
			case y.end < x.end:
				x.start = y.end
			default:
				x, okA = a()
			}
		}
		return span{}, false
	}
}

// both yields what is in a and in b.
func both(a, b spanReader) spanReader {
	x, okA := a()
	y, okB := b()
	return func() (span, bool) {
		for okA && okB {
			out := span{start: max(x.start, y.start), end: min(x.end, y.end)}
			if x.end <= y.end {
				x, okA = a()
			} else {
				y, okB = b()
			}
			if out.start < out.end {
				return out, true
			}
		}
		return span{}, false
	}
}
