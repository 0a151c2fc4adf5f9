// Package lab compares ways to decide when a filesystem makes a new chunk: the
// ones btrfs had and was offered since 2013, and ours.
//
// Each policy is a small state machine over atomic steps (what happens under
// one lock, without a wait, is one step). [Simulate] runs one workload through
// a policy with a virtual clock, deterministic from a seed. [Explore] walks
// every interleaving of a small case and reports the shortest schedule to each
// kind of violation. For our own policy the steps are those of space.Protocol
// itself, the code that runs in production.
//
// Deadlock-freedom of internal/space (its package comment, arrows 1 to 5) is
// checked here: in the complete graph of states no path leads to a state from
// which not every caller returns, and there is no cycle.
package lab
