package disk

import (
	"testing"
)

func TestKernelNodesAreGood(t *testing.T) {
	leaves, nodes := 0, 0
	for _, m := range corpus(t) {
		if err := m.super.Validate(); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		for _, n := range m.nodes {
			check := CheckNode
			if n.IsLeaf() {
				check = CheckLeaf
				leaves++
			} else {
				nodes++
			}
			if err := check(n, m.g); err != nil {
				t.Errorf("%s: %v", m.name, err)
			}
			m.g.Writable = true
			if err := check(n, m.g); err != nil {
				t.Errorf("%s, for writing: %v", m.name, err)
			}
		}
	}
	if leaves < 50 || nodes < 5 {
		t.Errorf("%d leaves, %d interior nodes", leaves, nodes)
	}
}

func BenchmarkCheckLeaf(b *testing.B) {
	for _, m := range corpus(b) {
		if m.name != "n16k" && m.name != "default" {
			continue
		}
		owners := map[ObjectID][]Node{0: nil}
		for _, n := range m.nodes {
			if n.IsLeaf() && n.NrItems() > 10 {
				owners[n.Owner()] = append(owners[n.Owner()], n)
				owners[0] = append(owners[0], n)
			}
		}
		for owner, nodes := range owners {
			name := m.name + "/" + owner.String()
			if owner == 0 {
				name = m.name + "/all"
			}
			b.Run(name, func(b *testing.B) {
				b.SetBytes(int64(len(nodes) * m.g.NodeSize))
				b.ReportAllocs()
				for b.Loop() {
					for _, n := range nodes {
						if err := CheckLeaf(n, m.g); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}
