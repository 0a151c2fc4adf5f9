// Package lockrank makes lock order checkable: every mutex has a rank, and a
// goroutine may lock only a mutex whose rank is above those it holds.
//
// In ordinary builds a [Mutex] is a sync.Mutex and nothing else. With the tags
// "invariants" or "race" each Lock looks up what its goroutine holds and panics
// on an inversion: the deadlock is then found by any single run that takes the
// two locks in the wrong order, not only by the run in which two goroutines
// meet.
//
// Several mutexes of one rank may be held together only if they are locked in
// ascending order of Order (say, the address of what they protect).
package lockrank

// Rank is a position in the order of locks; higher ranks are locked later.
type Rank uint16
