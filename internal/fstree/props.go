package fstree

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	"gobtrfs/disk"
)

// The algorithms that the property can name, and the feature each needs.
var compressions = []struct {
	name    string
	feature uint64
}{{"zlib", 0}, {"lzo", disk.IncompatCompressLZO}, {"zstd", disk.IncompatCompressZstd}}

// canCompress says whether a file's contents may be compressed at all.
func canCompress(item *disk.InodeItem) bool {
	return item.Flags&(disk.InodeNoDataCow|disk.InodeNoDataSum) == 0
}

// checkCompression refuses a value that the property cannot have. A level may
// follow the name, which is not looked at (prop_compression_validate, Linux
// 6.18).
func checkCompression(item *disk.InodeItem, value string) error {
	bad := fmt.Errorf("%s %.20q: %w", propCompression, value, syscall.EINVAL)
	switch {
	case value == "":
		return nil
	case !canCompress(item):
		return bad
	case value == "no" || value == "none":
		return nil
	}
	for _, c := range compressions {
		if strings.HasPrefix(value, c.name) {
			return nil
		}
	}
	return bad
}

// applyCompression sets the flags that go with a value of the property.
func (e *edit) applyCompression(ctx context.Context, item *disk.InodeItem, value string) error {
	item.Flags &^= disk.InodeCompress | disk.InodeNoCompress
	switch value {
	case "":
		return nil
	case "no", "none":
		item.Flags |= disk.InodeNoCompress
		return nil
	}
	item.Flags |= disk.InodeCompress
	for _, c := range compressions {
		if strings.HasPrefix(value, c.name) && c.feature != 0 {
			return e.w.tx.NeedIncompat(ctx, c.feature)
		}
	}
	return nil
}

// setCompression sets or, with an empty value, removes the property. Only files
// and directories have it; elsewhere setting it does nothing.
func (e *edit) setCompression(ctx context.Context, ino disk.ObjectID, item *disk.InodeItem, value string, how int) error {
	if err := checkCompression(item, value); err != nil {
		return err
	}
	if t := item.Mode & modeType; t != modeReg && t != modeDir {
		return nil
	}
	_, old, err := e.getXattr(ctx, ino, propCompression)
	if err != nil {
		return err
	}
	if err := checkHow(propCompression, old, how); err != nil {
		return err
	}
	if err := e.writeCompression(ctx, ino, item, value); err != nil {
		return err
	}
	item.Ctime = e.now
	return e.putInode(ctx, ino, item)
}

// writeCompression is setCompression without the checks. The inode is the
// caller's to write.
func (e *edit) writeCompression(ctx context.Context, ino disk.ObjectID, item *disk.InodeItem, value string) (err error) {
	if value == "" {
		_, err = e.dropXattr(ctx, ino, propCompression)
	} else {
		err = e.putXattr(ctx, ino, propCompression, []byte(value))
	}
	if err != nil {
		return err
	}
	return e.applyCompression(ctx, item, value)
}

// inheritedCompression is what a directory hands down: the algorithm without
// its level, and nothing if compression is turned off, which goes by the flag.
func (e *edit) inheritedCompression(ctx context.Context, dir disk.ObjectID) (string, error) {
	value, _, err := e.getXattr(ctx, dir, propCompression)
	if err != nil {
		return "", err
	}
	for _, c := range compressions {
		if strings.HasPrefix(string(value), c.name) {
			return c.name, nil
		}
	}
	return "", nil
}
