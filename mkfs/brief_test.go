//go:build linux && !long

package mkfs

// long asks for the whole matrix, which takes minutes.
const long = false
