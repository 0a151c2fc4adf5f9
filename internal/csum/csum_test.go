package csum

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"testing"

	"gobtrfs/disk"
)

var algorithms = []disk.CsumType{disk.CsumCRC32C, disk.CsumXXHash, disk.CsumSHA256, disk.CsumBLAKE2b}

func readGzip(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSuperblocksOfMkfsVerify(t *testing.T) {
	for i, name := range []string{"crc32c", "xxhash", "sha256", "blake2"} {
		alg := algorithms[i]
		b := readGzip(t, "testdata/super-"+name+".gz")
		if got := disk.CsumType(binary.LittleEndian.Uint16(b[0xc4:])); got != alg {
			t.Fatalf("%s: superblock names algorithm %v", name, got)
		}
		want, data := b[:disk.CsumSize], b[disk.CsumSize:]
		if got := Sum(alg, data); !bytes.Equal(got[:], want) {
			t.Errorf("%v: Sum is %x, the superblock has %x", alg, got, want)
		}
		if !Verify(alg, want, data) {
			t.Errorf("%v: Verify refuses the superblock", alg)
		}
		if got := Append([]byte{0xff}, alg, data); !bytes.Equal(got[1:], want[:alg.Size()]) || got[0] != 0xff {
			t.Errorf("%v: Append gave %x", alg, got)
		}
		for _, at := range []int{0, 100, len(data) - 1} {
			data[at] ^= 0x10
			if Verify(alg, want, data) {
				t.Errorf("%v: a flipped bit at %d verifies", alg, at)
			}
			data[at] ^= 0x10
		}
		for at := range alg.Size() {
			want[at] ^= 1
			if Verify(alg, want, data) {
				t.Errorf("%v: a checksum with byte %d flipped verifies", alg, at)
			}
			want[at] ^= 1
		}
		if Verify(alg, want[:alg.Size()-1], data) {
			t.Errorf("%v: a checksum cut short verifies", alg)
		}
	}
}

func TestUnknownAlgorithmNeverVerifies(t *testing.T) {
	if Verify(4, make([]byte, 32), nil) {
		t.Error("algorithm 4 verifies")
	}
	if got := Append(nil, 4, []byte("x")); len(got) != 0 {
		t.Errorf("algorithm 4 has the checksum %x", got)
	}
	if got := VerifyBlocks(4, nil, []byte("x"), 4096); got != 0 {
		t.Errorf("VerifyBlocks = %d, want 0", got)
	}
}

func TestBlocks(t *testing.T) {
	data := make([]byte, 5*4096+100)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	for _, alg := range algorithms {
		sums := AppendBlocks(nil, alg, data, 4096)
		if len(sums) != 6*alg.Size() {
			t.Fatalf("%v: %d bytes of checksums", alg, len(sums))
		}
		if got := VerifyBlocks(alg, sums, data, 4096); got != -1 {
			t.Errorf("%v: block %d differs in intact data", alg, got)
		}
		for block := range 6 {
			data[block*4096+7] ^= 1
			if got := VerifyBlocks(alg, sums, data, 4096); got != block {
				t.Errorf("%v: VerifyBlocks = %d, want %d", alg, got, block)
			}
			data[block*4096+7] ^= 1
		}
		if got := VerifyBlocks(alg, sums[:3*alg.Size()], data, 4096); got != 3 {
			t.Errorf("%v: VerifyBlocks with three checksums = %d, want 3", alg, got)
		}
	}
}

func TestNameHash(t *testing.T) {
	for name, want := range map[string]uint32{
		"text": 233393318, "zeros": 1378320618, "f": 411982631, "big4": 528520182, "default": 2378154706,
	} {
		if got := NameHash([]byte(name)); got != want {
			t.Errorf("NameHash(%q) = %d, want %d", name, got, want)
		}
	}
}

func TestExtrefHash(t *testing.T) {
	for name, want := range map[string]uint64{
		"a-rather-long-link-name-0511": 7505501, "a-rather-long-link-name-0502": 8449502,
	} {
		if got := ExtrefHash(257, []byte(name)); got != want {
			t.Errorf("ExtrefHash(257, %q) = %d, want %d", name, got, want)
		}
	}
}

func TestDataRefHash(t *testing.T) {
	for ino, want := range map[disk.ObjectID]uint64{
		297: 1007496931555208115, 298: 1007496931835677504, 300: 1007496932293888678, 296: 1007496935615555149,
	} {
		if got := DataRefHash(disk.TreeFS, ino, 0); got != want {
			t.Errorf("DataRefHash(5, %d, 0) = %d, want %d", ino, got, want)
		}
	}
}

func TestSendCRC(t *testing.T) {
	for _, s := range []string{
		"260000000100aa2b8a140f000200726f01001000" + "40bb4cd97659f746b1babcc835a8a0b202000800" + "0a00000000000000",
		"1c00000013000237" + "2d8c0f00000006000800000000000000000007000800" + "0000000000000000",
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		b = b[:10+binary.LittleEndian.Uint32(b)]
		want := binary.LittleEndian.Uint32(b[6:])
		clear(b[6:10])
		if got := SendCRC(b); got != want {
			t.Errorf("SendCRC of command %d = %#x, want %#x", b[4], got, want)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	data := make([]byte, 4096)
	buf := make([]byte, 0, 64)
	for _, alg := range algorithms {
		want := Sum(alg, data)
		if n := testing.AllocsPerRun(20, func() {
			buf = Append(buf[:0], alg, data)
			if !Verify(alg, want[:], data) {
				t.Error("does not verify")
			}
		}); n != 0 {
			t.Errorf("%v: %v allocations", alg, n)
		}
	}
}

func BenchmarkVerifyBlocks(b *testing.B) {
	for _, alg := range algorithms {
		b.Run(fmt.Sprint(alg), func(b *testing.B) {
			data := make([]byte, 128<<10)
			sums := AppendBlocks(nil, alg, data, 4096)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if VerifyBlocks(alg, sums, data, 4096) != -1 {
					b.Fatal("differs")
				}
			}
		})
	}
}
