// Package space decides where bytes of a btrfs filesystem may go, and when a
// new chunk is made. It is pure: no I/O, no clock of its own, no goroutine that
// outlives Close; what it needs from trees it declares ([ChunkWriter],
// [FreeSpaceLoader], [Stage]).
//
// Glossary: a "chunk" maps logical addresses to devices, a "block group" is its
// space accounting; an [Info] sums the groups of one type; a "promise" is
// reserved bytes without a place; a "ticket" is a request that waits; a
// "flight" is one attempt to make one chunk; "pinned" bytes were freed but the
// last superblock still refers to them; a "hole" is contiguous free space.
//
// Life of a byte: Reserve promises it, AllocExtent gives it a place, MarkUsed
// records it, FreeExtent pins it, CommitDone frees it. Life of a chunk: a
// flight plans it, ChunkWriter.InsertChunk records it (phase 1), its group is
// used at once, the caller writes the group's items (phase 2: NewGroups,
// Written); empty, it is handed out by Unused, removed with Remove, and its
// place on the devices is free after CommitDone.
//
// # Invariants
//
//	I1   no stuck waiter: every ticket ends served, failed or cancelled.
//	I2   herd bound: requests raised in one generation make no more chunks than
//	     their bytes need; identical "one more extent" requests make one.
//	I3   outside a flight the info is not growing; one flight per info.
//	I4   served xor error; a served ticket's bytes are promised exactly once, a
//	     failed or cancelled one's never.
//	I5   "no space" is said only if nothing can be granted, growth failed in the
//	     current epoch, and every stage of the class ran after the request.
//	I6   other causes are never reported as "no space", and nobody receives
//	     somebody else's cancellation.
//	I7   counters are sums over groups, none negative; promises add up.
//	I8   device extents (committed ∪ pending) are disjoint and inside their
//	     devices; chunks are disjoint; SYSTEM chunks fit the superblock's array.
//	I9   copies of the superblock are never allocatable.
//	I10  what transaction t freed is not allocatable before CommitDone(t).
//	I11  first come, first served within a class.
//	I12  profiles survive the deletion of all data.
//	I13  after Abort or Close every waiter has an error, and no goroutine is left.
//	I14  no data chunk takes what metadata has promised, nor, while metadata is
//	     below its floor, the room of its next chunk.
//
// # Why nothing waits for ever
//
// Draw an arrow from whoever waits to what it waits for. (1) A flight waits for
// growSem, held only by another flight, and for InsertChunk, which by contract
// waits for no transaction and no ticket; its retries are bounded: flights end.
// (2) A prompt stage waits for no transaction: the prompt lane always frees.
// (3) ClassTransaction and ClassExtent wait only for the prompt lane, and no
// other class is served before them: so who holds a transaction open gets an
// answer, and transactions end. (4) A patient stage may wait for transactions,
// which end by (3): the patient lane frees. (5) Every other ticket waits for
// the two lanes and for tickets ahead of it; each activity ticks off one stage
// or the epoch's growth for all who were queued, rounds are bounded, so the
// front ticket is served or fails, and the next is the front. (6) Mutexes are
// held for computation only, in the order below. The arrows go down a finite
// ladder. TestExplore… in internal/lab walks every interleaving of (1)–(5),
// TestFreeze… and TestTransactionDoesNotWaitForCommit… run them for real.
//
// # Lock order
//
//	FS.growSem        held while a chunk is made; a channel; I/O allowed
//	Group.loading     one reader of a group's free space; a channel; I/O allowed
//	  Group.mu        counters and free index; several in order of address
//	    FS.mu         lists of groups, conversion targets, pinned groups
//	      FS.devMu    device extents, chunks on their way out, the array
//	        Info.mu   counters, protocol, waiters
//	          Reserve.mu
//
// No I/O, callback or wait happens under a mutex. Reservations without waiters
// take no lock at all (see headroom).
package space
