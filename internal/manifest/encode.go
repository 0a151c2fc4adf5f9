package manifest

import (
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gobtrfs/disk"
)

// Append appends e's line, with its newline, restricted to the keys in sel.
func Append(b []byte, e *Entry, sel Fields) []byte {
	b = append(b, '{')
	has := e.Has & sel
	for i := range fieldNames {
		f := Fields(1) << i
		if has&f == 0 {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, fieldNames[i]...)
		b = append(b, '"', ':')
		b = e.appendValue(b, f)
	}
	return append(b, '}', '\n')
}

func (e *Entry) appendValue(b []byte, f Fields) []byte {
	switch f {
	case Path:
		return appendString(b, Escape(e.Path))
	case TypeField:
		return append(b, '"', e.Type, '"')
	case Mode:
		m := e.Mode & 0o7777
		return append(b, '"', byte('0'+m>>9), byte('0'+m>>6&7), byte('0'+m>>3&7), byte('0'+m&7), '"')
	case UID:
		return strconv.AppendUint(b, uint64(e.UID), 10)
	case GID:
		return strconv.AppendUint(b, uint64(e.GID), 10)
	case Size:
		return strconv.AppendInt(b, e.Size, 10)
	case Nlink:
		return strconv.AppendUint(b, uint64(e.Nlink), 10)
	case Mtime:
		return appendTime(b, e.Mtime)
	case Ctime:
		return appendTime(b, e.Ctime)
	case Btime:
		return appendTime(b, e.Btime)
	case Ino:
		return strconv.AppendUint(b, e.Ino, 10)
	case Rdev:
		b = strconv.AppendUint(append(b, '"'), uint64(e.RdevMajor), 10)
		b = strconv.AppendUint(append(b, ':'), uint64(e.RdevMinor), 10)
		return append(b, '"')
	case Target:
		return appendString(b, Escape(e.Target))
	case Xattrs:
		return appendXattrs(b, e.Xattrs)
	case Flags:
		return strconv.AppendUint(b, uint64(e.Flags), 10)
	case Subvol:
		return strconv.AppendUint(b, uint64(e.Subvol), 10)
	case SHA256:
		b = append(b, '"')
		b = hex.AppendEncode(b, e.SHA256[:])
		return append(b, '"')
	case ReadError:
		return appendString(b, Escape(e.ReadError))
	default: // Stub
		return strconv.AppendBool(b, e.StubMarker)
	}
}

func appendXattrs(b []byte, attrs map[string][]byte) []byte {
	names := make([]string, 0, len(attrs))
	for n := range attrs {
		names = append(names, n)
	}
	slices.Sort(names)
	b = append(b, '{')
	for i, n := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, Escape(n))
		b = append(b, ':', '"')
		b = base64.StdEncoding.AppendEncode(b, attrs[n])
		b = append(b, '"')
	}
	return append(b, '}')
}

const nsPerSec = 1_000_000_000

// appendTime prints t as one integer, in ns since 1970. Seconds on disk have 64
// bits, so the product may not fit into 64; a hostile or a far-off time is
// printed exactly all the same.
func appendTime(b []byte, t disk.Time) []byte {
	const fits = 9_000_000_000 // seconds; times 1e9, plus any uint32, stays in int64
	if t.Sec > -fits && t.Sec < fits {
		return strconv.AppendInt(b, t.Sec*nsPerSec+int64(t.Nsec), 10)
	}
	n := big.NewInt(t.Sec)
	n.Mul(n, big.NewInt(nsPerSec)).Add(n, big.NewInt(int64(t.Nsec)))
	return n.Append(b, 10)
}

// Escape makes s printable: each name of a path that is printable UTF-8 without
// '%' stays as it is; in any other name every byte outside printable ASCII, and
// '%', becomes %XX, so that such a name is ASCII as a whole. Names are looked at
// one by one, so that a directory's name never changes how its children's names
// are written.
func Escape(s string) string {
	if clean(s) {
		return s
	}
	parts := strings.Split(s, "/")
	for i, p := range parts {
		if !clean(p) {
			parts[i] = escapeName(p)
		}
	}
	return strings.Join(parts, "/")
}

func clean(s string) bool {
	for i, r := range s {
		if r == '%' || !unicode.IsPrint(r) {
			return false
		}
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return false
			}
		}
	}
	return true
}

func escapeName(s string) string {
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, 3*len(s))
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '%' {
			b = append(b, '%', digits[c>>4], digits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// appendString quotes s, which Escape has made printable.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if c := s[i]; c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}
