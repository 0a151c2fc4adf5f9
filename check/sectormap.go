package check

import (
	"math/bits"
	"sync"
)

// sectorMap is a set of sectors of the logical address space. It costs nothing
// for regions of pageSectors sectors that are wholly in or out, and a bit for
// each sector of the others; so its size follows how fragmented the set is, and
// never exceeds 1/32768 of the data (4 KiB sectors).
//
// Safe for concurrent use.
type sectorMap struct {
	shift  uint // sector size
	shards [mapShards]mapShard
}

const (
	pageSectors = 1 << 12
	pageWords   = pageSectors / 64
	mapShards   = 64
)

type mapShard struct {
	mu    sync.Mutex
	pages map[uint64]*mapPage
}

type mapPage struct {
	count int // bits set; pageSectors: words is nil
	words *[pageWords]uint64
}

func newSectorMap(sectorSize int) *sectorMap {
	m := &sectorMap{shift: uint(bits.TrailingZeros(uint(sectorSize)))}
	for i := range m.shards {
		m.shards[i].pages = make(map[uint64]*mapPage)
	}
	return m
}

// add enters the sectors of [start, start+length). A range that wraps around is
// cut off.
func (m *sectorMap) add(start, length uint64) {
	if length == 0 {
		return
	}
	end := start + length - 1
	if end < start {
		end = ^uint64(0)
	}
	first, last := start>>m.shift, end>>m.shift
	for first <= last {
		page := first / pageSectors
		stop := min(last, page*pageSectors+pageSectors-1)
		m.addPage(page, first%pageSectors, stop%pageSectors)
		if stop == ^uint64(0) {
			return
		}
		first = stop + 1
	}
}

func (m *sectorMap) addPage(page, from, to uint64) {
	s := &m.shards[page%mapShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pages[page]
	if p == nil {
		p = &mapPage{words: new([pageWords]uint64)}
		s.pages[page] = p
	}
	if p.words == nil {
		return
	}
	for w := from / 64; w <= to/64; w++ {
		mask := wordMask(w, from, to)
		p.count += bits.OnesCount64(mask &^ p.words[w])
		p.words[w] |= mask
	}
	if p.count == pageSectors {
		p.words = nil
	}
}

// wordMask has the bits of word w that lie in [from, to].
func wordMask(w, from, to uint64) uint64 {
	mask := ^uint64(0)
	if w == from/64 {
		mask <<= from % 64
	}
	if w == to/64 {
		mask &= ^uint64(0) >> (63 - to%64)
	}
	return mask
}

func (m *sectorMap) word(page, w uint64) uint64 {
	p := m.shards[page%mapShards].pages[page]
	switch {
	case p == nil:
		return 0
	case p.words == nil:
		return ^uint64(0)
	}
	return p.words[w]
}

// has says whether any sector of [start, start+length) is in the set. It must
// not run beside add.
func (m *sectorMap) has(start, length uint64) bool {
	for n := length; n > 0; {
		if sector := start >> m.shift; m.word(sector/pageSectors, sector%pageSectors/64)>>(sector%64)&1 != 0 {
			return true
		}
		step := min(uint64(1)<<m.shift, n)
		start, n = start+step, n-step
	}
	return false
}

// missing calls f with the first maximal ranges of m that are not in other (or,
// with in true, that are), in no certain order, until f returns false. It must
// not run beside add.
func (m *sectorMap) compare(other *sectorMap, in bool, f func(start, length uint64) bool) {
	for i := range m.shards {
		for page, p := range m.shards[i].pages {
			if p.words == nil && !in && other.full(page) {
				continue
			}
			if !m.comparePage(other, in, page, f) {
				return
			}
		}
	}
}

func (m *sectorMap) full(page uint64) bool {
	p := m.shards[page%mapShards].pages[page]
	return p != nil && p.words == nil
}

func (m *sectorMap) comparePage(other *sectorMap, in bool, page uint64, f func(start, length uint64) bool) bool {
	start, n := uint64(0), uint64(0) // the run being collected, in sectors
	for w := range uint64(pageWords) {
		o := other.word(page, w)
		if !in {
			o = ^o
		}
		bad := m.word(page, w) & o
		if bad == 0 && n == 0 {
			continue
		}
		for b := range uint64(64) {
			if bad>>b&1 != 0 {
				if n == 0 {
					start = page*pageSectors + w*64 + b
				}
				n++
				continue
			}
			if n > 0 && !f(start<<m.shift, n<<m.shift) {
				return false
			}
			n = 0
		}
	}
	return n == 0 || f(start<<m.shift, n<<m.shift)
}
