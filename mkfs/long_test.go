//go:build linux && long

package mkfs

const long = true
