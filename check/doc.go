// Package check verifies a whole filesystem and says what is wrong in words. It
// reads everything and changes nothing, and it judges bytes: it shares no
// in-memory state with the code that writes.
package check
