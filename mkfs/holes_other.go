//go:build !linux

package mkfs

// seekData says that there may be data everywhere: holes are found by reading them.
func seekData(_ int, at int64) int64 { return at }
