//go:build !linux

package fstree

import "errors"

// ErrNoAttribute says that an inode has no extended attribute of that name.
// The name of its errno differs between systems.
var ErrNoAttribute = errors.New("no such attribute")
