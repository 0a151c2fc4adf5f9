package compress

import "encoding/binary"

// Compressible guesses from a sample whether compressing is worth the time. It
// takes microseconds, always answers true for samples below one KiB, and errs
// towards true: it says false only of data whose bytes are as good as evenly
// distributed (media, archives, ciphertext) and that does not repeat itself.
func Compressible(sample []byte) bool {
	const minSample = 1 << 10
	return len(sample) < minSample || unevenBytes(sample) || repeats(sample)
}

// unevenBytes looks at the chance that two bytes of the sample are equal. Its
// inverse is the size of the alphabet that evenly used letters would need: 256
// for noise, about 15 for text, 64 for base64.
func unevenBytes(sample []byte) bool {
	const evenLetters = 200 // Huffman coding saves less than 5 % from here on
	const run, runs = 16, 256
	step := max(run, len(sample)/runs)
	var count [256]uint32
	total := uint64(0)
	for at := 0; at+run <= len(sample); at += step {
		for _, b := range sample[at : at+run] {
			count[b]++
		}
		total += run
	}
	pairs := uint64(0)
	for _, c := range count {
		pairs += uint64(c) * uint64(max(c, 1)-1)
	}
	return pairs*evenLetters > total*(total-1)
}

// repeats looks for eight-byte words that come again, which happens when noise
// stands in the data twice.
func repeats(sample []byte) bool {
	const word, step, minAgain = 8, 64, 8
	var seen [1024]uint64
	probes, again := 0, 0
	for at := 0; at+word <= len(sample); at += step {
		w := binary.LittleEndian.Uint64(sample[at:])
		slot := &seen[w*0x9e3779b97f4a7c15>>54]
		if *slot == w {
			again++
		}
		*slot = w
		probes++
	}
	return again > probes/minAgain
}
