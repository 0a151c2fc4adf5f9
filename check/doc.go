// Package check verifies a whole filesystem and says what is wrong in words. It
// reads everything and changes nothing, and it judges bytes: it shares no
// in-memory state with the code that writes.
//
// # How it stays fast and small
//
// Trees are walked level by level. The pointers to one level are collected,
// sorted by address, and read in large pieces by all CPUs, so each tree block is
// read once, in physical order, however many snapshots share it. The root and
// the chunk tree come first, then the extent tree, because it says how the
// references of a block are kept, then the rest.
//
// Most of what has to be verified is that two multisets are equal: the
// references that the extent tree records and those that trees and files make;
// the entries of directories and the names of inodes; the items and the indexes
// of one directory. Each element is a term of 64 bits, a keyed hash with keys
// that are random in every process, and a multiset is the sum of its terms. So
// elements may come in any order and from any goroutine, nothing is sorted or
// spilled, and equality is one comparison. That a difference cancels has a
// probability of 2⁻⁶⁴, and no image can be built to make it happen. Ranges work
// the same way: the term of a range is that of its end less that of its start,
// so the terms of extents and free space add up to those of the block group
// exactly when each of its bytes is covered once. Sums are kept in buckets; only
// when one is not zero the leaves are read again, and what is in the bad buckets
// is compared one by one, in bounded memory.
//
// What items of one inode add up to is a state that merges with that of the
// neighbouring items (inodeState), so every leaf is digested alone and leaves
// are put together bottom-up (folder); a subtree that snapshots share is put
// together once. Which data has and which needs checksums is kept as sorted
// ranges (span) and compared by going through them side by side.
//
// # Memory
//
// Sums take the same memory for every filesystem. What grows with it has no
// pointers in it and is in paged arrays: a record for each tree block, what the
// leaves of files add up to, the pointers of interior blocks, and the sorted
// runs of pointers still to be followed, of ranges, and of the references that
// a diagnosis compares. All share the pages of one pool; when they are used up,
// the page that was not used for longest goes to a temporary file. So
// Options.Memory bounds a check whatever the size of the filesystem. On top come
// about 1 KiB for each chunk, device and subvolume, 50 bytes for each page in
// the file (0.3 %), and the findings that are kept.
//
// # Locks
//
//	collector.mu   (findings; no I/O)
//	checker.mu     (lists of rare items; no I/O; collector.mu may be taken below it)
//	pool.mu        (handing over sorted runs while a scan runs; I/O on the temporary file)
//	checker.progressMu  (held while Options.Progress runs)
package check
