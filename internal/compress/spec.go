package compress

import (
	"fmt"
	"strconv"
	"strings"

	"gobtrfs/disk"
)

// A Spec is an algorithm and how hard it shall try, as users write it: "zstd:3".
type Spec struct {
	Algorithm disk.Compression
	// Level is 1 to 9 for zlib and -15 to 15 for zstd; 0 is the default (3 for
	// both). lzo has no levels.
	Level int
}

const defaultLevel = 3

// ParseSpec reads "zlib", "zlib:9", "lzo", "zstd", "zstd:15", and "none" or "no"
// for no compression.
func ParseSpec(s string) (Spec, error) {
	name, level, hasLevel := strings.Cut(s, ":")
	var spec Spec
	switch name {
	case "none", "no":
	case "zlib":
		spec = Spec{disk.CompressZlib, defaultLevel}
	case "lzo":
		spec.Algorithm = disk.CompressLZO
	case "zstd":
		spec = Spec{disk.CompressZstd, defaultLevel}
	default:
		return Spec{}, fmt.Errorf("unknown compression %q: want none, zlib, lzo or zstd", name)
	}
	if !hasLevel {
		return spec, nil
	}
	n, err := strconv.Atoi(level)
	if err != nil {
		return Spec{}, fmt.Errorf("compression level %q is not a number", level)
	}
	if n != 0 {
		spec.Level = n
	}
	return spec, spec.check()
}

// check says whether the level exists.
func (s Spec) check() error {
	low, high := 0, 0
	switch s.Algorithm {
	case disk.CompressNone, disk.CompressLZO:
	case disk.CompressZlib:
		high = 9
	case disk.CompressZstd:
		low, high = -15, 15
	default:
		return fmt.Errorf("unknown compression %v", s.Algorithm)
	}
	if s.Level < low || s.Level > high {
		return fmt.Errorf("%v has no level %d (%d to %d)", s.Algorithm, s.Level, low, high)
	}
	return nil
}

// level is Level with the default filled in.
func (s Spec) level() int {
	if s.Level == 0 && s.Algorithm != disk.CompressLZO && s.Algorithm != disk.CompressNone {
		return defaultLevel
	}
	return s.Level
}

// String is what ParseSpec reads.
func (s Spec) String() string {
	if l := s.level(); l != 0 {
		return fmt.Sprintf("%v:%d", s.Algorithm, l)
	}
	return s.Algorithm.String()
}
