package fstree

import "syscall"

// ErrNoAttribute says that an inode has no extended attribute of that name. It
// is the errno that the system's calls give.
var ErrNoAttribute error = syscall.ENODATA
