package fusefs

// AtimeMode says when reading a file changes its time of access. Only reads
// that reach the server count: what the kernel has in its memory it does not tell.
// It is there on every system, as what reads mount options is.
type AtimeMode int

// Modes.
const (
	AtimeRelative AtimeMode = iota // if it was changed since the last time, or that was a day ago
	AtimeAlways                    // mount option strictatime
	AtimeNever                     // mount option noatime
)
