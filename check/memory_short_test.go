//go:build !long

package check_test

const boundedFiles = 300_000
