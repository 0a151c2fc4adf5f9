package lzo

// Segments that Linux 6.18 wrote with compress-force=lzo: of a file of 50 times
// "ab" (an inline extent) and of a file of zeros (the first of a regular one).
const (
	kernelAB    = "03616261626162202b14000f616261626162616261626162616261626162110000"
	kernelZeros = "02000000000020000000000000000000000000000000da10000c000000000000000000000000000000110000"
)
