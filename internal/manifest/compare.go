package manifest

import (
	"bytes"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Difference is one thing that two manifests disagree about.
type Difference struct {
	Path      string // raw bytes
	Field     string // the key; "" where the whole entry is on one side only
	Want, Got string // as they stand in a line, without quotes; "" = absent
}

// String is one line for people: "-" stands before what is missing, "+" before
// what should not be there, "!" before what differs.
func (d Difference) String() string {
	name := Escape(d.Path)
	if name == "" {
		name = "."
	}
	switch {
	case d.Field != "":
		return fmt.Sprintf("! %s: %s: want %s, got %s", name, d.Field, orAbsent(d.Want), orAbsent(d.Got))
	case d.Got == "":
		return "- " + name
	default:
		return "+ " + name
	}
}

func orAbsent(s string) string {
	if s == "" {
		return "(absent)"
	}
	return s
}

// Comparison holds a saved manifest against entries that arrive one by one. It
// is not safe for concurrent use.
type Comparison struct {
	sel  Fields
	want map[string]Entry
}

// NewComparison reads the manifest that is to be met. Only keys in sel are
// looked at. The whole of it is held in memory.
func NewComparison(want iter.Seq2[Entry, error], sel Fields) (*Comparison, error) {
	c := &Comparison{sel: sel, want: map[string]Entry{}}
	for e, err := range want {
		if err != nil {
			return nil, err
		}
		if _, dup := c.want[e.Path]; dup {
			return nil, fmt.Errorf("manifest names %q twice", Escape(e.Path))
		}
		c.want[e.Path] = e
	}
	return c, nil
}

// Add compares the next entry and returns what differs.
func (c *Comparison) Add(got *Entry) []Difference {
	want, ok := c.want[got.Path]
	if !ok {
		return []Difference{{Path: got.Path, Got: "present"}}
	}
	delete(c.want, got.Path)
	return diffEntries(&want, got, c.sel)
}

// Missing returns the entries that never came, in byte order of their paths.
func (c *Comparison) Missing() []Difference {
	var ds []Difference
	for _, p := range slices.SortedFunc(maps.Keys(c.want), ComparePaths) {
		ds = append(ds, Difference{Path: p, Want: "present"})
	}
	return ds
}

// ComparePaths orders paths as a manifest does: depth first, names in byte
// order, so that a directory's entries directly follow it.
func ComparePaths(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

func diffEntries(want, got *Entry, sel Fields) []Difference {
	var ds []Difference
	for i, name := range fieldNames {
		f := Fields(1) << i
		if sel&f == 0 {
			continue
		}
		if f == Xattrs {
			ds = append(ds, diffXattrs(want, got)...)
			continue
		}
		if w, g := want.text(f), got.text(f); w != g {
			ds = append(ds, Difference{Path: got.Path, Field: name, Want: w, Got: g})
		}
	}
	return ds
}

func (e *Entry) text(f Fields) string {
	if e.Has&f == 0 {
		return ""
	}
	return strings.Trim(string(e.appendValue(nil, f)), `"`)
}

// diffXattrs reports attribute by attribute. No attributes at all and an empty
// object mean the same.
func diffXattrs(want, got *Entry) []Difference {
	var ds []Difference
	names := slices.Collect(maps.Keys(want.Xattrs))
	for n := range got.Xattrs {
		if _, ok := want.Xattrs[n]; !ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		w, inWant := want.Xattrs[n]
		g, inGot := got.Xattrs[n]
		if inWant == inGot && bytes.Equal(w, g) {
			continue
		}
		d := Difference{Path: got.Path, Field: "xattrs[" + Escape(n) + "]"}
		if inWant {
			d.Want = fmt.Sprintf("%q", w)
		}
		if inGot {
			d.Got = fmt.Sprintf("%q", g)
		}
		ds = append(ds, d)
	}
	return ds
}
