package block

import (
	"math/rand/v2"
	"testing"

	"gobtrfs/disk"
)

// TestDirtyAgainstMap: what was added is found and what was removed is not,
// before and after freezing, while the table grows and others look.
func TestDirtyAgainstMap(t *testing.T) {
	const size = 4096
	d := NewDirty()
	stop := make(chan struct{})
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		for i := disk.Logical(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			a := i % 5000 * size
			if n, _ := d.Get(a); n != nil && n.Bytenr() != a {
				t.Errorf("node %d is found at %d", n.Bytenr(), a)
				return
			}
		}
	}()
	rnd := rand.New(rand.NewPCG(1, 2))
	frozen, private := map[disk.Logical]bool{}, map[disk.Logical]bool{}
	verify := func() {
		for a := disk.Logical(0); a < 5000*size; a += size {
			n, mine := d.Get(a)
			if (n != nil) != (private[a] || frozen[a]) || mine != private[a] || (d.Private(a) != nil) != private[a] {
				t.Fatalf("node %d: found %v, private %v; want %v, %v", a, n != nil, mine, private[a] || frozen[a], private[a])
			}
		}
		if d.Len() != len(private) {
			t.Fatalf("%d private nodes, want %d", d.Len(), len(private))
		}
		if got := d.sorted(); len(got) != len(frozen) {
			t.Fatalf("%d frozen nodes, want %d", len(got), len(frozen))
		}
	}
	for range 3 {
		for range 20000 {
			a := disk.Logical(rnd.IntN(5000)) * size
			if rnd.IntN(3) == 0 {
				d.Remove(a)
				delete(private, a)
				continue
			}
			n := make(disk.Node, 128)
			n.SetBytenr(a)
			d.Add(n)
			private[a] = true
		}
		verify()
		d.Freeze()
		frozen, private = private, map[disk.Logical]bool{}
		verify()
	}
	close(stop)
	<-looked
}
