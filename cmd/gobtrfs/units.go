package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/pflag"
)

// units chooses how sizes are printed; the flags are btrfs-progs' own. The zero
// value prints 1024-based sizes with two decimals.
type units struct {
	raw, si, iec bool
}

func (u *units) register(f *pflag.FlagSet) {
	f.BoolVarP(&u.raw, "raw", "b", false, "print sizes in bytes")
	f.BoolVar(&u.si, "si", false, "print sizes in units of 1000")
	f.BoolVar(&u.iec, "iec", false, "print sizes in units of 1024 (the default)")
}

// size formats n bytes.
func (u *units) size(n uint64) string {
	if u.raw {
		return strconv.FormatUint(n, 10)
	}
	base, suffixes := 1024.0, [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	if u.si {
		base, suffixes = 1000, [...]string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	}
	v, i := float64(n), 0
	for v >= base && i < len(suffixes)-1 {
		v /= base
		i++
	}
	return fmt.Sprintf("%.2f%s", v, suffixes[i])
}
