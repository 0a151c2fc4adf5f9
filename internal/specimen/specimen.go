// Package specimen holds small filesystems that Linux wrote, for tests that
// must run anywhere: without root, without btrfs-progs, on any system. The
// README beside it says how they were made.
package specimen

import (
	"bytes"
	"compress/gzip"
	_ "embed" // the images
	"fmt"
	"io"
	"sync"
	"testing"
)

//go:embed unclean.raw.gz.gz
var uncleanPacked []byte

var unclean = sync.OnceValues(func() ([]byte, error) { return unpack(uncleanPacked) })

// Raw is the raw image of a filesystem with a pending log tree. It is shared:
// it must not be changed.
func Raw() ([]byte, error) { return unclean() }

// Unclean is Raw for tests.
func Unclean(t testing.TB) []byte {
	t.Helper()
	raw, err := Raw()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// unpack undoes gzip twice.
func unpack(packed []byte) ([]byte, error) {
	outer, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack image: %w", err)
	}
	inner, err := gzip.NewReader(outer)
	if err != nil {
		return nil, fmt.Errorf("unpack image: %w", err)
	}
	raw, err := io.ReadAll(inner)
	if err != nil {
		return nil, fmt.Errorf("unpack image: %w", err)
	}
	return raw, nil
}
