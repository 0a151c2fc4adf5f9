package space

import "testing"

// purse is a Ledger with nothing in it.
type purse struct{}

func (purse) Take(Bytes, Class) bool       { return false }
func (purse) Short(n Bytes, _ Class) Bytes { return n }
func (purse) Steal(Bytes) bool             { return false }

// I1: a flight that claims to have what it did not bring is not asked again in
// the same epoch: else the two would turn in a circle. Mutation that turned it
// red: fullMark believed.
func TestUntruthfulFlightDoesNotLoop(t *testing.T) {
	t.Parallel()
	p := NewProtocol(&ProtocolConfig{Attempts: 1})
	out := p.Request(purse{}, Ticket{ID: 1, Class: ClassNormal, Bytes: 4096}, nil)
	if len(out) != 1 || out[0].Kind != ActionStartGrow {
		t.Fatalf("got %+v, want a flight", out)
	}
	out = p.GrowDone(purse{}, GrowResult{Outcome: GrowNoSpace, Epoch: 1, Limit: noBytes, Piece: noBytes}, nil)
	if len(out) != 1 || out[0].Kind != ActionFail || out[0].Err != nil {
		t.Errorf("got %+v, want one failure for want of space", out)
	}
}
