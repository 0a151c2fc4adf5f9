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
//	Begin … End   Begin … End   …            Commit
//	operations: change trees,                run delayed refs, write new groups,
//	note delayed refs, write data            group items and root items, until
//	                                         nothing changes any more; then
//	                                         nodes → flush → superblock copy 0 →
//	                                         flush → other copies → flush
//
// There is always a running transaction; it is committed when somebody asks,
// when it has grown too large, or when space runs short. What it frees is
// pinned until its superblock is durable; what it made and dropped again is
// free at once.
//
// # Invariants
//
//	X1  Nothing that the last superblock refers to is written over.
//	X2  At commit the extent tree holds exactly the references that the trees
//	    hold; the free-space tree is its complement; a block group's used bytes
//	    are the sum of its extents.
//	X3  A failure after the first change and before the superblock is durable
//	    aborts: nothing is written any more, the disk stays at the last commit.
//	X4  Data is on the device before the commit that refers to it.
//
// # Lock order
//
//	FS.writer     one operation or the commit; a channel; I/O allowed
//	  FS.growth   the chunk tree, device items, system array; a channel; I/O allowed
//	    refs.mu   the delayed refs; no I/O
//	    Dirty.mu  the private nodes; no I/O
//
// Who holds the writer may wait for a chunk to be made, which takes growth but
// never the writer. The commit holds growth from the moment at which the chunk
// tree is final until the next transaction runs.
package txn
