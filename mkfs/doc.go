// Package mkfs makes btrfs filesystems, empty or with a whole tree of files in
// them, in one pass and without mounting anything.
//
// A populated filesystem is not made by transactions. The source is listed
// first, inodes are numbered in a canonical order, and then every tree is packed
// bottom-up with full leaves while the data streams to the devices in the same
// order. What the trees say depends on the source and the options alone: not on
// the order in which a directory lists its names, on the number of processors,
// or (with a given UUID and time) on when and where it runs.
//
// The stages, each in the file of its name:
//
//	source    Dir, Tar, FS or Entries fill a tree of inodes and names (tree)
//	number    canonical order, inode numbers, subvolumes
//	pipeline  workers read, find holes, compress and checksum, in order
//	assemble  one goroutine gives out addresses and packs items
//	tail      the trees that describe the others: their sizes depend on their own
//	          blocks, so they are computed to a fixed point before any is written
//	room      how much of a shrunk filesystem stays free
//	finish    nodes that were kept aside, parity, and last of all the superblocks
//
// Glossary: a "region" is where addresses of one kind (data, metadata, system)
// come from, chunk after chunk; "direct" layout puts every node at its final
// place at once, "compact" layout keeps the nodes aside until the data is placed
// and then puts them right behind it, for an image without slack.
//
// Memory: about 160 bytes and the name for every file, 40 bytes for every data
// extent, and a fixed 64 MiB or so for buffers; a process that makes an image of a
// million small files has some 400 to 500 MiB. Nodes kept aside by the compact
// layout go to a temporary file beyond 64 MiB.
package mkfs
