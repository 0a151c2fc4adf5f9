package manifest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/big"
	"strconv"
	"strings"

	"gobtrfs/disk"
)

// maxLine bounds one line: 64 KiB of every xattr in base64, a path of 4095
// escaped bytes, and room to spare.
const maxLine = 16 << 20

// Read yields the entries of a saved manifest. It stops after the first error,
// which names the line.
func Read(r io.Reader) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		s := bufio.NewScanner(r)
		s.Buffer(nil, maxLine)
		for n := 1; s.Scan(); n++ {
			if len(bytes.TrimSpace(s.Bytes())) == 0 {
				continue
			}
			e, err := Parse(s.Bytes())
			if err != nil {
				yield(Entry{}, fmt.Errorf("manifest line %d: %w", n, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
		if err := s.Err(); err != nil {
			yield(Entry{}, fmt.Errorf("read manifest: %w", err))
		}
	}
}

// Parse reads one line. Unknown keys are an error: a comparison that passed
// over them would claim more than it had looked at.
func Parse(line []byte) (Entry, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil {
		return Entry{}, err
	}
	var e Entry
	for i, name := range fieldNames {
		v, ok := raw[name]
		if !ok {
			continue
		}
		delete(raw, name)
		if err := e.parseValue(1<<i, v); err != nil {
			return Entry{}, fmt.Errorf("%s: %w", name, err)
		}
		e.Has |= 1 << i
	}
	for name := range raw {
		return Entry{}, fmt.Errorf("unknown key %q", name)
	}
	if e.Has&Path == 0 {
		return Entry{}, errors.New("no path")
	}
	return e, nil
}

func (e *Entry) parseValue(f Fields, v json.RawMessage) error {
	var err error
	switch f {
	case Path:
		e.Path, err = parseName(v)
	case TypeField:
		var s string
		if s, err = parseText(v); err == nil && (len(s) != 1 || !strings.Contains("fdlcbps", s)) {
			err = fmt.Errorf("unknown type %q", s)
		}
		if err == nil {
			e.Type = s[0]
		}
	case Mode:
		var s string
		var m uint64
		if s, err = parseText(v); err == nil {
			m, err = strconv.ParseUint(s, 8, 12)
			e.Mode = uint32(m)
		}
	case UID:
		err = json.Unmarshal(v, &e.UID)
	case GID:
		err = json.Unmarshal(v, &e.GID)
	case Size:
		err = json.Unmarshal(v, &e.Size)
	case Nlink:
		err = json.Unmarshal(v, &e.Nlink)
	case Mtime:
		e.Mtime, err = parseTime(v)
	case Ctime:
		e.Ctime, err = parseTime(v)
	case Btime:
		e.Btime, err = parseTime(v)
	case Ino:
		err = json.Unmarshal(v, &e.Ino)
	case Rdev:
		e.RdevMajor, e.RdevMinor, err = parseRdev(v)
	case Target:
		e.Target, err = parseName(v)
	case Xattrs:
		e.Xattrs, err = parseXattrs(v)
	case Flags:
		err = json.Unmarshal(v, &e.Flags)
	case Subvol:
		err = json.Unmarshal(v, &e.Subvol)
	case SHA256:
		err = parseSum(v, e.SHA256[:])
	case ReadError:
		e.ReadError, err = parseName(v)
	default: // Stub
		err = json.Unmarshal(v, &e.StubMarker)
	}
	return err
}

func parseText(v json.RawMessage) (s string, err error) {
	err = json.Unmarshal(v, &s)
	return s, err
}

func parseName(v json.RawMessage) (string, error) {
	s, err := parseText(v)
	if err != nil {
		return "", err
	}
	return Unescape(s)
}

// Unescape is the inverse of Escape.
func Unescape(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+3 > len(s) {
			return "", fmt.Errorf("cut escape in %q", s)
		}
		c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", fmt.Errorf("bad escape in %q", s)
		}
		b = append(b, byte(c))
		i += 2
	}
	return string(b), nil
}

func parseTime(v json.RawMessage) (disk.Time, error) {
	n, ok := new(big.Int).SetString(string(v), 10)
	if !ok {
		return disk.Time{}, fmt.Errorf("not an integer: %s", v)
	}
	sec, nsec := n.DivMod(n, big.NewInt(nsPerSec), new(big.Int))
	if !sec.IsInt64() {
		return disk.Time{}, fmt.Errorf("time out of range: %s", v)
	}
	return disk.Time{Sec: sec.Int64(), Nsec: uint32(nsec.Int64())}, nil
}

func parseRdev(v json.RawMessage) (major, minor uint32, err error) {
	s, err := parseText(v)
	if err != nil {
		return 0, 0, err
	}
	a, b, ok := strings.Cut(s, ":")
	x, errA := strconv.ParseUint(a, 10, 32)
	y, errB := strconv.ParseUint(b, 10, 32)
	if !ok || errA != nil || errB != nil {
		return 0, 0, fmt.Errorf("not major:minor: %q", s)
	}
	return uint32(x), uint32(y), nil
}

func parseXattrs(v json.RawMessage) (map[string][]byte, error) {
	var raw map[string]string
	if err := json.Unmarshal(v, &raw); err != nil {
		return nil, err
	}
	attrs := make(map[string][]byte, len(raw))
	for n, val := range raw {
		name, err := Unescape(n)
		if err != nil {
			return nil, err
		}
		b, err := base64.StdEncoding.DecodeString(val)
		if err != nil {
			return nil, fmt.Errorf("value of %s: %w", n, err)
		}
		attrs[name] = b
	}
	return attrs, nil
}

func parseSum(v json.RawMessage, dst []byte) error {
	s, err := parseText(v)
	if err != nil {
		return err
	}
	if len(s) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("sum of %d digits", len(s))
	}
	_, err = hex.Decode(dst, []byte(s))
	return err
}
