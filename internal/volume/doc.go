// Package volume makes one address space out of a filesystem's devices: it
// reads the superblocks, assembles the members, walks the chunk tree, and maps
// logical addresses to places on devices for every RAID profile.
//
// Glossary: a "mirror" is one way to read a logical address, numbered from 1.
// For profiles that keep copies it is a copy. For RAID5 and RAID6 mirror 1 is
// the data stripe itself and the others are reconstructions (see rebuild). A
// "member" is a device whose superblock belongs to the filesystem; a member is
// "stale" when its superblock is older than the newest one, so that it may have
// missed writes; it is "missing" when the filesystem names it and nobody gave
// it to Open.
//
// What is read is checked here: ReadNode verifies checksum, address and fsid,
// ReadData verifies a checksum per sector, and both go on to the next mirror
// when a device fails or a check does. Bytes that failed a check are never
// left in the caller's buffer.
//
// Concurrency: everything is safe for concurrent use. Reads take no lock. The
// chunk map and the superblock are immutable once published, behind atomic
// pointers; writers publish copies. One call reads one piece after another:
// who wants several devices to work at the same time reads from several
// goroutines, as the layers above do, and so no goroutine starts for a read
// that is a copy out of the page cache.
//
// Memory: Open keeps one entry per chunk and per device. The chunk tree is
// walked node by node, each address at most once, and a node counts only when
// it names its own address, so the walk is bounded by the bytes on the devices.
package volume
