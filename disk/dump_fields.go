package disk

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Field is one named value of a structure on disk. Values are integers, string,
// Key, UUID, Time, Flags, TreeID, Text, Hex, and for nested structures Fields or,
// where they repeat, []Fields.
type Field struct {
	Name  string
	Value any
}

// Fields are the values of one structure in the order in which a reader wants to
// see them. The readable dump and the JSON form are both made from them.
type Fields []Field

// Get is the value of the first field with this name, nil if there is none.
func (f Fields) Get(name string) any {
	for i := range f {
		if f[i].Name == name {
			return f[i].Value
		}
	}
	return nil
}

func (f *Fields) add(name string, value any) { *f = append(*f, Field{name, value}) }

// Flags is a word of bits with the names of those that have one.
type Flags struct {
	Value uint64
	names []string // by bit number, "" where a bit has no name
}

// Names are the names of the bits that are set. Bits without a name come last,
// together, in hexadecimal.
func (f Flags) Names() []string {
	out := []string{}
	unknown := f.Value
	for bit, name := range f.names {
		if name != "" && f.Value>>bit&1 != 0 {
			out = append(out, name)
			unknown &^= 1 << bit
		}
	}
	if unknown != 0 {
		out = append(out, fmt.Sprintf("%#x", unknown))
	}
	return out
}

// String is "0x5(A|C)", or "0x0(none)".
func (f Flags) String() string {
	if f.Value == 0 {
		return "0x0(none)"
	}
	return fmt.Sprintf("%#x(%s)", f.Value, strings.Join(f.Names(), "|"))
}

// MarshalJSON is an object of the value and the names.
func (f Flags) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Value uint64   `json:"value"`
		Names []string `json:"names"`
	}{f.Value, f.Names()})
}

// TreeID is an ObjectID that names a tree: it prints with the tree's name, and is
// a number in JSON.
type TreeID ObjectID

func (id TreeID) String() string { return ObjectID(id).String() }

// Text is bytes that are meant to be read: names, attribute values.
type Text []byte

// String is the text where it is printable UTF-8, otherwise Go's escapes stand
// for the bytes that are not. The backslash itself is always escaped.
func (t Text) String() string {
	q := strconv.Quote(string(t))
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

// MarshalJSON is String, as UTF-8.
func (t Text) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

// Hex is bytes that nobody reads.
type Hex []byte

func (h Hex) String() string { return hex.EncodeToString(h) }

// MarshalJSON is String.
func (h Hex) MarshalJSON() ([]byte, error) { return json.Marshal(h.String()) }

// String is seconds and nanoseconds with the date they stand for.
func (t Time) String() string {
	return fmt.Sprintf("%d.%09d (%s)", t.Sec, t.Nsec, time.Unix(t.Sec, 0).UTC().Format(time.DateTime))
}

// MarshalJSON is an object that keeps the order of the fields.
func (f Fields) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i := range f {
		if i > 0 {
			b = append(b, ',')
		}
		name, err := json.Marshal(f[i].Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(jsonValue(f[i].Value))
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, name...), ':'), value...)
	}
	return append(b, '}'), nil
}

// jsonValue replaces the values whose own types have no JSON form that suits.
func jsonValue(v any) any {
	switch v := v.(type) {
	case Key:
		return Fields{{"objectid", uint64(v.ObjectID)}, {"type", v.Type.String()}, {"offset", v.Offset}}
	case Time:
		return Fields{{"sec", v.Sec}, {"nsec", v.Nsec}}
	case TreeID:
		return uint64(v)
	}
	return v
}

// printer writes fields as lines of "name value name value", filled up to a
// width; nested structures get lines of their own.
type printer struct {
	b    strings.Builder
	line int // runes in the line under way, 0 at its start
}

const printWidth = 100

func (p *printer) fields(f Fields, indent string) {
	for i := range f {
		switch v := f[i].Value.(type) {
		case Fields:
			p.nested(f[i].Name, v, indent)
		case []Fields:
			for _, one := range v {
				p.nested(f[i].Name, one, indent)
			}
		default:
			p.word(f[i].Name+" "+printed(f[i].Value), indent)
		}
	}
	p.end()
}

func (p *printer) nested(name string, f Fields, indent string) {
	p.end()
	p.word(name+":", indent)
	p.fields(f, indent+"\t")
}

func printed(v any) string {
	switch v := v.(type) {
	case Key:
		return KeyText(v)
	case Text:
		return strconv.Quote(string(v))
	}
	return fmt.Sprint(v)
}

func (p *printer) word(s, indent string) {
	n := utf8.RuneCountInString(s)
	switch {
	case p.line == 0:
		p.b.WriteString(indent)
	case p.line+1+n > printWidth:
		p.b.WriteString("\n" + indent)
		p.line = 0
	default:
		p.b.WriteByte(' ')
		p.line++
	}
	p.b.WriteString(s)
	p.line += n
}

func (p *printer) end() {
	if p.line > 0 {
		p.b.WriteByte('\n')
		p.line = 0
	}
}
