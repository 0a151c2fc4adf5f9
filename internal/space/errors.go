package space

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"gobtrfs/disk"
)

var (
	// ErrNoSpace is what every honest "no space" error is; it unwraps to
	// syscall.ENOSPC. A ChunkWriter returns it when the trees have no room.
	ErrNoSpace = fmt.Errorf("no space left: %w", syscall.ENOSPC)

	// ErrTransient marks a failure of a ChunkWriter that may pass by itself.
	// The grower retries it a bounded number of times.
	ErrTransient = errors.New("transient failure")

	// ErrAborted is wrapped by every error after Abort.
	ErrAborted = errors.New("filesystem aborted")

	// ErrClosed is wrapped by every error after Close.
	ErrClosed = errors.New("space allocator closed")

	// ErrCorrupt is wrapped by errors about accounting or geometry that the
	// caller brought in and that cannot be true: overlapping device extents,
	// space freed twice, a group that uses more than it has.
	ErrCorrupt = errors.New("space accounting is corrupt")

	// ErrBusy is returned when a group cannot be removed or relocated now.
	ErrBusy = errors.New("block group is busy")
)

func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// SpaceError is an ErrNoSpace that explains itself: what was asked, what there
// was, and what was tried. It is made once, when the request fails.
type SpaceError struct {
	Type         disk.BlockGroupFlags // type of the space info
	Profile      disk.BlockGroupFlags // profile a new chunk would have had
	Need         Bytes                // bytes asked for; 0: one more chunk
	Piece        Bytes                // smallest contiguous piece that would have done, 0 if any
	Free         Bytes                // total - used - reserved - pinned - read-only - promised
	Overcommit   Bytes                // what might be promised beyond that
	Pinned       Bytes                // free after the next commit
	LargestHole  Bytes                // in the groups that may be allocated from
	Unallocated  []DeviceFree         // per device
	GrowthFailed string               // why no chunk was made, "" if none was tried
	Tried        []string             // what was tried to make room, in order
}

// DeviceFree says what a device could still give to chunks.
type DeviceFree struct {
	Dev         disk.DevID
	Unallocated Bytes // size - reserved start - allocated
	LargestHole Bytes // the longest piece of it that may be used now
}

// Error names the need first and then everything that could have met it.
func (e *SpaceError) Error() string {
	var b strings.Builder
	if e.Need > 0 {
		fmt.Fprintf(&b, "no space for %v of %v", e.Need, e.Type)
	} else {
		fmt.Fprintf(&b, "no space for another chunk of %v", e.Type)
	}
	if e.Piece > 0 {
		fmt.Fprintf(&b, " in pieces of %v", e.Piece)
	}
	fmt.Fprintf(&b, " (%s): free %v", disk.ProfileOf(e.Profile).Name, e.Free)
	if e.Overcommit != 0 {
		fmt.Fprintf(&b, " and %v of overcommit", e.Overcommit)
	}
	fmt.Fprintf(&b, ", largest hole %v, pinned %v", e.LargestHole, e.Pinned)
	for _, d := range e.Unallocated {
		fmt.Fprintf(&b, ", device %d has %v unallocated (largest %v)", d.Dev, d.Unallocated, d.LargestHole)
	}
	if e.GrowthFailed != "" {
		fmt.Fprintf(&b, "; no new chunk: %s", e.GrowthFailed)
	}
	if len(e.Tried) > 0 {
		fmt.Fprintf(&b, "; tried %s", strings.Join(e.Tried, ", "))
	}
	return b.String()
}

// Unwrap makes errors.Is(err, ErrNoSpace) and errors.Is(err, syscall.ENOSPC) hold.
func (e *SpaceError) Unwrap() error { return ErrNoSpace }
