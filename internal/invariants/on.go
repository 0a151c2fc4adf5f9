//go:build invariants || race

package invariants

// Enabled says whether expensive self-checks are compiled in.
const Enabled = true
