package mkfs

import (
	"bufio"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gobtrfs/disk"
)

// Mapping changes what the source says about its files.
type Mapping struct {
	// Owner gives every file this owner and group. Default: as in the source.
	Owner *Owner
	// IDs translates owners and groups. One that no range holds stays.
	IDs []IDRange
	// Umask takes these permission bits away from everything but symbolic
	// links. Default: 0.
	Umask uint32
	// Clamp is the latest time that a file may have; later ones become this.
	// Default: no limit.
	Clamp time.Time
	// KeepTimes takes over the times of access, of change and of birth as well
	// where the source knows them. They differ between copies of a tree, so
	// that the result is not reproducible from a copy. Default: all times are
	// the time of modification.
	KeepTimes bool
	// Exclude leaves out what matches: a pattern with a slash is held against
	// the whole path, another one against the last part (see path.Match).
	// Directories take along what is in them.
	Exclude []string
	// Xattrs adds attributes by path: see ParseXattrs. A path that is not in the
	// source and not excluded either is an error. Attributes of users ("user.") are
	// for files and directories only, as in Linux; other types of files get none.
	Xattrs map[string]map[string][]byte
	// Labels gives SELinux labels: see ParseFileContexts. They replace those in
	// the source.
	Labels []FileContext
}

// Owner is a user and a group.
type Owner struct{ UID, GID uint32 }

// IDRange maps Count ids from From on to those from To on.
type IDRange struct {
	Groups   bool // group ids; otherwise user ids
	From, To uint32
	Count    uint32
}

// FileContext is a line of an SELinux file_contexts file.
type FileContext struct {
	Pattern *regexp.Regexp
	Type    uint32 // st_mode type bits, 0: any
	Label   string // "" for <<none>>
	fixed   int    // length of the part without metacharacters
}

// ParseIDMap reads lines of "uid FROM TO [COUNT]" and "gid FROM TO [COUNT]".
// "#" begins a comment.
func ParseIDMap(r io.Reader) ([]IDRange, error) {
	var out []IDRange
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < 3 || len(f) > 4 || (f[0] != "uid" && f[0] != "gid") {
			return nil, fmt.Errorf("line %d: want uid|gid FROM TO [COUNT]", n)
		}
		v := [3]uint32{2: 1}
		for i, s := range f[1:] {
			x, err := strconv.ParseUint(s, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("line %d: %q is not an id", n, s)
			}
			v[i] = uint32(x)
		}
		out = append(out, IDRange{f[0] == "gid", v[0], v[1], v[2]})
	}
	return out, sc.Err()
}

// ParseXattrs reads what "getfattr --dump" writes: a line "# file: PATH", then
// lines NAME="text", NAME=0x hex or NAME=0s base64.
func ParseXattrs(r io.Reader) (map[string]map[string][]byte, error) {
	out := map[string]map[string][]byte{}
	var cur map[string][]byte
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		line := sc.Text()
		if file, ok := strings.CutPrefix(line, "# file: "); ok {
			p := strings.Trim(path.Clean("/"+unoctal(file)), "/")
			if cur = out[p]; cur == nil {
				cur = map[string][]byte{}
				out[p] = cur
			}
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		k, v, _ := strings.Cut(line, "=")
		if cur == nil {
			return nil, fmt.Errorf("line %d: attribute before \"# file:\"", n)
		}
		b, err := attrValue(v)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		cur[unoctal(k)] = b
	}
	return out, sc.Err()
}

func attrValue(v string) ([]byte, error) {
	switch {
	case v == "":
		return nil, nil
	case strings.HasPrefix(v, "0x") || strings.HasPrefix(v, "0X"):
		return hex.DecodeString(v[2:])
	case strings.HasPrefix(v, "0s") || strings.HasPrefix(v, "0S"):
		return base64.StdEncoding.DecodeString(v[2:])
	case len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"':
		return []byte(unoctal(v[1 : len(v)-1])), nil
	}
	return nil, fmt.Errorf("value %q is neither text in quotes, 0x nor 0s", v)
}

