package extract

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"gobtrfs"
	"gobtrfs/disk"
)

// errUnkept marks what the destination cannot hold, or the process may not set.
var errUnkept = errors.New("not kept")

func unkept(what string, err error) error { return fmt.Errorf("%s %w: %w", what, errUnkept, err) }

// attrs is what a file gets after its contents: owner, then mode (a change of
// owner takes suid bits away), then xattrs (and capabilities), then times.
type attrs struct {
	item   *disk.InodeItem
	owner  bool // false: the owner stays who it is
	xattrs []btrfs.Xattr
}

// isNoData says that SeekData found nothing more.
func isNoData(err error) bool { return errors.Is(err, syscall.ENXIO) }

// xattrError sorts a failure to set an attribute: not all filesystems have all
// kinds, and some kinds are for root.
func xattrError(name string, err error) error {
	if err == nil {
		return nil
	}
	if strings.HasPrefix(name, "btrfs.") {
		return nil // a setting of btrfs, not a property of the file
	}
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.E2BIG) {
		return unkept("xattr "+name, err)
	}
	return fmt.Errorf("set xattr %s: %w", name, err)
}
