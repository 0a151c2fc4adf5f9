package fusefs

import (
	"testing"

	"pgregory.net/rapid"

	"gobtrfs/disk"
)

func TestNodesAreUniqueAndLeadBack(t *testing.T) {
	t.Parallel()
	numbers := []uint64{0, 1, 2, 5, 255, 256, 257, 1 << 23, 1<<23 - 1, 1<<23 - 2, 1<<40 - 1, 1 << 40, 1<<62 - 1, 1 << 62, 1 << 63, 1<<64 - 1, 1<<64 - 256}
	number := rapid.OneOf(rapid.SampledFrom(numbers), rapid.Uint64())
	places := rapid.Custom(func(t *rapid.T) place {
		return place{disk.ObjectID(number.Draw(t, "subvol")), disk.ObjectID(number.Draw(t, "ino"))}
	})
	rapid.Check(t, func(t *rapid.T) {
		top, a, b := places.Draw(t, "top"), places.Draw(t, "a"), places.Draw(t, "b")
		ia, oka := pack(top, a)
		ib, okb := pack(top, b)
		if oka {
			if back, ok := unpack(top, ia); !ok || back != a {
				t.Fatalf("%v is node %#x, which leads to %v, %v", a, ia, back, ok)
			}
			if ia == 0 || ia == ^nodeID(0) || ia&(nodeForeign|nodeTabled) == nodeTabled {
				t.Fatalf("%v is node %#x, which is taken", a, ia)
			}
		}
		if oka && okb && (ia == ib) != (a == b) {
			t.Fatalf("%v is node %#x and %v is node %#x", a, ia, b, ib)
		}
	})
}

func TestOrdinaryInodesNeedNoTable(t *testing.T) {
	t.Parallel()
	top := place{5, 256}
	for _, tc := range []struct {
		p    place
		want nodeID
	}{
		{place{5, 256}, 1},
		{place{5, 257}, 257},
		{place{256, 256}, 1<<63 | 256<<40 | 256},
		{place{1<<23 - 2, 1<<40 - 1}, 1<<63 | (1<<23-2)<<40 | (1<<40 - 1)},
	} {
		if got, ok := pack(top, tc.p); !ok || got != tc.want {
			t.Errorf("%v is node %#x, %v, want %#x", tc.p, got, ok, tc.want)
		}
	}
}

func TestTabledNodesLiveAsLongAsTheKernelKnowsThem(t *testing.T) {
	t.Parallel()
	var tab table
	a, b := tableKey{place{5, 256}, "a"}, tableKey{place{5, 256}, "b"}
	first := tab.add(a, nil)
	if again := tab.add(a, nil); again != first {
		t.Errorf("the same name is node %#x and then %#x", first, again)
	}
	other := tab.add(b, nil)
	if other == first {
		t.Error("two names are one node")
	}
	tab.forget(first, 1)
	if n := tab.size(); n != 2 {
		t.Errorf("%d nodes after one of two lookups was forgotten, want 2", n)
	}
	tab.forget(first, 7) // more than there were must not wrap around
	tab.forget(12345, 1)
	if n := tab.size(); n != 1 {
		t.Errorf("%d nodes, want 1", n)
	}
	if next := tab.add(a, nil); next == first || next == other {
		t.Errorf("node %#x is used twice", next)
	}
}
