// Package fusefs serves a subvolume and everything below it through FUSE.
//
// Mount mounts, Serve answers until the mount is gone. What the kernel asks is
// answered from the public API of package btrfs; this package translates:
// inode numbers (nodes.go), attributes (attr.go), directories and their cookies
// (dir.go), errors (errno.go). The requests that change something
// belong to a value of their own: one that carries them out (readwrite.go), or on
// a read-only mount one that answers EROFS (readonly.go).
//
// It speaks the FUSE protocol itself (go-fuse's RawFileSystem) and not go-fuse's
// tree of inodes: a number names an inode for as long as the filesystem exists,
// so the server finds it again after the kernel, or a restart of the server,
// has forgotten it, and keeps no object for each inode that was ever seen.
//
// No mount has handles. OPEN, OPENDIR and CREATE are answered with ENOSYS,
// whereupon the kernel stops sending them, and with them FLUSH and RELEASE; it
// keeps pages and directories cached across opens; a small file costs one
// request to read and one to make. Whether a file is in use is known all the
// same: the kernel takes its lookups of an inode back when it drops it
// (known.go).
//
// What a mount for writing shows is the running transaction, and all that
// changes it comes from the kernel, which knows what it makes out of date: so
// names and attributes are cached for ever, as on a read-only mount where
// nothing can change. Whoever changes it beside the kernel tells the kernel
// (notify.go).
//
// Only Linux on 64-bit machines is served.
//
// Glossary: a "node" is what the FUSE protocol calls a nodeid: the number by
// which kernel and server name an inode. A "stub" is the empty directory that
// stands for a subvolume which a snapshot did not take along.
//
// Lock order: the mutexes of table, known, ahead, faults and readWrite are leaves; no
// I/O happens under any.
package fusefs
