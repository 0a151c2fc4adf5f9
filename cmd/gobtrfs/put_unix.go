//go:build unix

package main

import (
	"io/fs"
	"syscall"
)

// fileOwner is the owner of a file of this machine.
func fileOwner(fi fs.FileInfo) (uid, gid uint32) {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Uid, st.Gid
	}
	return 0, 0
}
