// Package manifest is the exact form of a file-tree manifest: one JSON object
// a line and entry, depth first, names in byte order.
//
// A manifest says what stat(2), readlink(2), listxattr(2) and the contents say,
// so that two trees, or a tree and an image, can be compared by a program. The
// package does no I/O on trees: whoever has a tree fills in Entries, be it the
// reader of an image or a walk over a mounted directory.
package manifest

import (
	"fmt"
	"strings"

	"gobtrfs/disk"
)

// Fields is a set of an entry's keys.
type Fields uint32

// The keys, in the order in which they stand in a line.
const (
	Path Fields = 1 << iota
	TypeField
	Mode
	UID
	GID
	Size
	Nlink
	Mtime
	Ctime
	Btime
	Ino
	Rdev
	Target
	Xattrs
	Flags
	Subvol
	SHA256
	ReadError
	Stub

	// All is every key.
	All Fields = 1<<iota - 1
	// Portable is what survives copying a tree to another filesystem of any
	// kind: not inode numbers, not ctime and btime, not what only btrfs has.
	Portable = Path | TypeField | Mode | UID | GID | Mtime | Rdev | Target | Xattrs | SHA256 | ReadError | Stub
)

var fieldNames = [...]string{
	"path", "type", "mode", "uid", "gid", "size", "nlink", "mtime_ns", "ctime_ns", "btime_ns",
	"ino", "rdev", "target", "xattrs", "flags", "subvol", "sha256", "read_error", "stub",
}

// ParseFields reads a comma-separated list of keys. "path" is always part of
// the result: a line without it says nothing.
func ParseFields(list string) (Fields, error) {
	set := Path
next:
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		for i, n := range fieldNames {
			if n == name {
				set |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("unknown manifest field %q (known: %s)", name, strings.Join(fieldNames[:], ","))
	}
	return set, nil
}

// String lists the set's keys, separated by commas.
func (f Fields) String() string {
	var names []string
	for i, n := range fieldNames {
		if f&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

// Entry is one line: a file of any type. Values count only where Has names
// their key.
type Entry struct {
	Has Fields

	Path       string // raw bytes, relative to the top, "" for the top itself
	Type       byte   // one of f d l c b p s
	Mode       uint32 // permission, suid, sgid and sticky bits
	UID, GID   uint32
	Size       int64
	Nlink      uint32
	Mtime      disk.Time
	Ctime      disk.Time
	Btime      disk.Time
	Ino        uint64
	RdevMajor  uint32
	RdevMinor  uint32
	Target     string            // raw bytes
	Xattrs     map[string][]byte // full name with its namespace
	Flags      uint32            // FS_IOC_GETFLAGS bits
	Subvol     disk.ObjectID
	SHA256     [32]byte
	ReadError  string // an errno's name, such as "EIO"
	StubMarker bool
}

// NewStub returns the line for a directory that only stands for a subvolume
// which a snapshot did not take along.
func NewStub(path string) Entry {
	return Entry{Has: Path | TypeField | Ino | Stub, Path: path, Type: 'd', Ino: 2, StubMarker: true}
}
