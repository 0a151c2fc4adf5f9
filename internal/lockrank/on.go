//go:build invariants || race

package lockrank

import (
	"fmt"
	"runtime"
	"sync"
)

// Mutex is a sync.Mutex with a place in the lock order. Set the place with
// Init before first use. It must not be copied.
type Mutex struct {
	mu    sync.Mutex
	rank  Rank
	order uint64
}

// shards keeps for each goroutine the mutexes it holds. Sharding by goroutine
// keeps the checker from becoming the lock that everybody waits for.
var shards [64]struct {
	mu   sync.Mutex
	held map[uint64][]*Mutex // protected by mu
}

// Init gives the mutex its rank and, among mutexes of one rank, its order.
func (m *Mutex) Init(r Rank, order uint64) { m.rank, m.order = r, order }

// Lock locks the mutex; it panics if the goroutine holds one that comes later
// in the order.
func (m *Mutex) Lock() {
	id := goroutineID()
	m.check(id)
	m.mu.Lock()
	m.push(id)
}

// TryLock locks the mutex if that needs no waiting. It cannot deadlock, so it
// may be used against the order.
func (m *Mutex) TryLock() bool {
	if !m.mu.TryLock() {
		return false
	}
	m.push(goroutineID())
	return true
}

// Unlock unlocks the mutex; it must be called by the goroutine that locked it.
func (m *Mutex) Unlock() {
	id := goroutineID()
	s := &shards[id%uint64(len(shards))]
	s.mu.Lock()
	held := s.held[id]
	at := -1
	for i, h := range held {
		if h == m {
			at = i
		}
	}
	if at < 0 {
		s.mu.Unlock()
		panic(fmt.Errorf("lockrank: unlock of rank %d by a goroutine that does not hold it", m.rank))
	}
	held = append(held[:at], held[at+1:]...)
	if len(held) == 0 {
		delete(s.held, id)
	} else {
		s.held[id] = held
	}
	s.mu.Unlock()
	m.mu.Unlock()
}

// AssertHeld panics if the caller does not hold the mutex.
func (m *Mutex) AssertHeld() {
	id := goroutineID()
	s := &shards[id%uint64(len(shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.held[id] {
		if h == m {
			return
		}
	}
	panic(fmt.Errorf("lockrank: rank %d is not held", m.rank))
}

func (m *Mutex) check(id uint64) {
	s := &shards[id%uint64(len(shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.held[id] {
		if h.rank > m.rank || h.rank == m.rank && h.order >= m.order {
			panic(fmt.Errorf("lockrank: lock of rank %d (order %d) while holding rank %d (order %d)",
				m.rank, m.order, h.rank, h.order))
		}
	}
}

func (m *Mutex) push(id uint64) {
	s := &shards[id%uint64(len(shards))]
	s.mu.Lock()
	if s.held == nil {
		s.held = make(map[uint64][]*Mutex)
	}
	s.held[id] = append(s.held[id], m)
	s.mu.Unlock()
}

// goroutineID reads the number from the header of the goroutine's own stack
// trace ("goroutine 7 [running]: …"): slow, but it needs nothing unsafe, and
// only checking builds pay for it.
func goroutineID() uint64 {
	var buf [40]byte
	n := runtime.Stack(buf[:], false)
	var id uint64
	for _, c := range buf[len("goroutine "):n] {
		if c < '0' || c > '9' {
			break
		}
		id = id*10 + uint64(c-'0')
	}
	return id
}
