// Package fusefs serves a subvolume and everything below it through FUSE.
//
// Mount mounts, Serve answers until the mount is gone. What the kernel asks is
// answered from the public API of package btrfs; this package translates:
// inode numbers (nodes.go), attributes (attr.go), directories and their cookies
// (dir.go), errors (errno.go). The requests that change something
// belong to a value of their own; a read-only mount has one that answers EROFS
// (readonly.go).
//
// It speaks the FUSE protocol itself (go-fuse's RawFileSystem) and not go-fuse's
// tree of inodes: a number names an inode for as long as the filesystem exists,
// so the server finds it again after the kernel, or a restart of the server,
// has forgotten it, and keeps no object for each inode that was ever seen.
//
// A read-only mount has no handles at all. It answers OPEN and OPENDIR with
// ENOSYS, whereupon the kernel stops sending OPEN, FLUSH and RELEASE, keeps
// pages and directories cached across opens, and a small file costs one request
// in place of four. Nothing can change, so all that the kernel caches stays true
// for ever.
//
// Only Linux on 64-bit machines is served.
//
// Glossary: a "node" is what the FUSE protocol calls a nodeid: the number by
// which kernel and server name an inode. A "stub" is the empty directory that
// stands for a subvolume which a snapshot did not take along.
//
// Lock order: table.mu and faults.mu are leaves; no I/O happens under either.
package fusefs
