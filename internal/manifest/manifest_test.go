package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"gobtrfs/disk"
)

func TestALineHasItsKeysInOrder(t *testing.T) {
	t.Parallel()
	full := Entry{
		Has: All &^ (Rdev | Target | ReadError | Stub), Path: `a "b"\c<&>/ü`, Type: 'f', Mode: 0o4644, UID: 1, GID: 4294967295,
		Size: 5, Nlink: 2, Mtime: disk.Time{Sec: 1, Nsec: 5}, Ctime: disk.Time{Sec: -1, Nsec: 999999999},
		Btime: disk.Time{Sec: 1 << 62}, Ino: 257, Xattrs: map[string][]byte{"user.b": {0xff}, "user.a": nil},
		Flags: 0x800000, Subvol: 5,
	}
	for _, tc := range []struct {
		name string
		e    Entry
		sel  Fields
		want string
	}{
		{"a file with everything", full, All, `{"path":"a \"b\"\\c<&>/ü","type":"f","mode":"4644","uid":1,"gid":4294967295,"size":5,"nlink":2,` +
			`"mtime_ns":1000000005,"ctime_ns":-1,"btime_ns":4611686018427387904000000000,"ino":257,` +
			`"xattrs":{"user.a":"","user.b":"/w=="},"flags":8388608,"subvol":5,"sha256":"` + strings.Repeat("00", 32) + `"}`},
		{"selected keys only", full, Path | Size, `{"path":"a \"b\"\\c<&>/ü","size":5}`},
		{"a stub", NewStub("x/y"), All, `{"path":"x/y","type":"d","ino":2,"stub":true}`},
		{"a device", Entry{Has: Path | TypeField | Rdev, Path: "null", Type: 'c', RdevMajor: 1, RdevMinor: 3}, All,
			`{"path":"null","type":"c","rdev":"1:3"}`},
		{"an unreadable file", Entry{Has: Path | ReadError, Path: "", ReadError: "EIO"}, All, `{"path":"","read_error":"EIO"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want+"\n", string(Append(nil, &tc.e, tc.sel))); diff != "" {
				t.Errorf("line (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNamesAreEscapedOneByOne(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                  "",
		"plain name":        "plain name",
		"grün/日本":           "grün/日本",
		"100%":              "100%25",
		"grün%":             "gr%C3%BCn%25",
		"grün/a\nb":         "grün/a%0Ab",
		"\xff\xfe":          "%FF%FE",
		"\uFFFD":            "\uFFFD",
		"nbsp\u00a0":        "nbsp%C2%A0",
		"zwj\u200d/ü":       "zwj%E2%80%8D/ü",
		"del\x7f":           "del%7F",
		"half\xc3/\xc3\xbc": "half%C3/ü",
	} {
		if got := Escape(in); got != want {
			t.Errorf("Escape(%q) = %q, want %q", in, got, want)
		}
	}
}

func anyEntry(t *rapid.T) Entry {
	name := rapid.StringOfN(rapid.Rune(), 0, 12, 40)
	raw := rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 12), func(b []byte) string { return string(b) })
	when := rapid.Custom(func(t *rapid.T) disk.Time {
		return disk.Time{Sec: rapid.Int64().Draw(t, "sec"), Nsec: rapid.Uint32Range(0, nsPerSec-1).Draw(t, "nsec")}
	})
	e := Entry{
		Has: All, Path: rapid.OneOf(name, raw).Draw(t, "path"), Type: rapid.SampledFrom([]byte("fdlcbps")).Draw(t, "type"),
		Mode: rapid.Uint32Range(0, 0o7777).Draw(t, "mode"), UID: rapid.Uint32().Draw(t, "uid"), GID: rapid.Uint32().Draw(t, "gid"),
		Size: rapid.Int64().Draw(t, "size"), Nlink: rapid.Uint32().Draw(t, "nlink"), Mtime: when.Draw(t, "mtime"),
		Ctime: when.Draw(t, "ctime"), Btime: when.Draw(t, "btime"), Ino: rapid.Uint64().Draw(t, "ino"),
		RdevMajor: rapid.Uint32().Draw(t, "major"), RdevMinor: rapid.Uint32().Draw(t, "minor"), Target: raw.Draw(t, "target"),
		Flags: rapid.Uint32().Draw(t, "flags"), Subvol: disk.ObjectID(rapid.Uint64().Draw(t, "subvol")), ReadError: "EIO",
		StubMarker: rapid.Bool().Draw(t, "stub"),
		Xattrs:     rapid.MapOf(raw, rapid.SliceOf(rapid.Byte())).Draw(t, "xattrs"),
	}
	copy(e.SHA256[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "sum"))
	return e
}

func TestParseUndoesAppend(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := anyEntry(t)
		line := Append(nil, &e, All)
		got, err := Parse(line)
		if err != nil {
			t.Fatalf("parse %s: %v", line, err)
		}
		if diff := cmp.Diff(e, got); diff != "" {
			t.Fatalf("round trip (-want +got):\n%s", diff)
		}
	})
}

func TestComparisonNamesEveryDifference(t *testing.T) {
	t.Parallel()
	want := Read(strings.NewReader(`{"path":"","type":"d"}
{"path":"a","type":"f","size":1,"xattrs":{"user.x":"eA=="}}
{"path":"gone","type":"f"}

{"path":"same","type":"l","target":"t"}
`))
	c, err := NewComparison(want, All)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range []string{
		`{"path":"","type":"d"}`, `{"path":"a","type":"f","size":2,"uid":0,"xattrs":{"user.y":"eQ=="}}`,
		`{"path":"new","type":"f"}`, `{"path":"same","type":"l","target":"t"}`,
	} {
		e, err := Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range c.Add(&e) {
			got = append(got, d.String())
		}
	}
	for _, d := range c.Missing() {
		got = append(got, d.String())
	}
	if diff := cmp.Diff([]string{
		"! a: uid: want (absent), got 0", "! a: size: want 1, got 2", `! a: xattrs[user.x]: want "x", got (absent)`,
		`! a: xattrs[user.y]: want (absent), got "y"`, "+ new", "- gone",
	}, got); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}

func TestReadRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		`{"path":"a","colour":"red"}`, `{"type":"f"}`, `{"path":"a","type":"x"}`, `{"path":"a","mode":"99"}`, `{"path":"%4"}`,
		`{"path":"%zz"}`, `{"path":"a","rdev":"1"}`, `{"path":"a","sha256":"00"}`, `{"path":"a","mtime_ns":1.5}`, `nonsense`,
		`{"path":"a","mtime_ns":99999999999999999999999999999999}`, `{"path":"a","xattrs":{"user.x":"?"}}`,
	} {
		if _, err := Parse([]byte(line)); err == nil {
			t.Errorf("Parse(%s) succeeded", line)
		}
	}
	if _, err := NewComparison(Read(strings.NewReader("{\"path\":\"a\"}\n{\"path\":\"a\"}\n")), All); err == nil {
		t.Error("a manifest that names a path twice was accepted")
	}
}

func TestFieldListsAreChecked(t *testing.T) {
	t.Parallel()
	got, err := ParseFields("size, mtime_ns")
	if err != nil || got != Path|Size|Mtime {
		t.Errorf("ParseFields = %v, %v", got, err)
	}
	if _, err := ParseFields("size,colour"); err == nil || !strings.Contains(err.Error(), "colour") {
		t.Errorf("unknown field: error %v", err)
	}
}

func TestPathsSortDepthFirst(t *testing.T) {
	t.Parallel()
	if ComparePaths("a/b", "a.txt") >= 0 || ComparePaths("", "a") >= 0 || ComparePaths("b", "a/z") <= 0 {
		t.Error("paths are not ordered depth first")
	}
}
