package volume

import (
	"fmt"

	"gobtrfs/disk"
)

// Events are calls that the volume makes while it works; each may be nil. They
// run on the goroutine that found the thing, with no lock held, and must be
// safe for concurrent use.
type Events struct {
	// CorruptionFound: a copy was read whose bytes are wrong. The read went on
	// with the next mirror.
	CorruptionFound func(CorruptError)
	// ReadFailed: a device refused to give bytes. Missing devices are not
	// reported read by read; Open gives a Notice for them.
	ReadFailed func(DeviceError)
	// CorruptionRepaired: right bytes came from another mirror after one of
	// the two above.
	CorruptionRepaired func(Repair)
	// CopiesRewritten: bad copies were overwritten with the bytes of a good one,
	// or that was tried.
	CopiesRewritten func(Repair)
	// DiscardFailed: a device did not take back what is not used any more.
	DiscardFailed func(DeviceError)
	// Noticed: something about the set of devices that does not stop reading.
	Noticed func(Notice)
}

// Repair says where the right bytes came from.
type Repair struct {
	Logical   disk.Logical
	Length    int
	Mirror    int   // that gave the right bytes
	Rewritten int   // bad copies that were overwritten with them
	Err       error // of overwriting
}

// NoticeKind says what a Notice is about.
type NoticeKind int

// Kinds of notices.
const (
	NoticeSuperCopies  NoticeKind = iota + 1 // copies of one device's superblock differ or are damaged
	NoticeMissing                            // a member was not given
	NoticeStale                              // a member's superblock is older than the newest
	NoticeForeign                            // a device does not belong to the filesystem
	NoticeDuplicate                          // two devices claim to be the same member
	NoticePlaceholder                        // a device of no length, or without a superblock
	NoticeTruncated                          // a device is shorter than the filesystem thinks
	NoticeFSIDChange                         // an fsid change was not finished
	NoticeDeviceCount                        // the superblock counts other members than the chunk tree
	NoticeReadOnly                           // why the filesystem may only be read
	NoticeSystemChunks                       // system chunk array and chunk tree differ
	NoticeChunkRoot                          // the chunk root of a backup was used
	NoticeMetadataDump                       // restored by btrfs-image
)

// Notice is a finding about the set of devices.
type Notice struct {
	Kind NoticeKind
	Dev  disk.DevID // 0: unknown or none
	Name string     // of the device, "" for none
	Text string     // one line, lower case
}

func (n Notice) String() string {
	switch {
	case n.Name != "" && n.Dev != 0:
		return fmt.Sprintf("device %d (%s): %s", uint64(n.Dev), n.Name, n.Text)
	case n.Name != "":
		return fmt.Sprintf("%s: %s", n.Name, n.Text)
	case n.Dev != 0:
		return fmt.Sprintf("device %d: %s", uint64(n.Dev), n.Text)
	}
	return n.Text
}

func (v *Volume) notice(n Notice) {
	v.notices = append(v.notices, n)
	if v.events.Noticed != nil {
		v.events.Noticed(n)
	}
}
