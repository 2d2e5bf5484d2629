package v1

import "testing"

// A slip is near its member, and no member is near another.
func TestASlipIsNearItsMember(t *testing.T) {
	t.Parallel()
	for _, name := range submitMembers {
		for _, other := range submitMembers {
			if near(name, other) != (name == other && len(name) > 2) {
				t.Errorf("%s and %s are near: %v", name, other, near(name, other))
			}
		}
	}
	for slip, want := range map[string]bool{"promt": true, "prmopt": true, "prompts": true, "proompt": true, "pxompt": true, "prompt": true, "prom": false, "tmpropt": false, "": false, "temperature": false} {
		if got := near("prompt", slip); got != want || near(slip, "prompt") != got {
			t.Errorf("%q is near prompt: %v; want %v", slip, got, want)
		}
	}
}
