// Package txn changes filesystems: trees by copy on write, the references to
// every extent, the accounting that follows from them, and the commit that
// makes it all durable at once.
//
// Glossary: a "private" node was made by the running transaction: nothing on
// disk refers to it. A "delayed ref" is a change of an extent's reference count
// that the extent tree does not show yet. A "shareable" tree is a subvolume:
// snapshots share its nodes. A node with "full backrefs" names itself, not its
// tree, as the parent of what it points to.
//
// # A transaction
//
//	     operations            settle, freeze           write                durable
//	N    Begin … End  …        refs, groups, roots      nodes → flush →      pins of N
//	                           to a fixed point         super → flush        are free
//	N+1                        ───────────────────────> operations …         settle …
//
// There is always a running transaction, which operations and readers of the
// running state use. A commit settles it under the writer (in memory, but for
// nodes that must be read), freezes its nodes and starts the next one; what is
// slow, the writing, happens beside that. Frozen nodes are read like any other
// and copied before they are changed. Commits are written one at a time.
//
// A transaction is committed when somebody asks (Commit; all who ask at a time
// share it), when it is old or has grown too large, or when space runs short.
// What transaction N frees is pinned until N's superblock is durable; what it
// made and dropped again is free at once.
//
// # Invariants
//
//	X1  Nothing that the last superblock refers to is written over, but bad
//	    copies of it with good ones (mender).
//	X2  At commit the extent tree holds exactly the references that the trees
//	    hold; the free-space tree is its complement; a block group's used bytes
//	    are the sum of its extents.
//	X3  A failure after the first change and before the superblock is durable
//	    aborts: nothing is written any more, the disk stays at the last commit.
//	X4  Data is on the device before the commit that refers to it.
//	X5  A frozen node never changes; its place is not given out before the
//	    superblock of a later transaction, which dropped it, is durable.
//	X6  What a log tree on the disk refers to, and its nodes, is not written over
//	    before the commit that it belongs to is durable.
//
// # Lock order
//
//	FS.admission  operations share it; one has it alone when space is short; tickets and commits are waited for
//	 cycle        taken by whoever commits, from before settling until the commit is durable; I/O allowed
//	  FS.state    the running transaction: a writer (an operation, settling), joint operations or readers (Look); I/O allowed
//	   FS.shape   nodes, as joint operations see them: one who makes, moves or drops some, or many who work in place; I/O allowed
//	    FS.growth the chunk tree, device items, system array, map of chunks; a channel; I/O allowed
//	    FS.contents shared while contents are written, under the state or without; I/O allowed. Still has it alone, under
//	              the cycle and without the state; who shares it waits for nothing but the device
//	      refs.mu, FS.treesMu, cycle.mu, Dirty.mu, latches of leaves, devStats.mu, mender.mu: innermost; no I/O
//
// Who holds the state for writing may wait for a chunk to be made, which takes
// growth but never the state, and never for a commit: so settling, which waits
// for the state and for growth, comes to its turn, and those who wait for a
// commit get one.
package txn