// unoctal undoes getfattr's escapes: \ooo, and \ before quotes and itself.
func unoctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			if i+3 < len(s) {
				if x, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
					b.WriteByte(byte(x))
					i += 3
					continue
				}
			}
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// ParseFileContexts reads an SELinux file_contexts file: lines of "REGEX [-T]
// CONTEXT". As with libselinux the last match wins, but patterns without
// metacharacters win over those with some.
func ParseFileContexts(r io.Reader) ([]FileContext, error) {
	types := map[string]uint32{"--": modeRegular, "-d": modeDir, "-l": modeSymlink, "-c": modeChar, "-b": modeBlock, "-p": modeFifo, "-s": modeSocket}
	var out []FileContext
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		f := strings.Fields(sc.Text())
		if len(f) == 0 || f[0][0] == '#' {
			continue
		}
		c := FileContext{Label: f[len(f)-1]}
		if len(f) == 3 {
			t, ok := types[f[1]]
			if !ok {
				return nil, fmt.Errorf("line %d: unknown file type %q", n, f[1])
			}
			c.Type = t
		}
		if len(f) < 2 || len(f) > 3 {
			return nil, fmt.Errorf("line %d: want PATTERN [TYPE] CONTEXT", n)
		}
		if c.Label == "<<none>>" {
			c.Label = ""
		}
		var err error
		if c.Pattern, err = regexp.Compile("^(?:" + f[0] + ")$"); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		c.fixed = strings.IndexAny(f[0], `.^$?*+|[({\`)
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b FileContext) int {
		return cmp.Compare(btoi(a.fixed < 0), btoi(b.fixed < 0))
	})
	return out, sc.Err()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// mapping is Mapping made ready. A nil one changes nothing.
type mapping struct{ Mapping }

func (m *mapping) excluded(p string) bool {
	if m == nil {
		return false
	}
	for _, pat := range m.Exclude {
		name := p
		if !strings.Contains(pat, "/") {
			name = path.Base(p)
		}
		if ok, _ := path.Match(strings.Trim(strings.TrimPrefix(pat, "./"), "/"), name); ok { // checked by validate
			return true
		}
	}
	return false
}

// validate finds patterns that can never be matched against.
func (m *mapping) validate() error {
	for _, pat := range m.Exclude {
		if _, err := path.Match(pat, ""); err != nil {
			return fmt.Errorf("pattern %q: %w", pat, err)
		}
	}
	for _, r := range m.IDs {
		if uint64(r.From)+uint64(r.Count) > 1<<32 || uint64(r.To)+uint64(r.Count) > 1<<32 {
			return fmt.Errorf("id range %d to %d of %d ends above %d", r.From, r.To, r.Count, uint32(1<<32-1))
		}
	}
	return nil
}

func (m *mapping) keepTimes() bool { return m != nil && m.KeepTimes }

// apply changes an inode as asked.
func (m *mapping) apply(i *inode) {
	if m == nil {
		return
	}
	i.uid, i.gid = m.translate(i.uid, false), m.translate(i.gid, true)
	if m.Owner != nil {
		i.uid, i.gid = m.Owner.UID, m.Owner.GID
	}
	if i.mode&modeType != modeSymlink {
		i.mode &^= m.Umask & modePerm
	}
}

func (m *mapping) translate(id uint32, group bool) uint32 {
	for _, r := range m.IDs {
		if r.Groups == group && id >= r.From && id-r.From < r.Count {
			return r.To + (id - r.From)
		}
	}
	return id
}

// clamp limits a time.
func (m *mapping) clamp(t disk.Time) disk.Time {
	if m == nil || m.Clamp.IsZero() {
		return t
	}
	limit := onDisk(m.Clamp)
	if t.Sec > limit.Sec || (t.Sec == limit.Sec && t.Nsec > limit.Nsec) {
		return limit
	}
	return t
}

// checkPaths finds attributes for what is not there.
func (m *mapping) checkPaths(t *tree) error {
	if len(m.Xattrs) == 0 {
		return nil
	}
	t.makeIndex()
	for _, p := range slices.Sorted(maps.Keys(m.Xattrs)) {
		if _, _, ok := t.find(p); !ok && !m.excludedBelow(p) {
			return fmt.Errorf("attributes for %q, which is not in the source", p)
		}
	}
	return nil
}

// excludedBelow says whether a path or a directory above it was left out.
func (m *mapping) excludedBelow(p string) bool {
	for ; p != "" && p != "."; p = path.Dir(p) {
		if m.excluded(p) {
			return true
		}
	}
	return false
}

// wantsPaths says whether changeXattrs needs to know paths.
func (m *mapping) wantsPaths() bool { return m != nil && (len(m.Xattrs) > 0 || len(m.Labels) > 0) }

const labelName = "security.selinux"

// changeXattrs adds and replaces attributes of the file at p. The result is
// sorted; xs is not changed.
func (m *mapping) changeXattrs(p string, mode uint32, xs []xattr) []xattr {
	set := func(k string, v []byte) {
		xs = append(slices.DeleteFunc(slices.Clone(xs), func(x xattr) bool { return x.name == k }), xattr{k, v})
	}
	for _, c := range slices.Backward(m.Labels) {
		if (c.Type == 0 || c.Type == mode&modeType) && c.Pattern.MatchString("/"+p) {
			if c.Label != "" {
				set(labelName, append([]byte(c.Label), 0))
			}
			break
		}
	}
	for k, v := range m.Xattrs[p] {
		if t := mode & modeType; t == modeRegular || t == modeDir || !strings.HasPrefix(k, "user.") {
			set(k, v)
		}
	}
	return sortXattrs(xs)
}

func sortXattrs(xs []xattr) []xattr {
	slices.SortFunc(xs, func(a, b xattr) int { return cmp.Compare(a.name, b.name) })
	return xs
}

// wantXattr says whether an attribute of the source belongs into the image.
// Those of other filesystems' own namespaces do not.
func wantXattr(name string) bool {
	switch {
	case name == "system.posix_acl_access", name == "system.posix_acl_default", name == "btrfs.compression":
		return true
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "trusted.")
}

func onDisk(t time.Time) disk.Time { return disk.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())} }

// fsMode is st_mode for io/fs's mode.
func fsMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for _, v := range []struct {
		bit fs.FileMode
		st  uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&v.bit != 0 {
			out |= v.st
		}
	}
	switch {
	case m.IsRegular():
		return out | modeRegular
	case m.IsDir():
		return out | modeDir
	case m&fs.ModeSymlink != 0:
		return out | modeSymlink
	case m&fs.ModeNamedPipe != 0:
		return out | modeFifo
	case m&fs.ModeSocket != 0:
		return out | modeSocket
	case m&fs.ModeCharDevice != 0:
		return out | modeChar
	case m&fs.ModeDevice != 0:
		return out | modeBlock
	}
	return out
}
