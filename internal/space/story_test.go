package space

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"gobtrfs/disk"
)

// The files in testdata/stories tell what happens to a filesystem, a command
// and the state after it at a time. Rewrite them with -rewrite and read the
// difference.
//
//	fs devices=10g,10g data=single metadata=dup   a new filesystem
//	write name n                                  reserve, allocate, record
//	free name                                     free what was written
//	reserve type n [class]   release type n       promises
//	reserve-global n                              size of the global reserve
//	commit      unused       add-device n         as they say
//	convert type profile                          profile of new chunks
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		st := &story{files: make(map[string][]Range)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			st.t = t
			said := st.run(d)
			st.sim.verify()
			return said + st.state()
		})
	})
}

type story struct {
	t     *testing.T
	sim   *sim
	files map[string][]Range
}

func (st *story) run(d *datadriven.TestData) string {
	word := func(n int) string { return d.CmdArgs[n].Key }
	info := func(n int) *Info { return st.sim.info(storyTypes[word(n)]) }
	err := error(nil)
	switch d.Cmd {
	case "fs":
		st.format(d)
	case "write":
		n := storySize(st.t, word(1))
		if err = st.sim.Data().Reserve(context.Background(), n, ClassNormal); err == nil {
			st.sim.Data().Release(n)
			st.files[word(0)] = st.sim.write(st.sim.Data(), n)
		}
	case "free":
		st.sim.free(st.files[word(0)])
		delete(st.files, word(0))
	case "reserve":
		class := ClassNormal
		if len(d.CmdArgs) > 2 {
			class = map[string]Class{"transaction": ClassTransaction, "steal": ClassSteal, "emergency": ClassEmergency}[word(2)]
		}
		err = info(0).Reserve(context.Background(), storySize(st.t, word(1)), class)
	case "release":
		info(0).Release(storySize(st.t, word(1)))
	case "reserve-global":
		st.sim.GlobalReserve().Resize(storySize(st.t, word(0)))
		waitIdle(st.sim.Metadata())
	case "commit":
		st.sim.commit()
	case "unused":
		for _, g := range st.sim.Unused() {
			st.sim.must(g.Remove(st.sim.running()))
		}
	case "add-device":
		st.sim.must(st.sim.AddDevice(DeviceSpec{ID: disk.DevID(len(st.sim.devs) + 1), Size: storySize(st.t, word(0))}))
	case "convert":
		p, _ := disk.ParseProfile(word(1))
		st.sim.SetTarget(storyTypes[word(0)], p)
	default:
		st.t.Fatalf("%s: no command %q", d.Pos, d.Cmd)
	}
	var e *SpaceError
	if errors.As(err, &e) {
		return fmt.Sprintf("%v\n", e)
	}
	if err != nil {
		return fmt.Sprintf("error: %v\n", err)
	}
	return ""
}

var storyTypes = map[string]disk.BlockGroupFlags{"data": data, "metadata": meta, "system": system}

func storySize(t *testing.T, s string) Bytes {
	unit := map[byte]Bytes{'k': KiB, 'm': MiB, 'g': GiB}[s[len(s)-1]]
	n := Bytes(0)
	if _, err := fmt.Sscan(s[:len(s)-1], &n); err != nil || unit == 0 {
		t.Fatalf("size %q", s)
	}
	return n * unit
}

func (st *story) format(d *datadriven.TestData) {
	c := simConfig{dataSize: 0}
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "devices":
			for _, v := range a.Vals {
				c.devs = append(c.devs, storySize(st.t, v))
			}
		case "metadata":
			p, _ := disk.ParseProfile(a.Vals[0])
			c.meta = p.Flag
		case "data":
			p, _ := disk.ParseProfile(a.Vals[0])
			c.data, c.dataSize = p.Flag, 8*MiB
		}
	}
	st.sim = newSim(st.t, c)
}

// state is a table of what there is.
func (st *story) state() string {
	var b strings.Builder
	s := st.sim.Snapshot()
	for _, u := range s.Infos {
		fmt.Fprintf(&b, "%-8v %d groups, next %v: total %v", u.Type, u.Groups, disk.ProfileOf(u.Profile).Name, u.Total)
		for _, n := range []struct {
			name string
			b    Bytes
		}{{"used", u.Used}, {"reserved", u.Reserved}, {"pinned", u.Pinned}, {"read-only", u.ReadOnly}, {"promised", u.Promised}} {
			if n.b != 0 {
				fmt.Fprintf(&b, ", %s %v", n.name, n.b)
			}
		}
		b.WriteString("\n")
	}
	for _, d := range s.Devices {
		fmt.Fprintf(&b, "device %d unallocated %v", d.ID, d.Unallocated)
		if d.Pending != 0 {
			fmt.Fprintf(&b, ", %v of it after the commit", d.Pending)
		}
		b.WriteString("\n")
	}
	return b.String()
}
