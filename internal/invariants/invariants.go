// Package invariants turns expensive self-checks on and off at compile time.
//
// Code that recounts what it already knows sits behind [Enabled], a constant:
// in ordinary builds the compiler removes it. The tags "invariants" and "race"
// turn it on.
package invariants

import "fmt"

// Violated reports that something which cannot happen has happened. With
// checks enabled it panics, so that a test stops at the cause; otherwise it
// returns the error, which the caller must treat as fatal for the filesystem
// (abort, never continue).
func Violated(format string, args ...any) error {
	err := fmt.Errorf("invariant violated: "+format, args...)
	if Enabled {
		panic(err)
	}
	return err
}
