//go:build long

package check_test

const boundedFiles = 3_000_000
