package oracle

import (
	"bytes"
	"fmt"
	"math/rand/v2"

	"gobtrfs/internal/csum"
)

// Text returns n bytes that compress well and differ from seed to seed.
func Text(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "line %d of %d: %x\n", b.Len(), seed, r.Uint32N(5000))
	}
	return b.Bytes()[:n]
}

// Noise returns n bytes that do not compress.
func Noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Collisions returns pairs of names that btrfs hashes to the same value: dir
// items of such names share one key.
func Collisions(pairs int) [][2]string {
	seen := map[uint32]string{}
	var out [][2]string
	for i := 0; len(out) < pairs; i++ {
		name := fmt.Sprintf("collide-%x", uint64(i)*0x9e3779b97f4a7c15)
		h := csum.NameHash([]byte(name))
		if other, ok := seen[h]; ok {
			out = append(out, [2]string{other, name})
		}
		seen[h] = name
	}
	return out
}
