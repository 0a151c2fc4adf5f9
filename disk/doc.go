// Package disk is the on-disk format of btrfs: keys, items, tree blocks and
// the superblock, each with a decoder, an encoder and a validator.
//
// It does no I/O, takes no locks and imports only the standard library.
// All integers on disk are little-endian. Structs and fields keep the nouns of
// the kernel's format headers (include/uapi/linux/btrfs_tree.h, Linux 6.18),
// in the order in which they stand on disk.
//
// Decoders named ParseX take the bytes of one item, check every length before
// they look, and return an error that wraps ErrFormat; they never panic and
// never allocate more than the input's size. A slice that a decoder returns
// aliases its input unless the comment says otherwise. Encoders are methods
// named Append and append the item's exact bytes.
//
// Glossary: a "node" is a tree block (leaf or interior), never an inode; a
// "chunk" maps a logical range to stripes on devices; a "block group" is the
// space accounting of one chunk; "generation" is a TransID.
package disk
