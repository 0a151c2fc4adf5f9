// Package btrfs reads btrfs filesystems in pure Go: from image files, block
// devices or anything that is a [blockdev.Device], on one device or many, with
// no kernel driver and no privileges.
//
// [Open] assembles a filesystem; a [Subvolume] is a tree of files in it; a
// [File] is any inode, with its contents, names and attributes.
// [Subvolume.IOFS] gives the standard library's view.
//
// Everything that is read has been verified against the filesystem's
// checksums; a bad copy is replaced by a good one where the profile keeps
// more, and [Events] tell of it. Errors are typed: [CorruptError] says on
// which device, at which address and in which tree the damage is. They match
// errnos: errors.Is(err, fs.ErrNotExist) holds for a missing name.
//
// All types are safe for concurrent use, except iterators.
package btrfs
