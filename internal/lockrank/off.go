//go:build !invariants && !race

package lockrank

import "sync"

// Mutex is a sync.Mutex with a place in the lock order. Set the place with
// Init before first use. It must not be copied.
type Mutex struct{ mu sync.Mutex }

// Init gives the mutex its rank and, among mutexes of one rank, its order.
func (m *Mutex) Init(Rank, uint64) {}

// Lock locks the mutex.
func (m *Mutex) Lock() { m.mu.Lock() }

// Unlock unlocks the mutex.
func (m *Mutex) Unlock() { m.mu.Unlock() }

// TryLock locks the mutex if that needs no waiting.
func (m *Mutex) TryLock() bool { return m.mu.TryLock() }

// AssertHeld panics in checking builds if the caller does not hold the mutex.
func (m *Mutex) AssertHeld() {}
