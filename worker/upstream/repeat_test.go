package upstream

import (
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

func TestRepeatable(t *testing.T) {
	for body, want := range map[string]bool{
		`{"model":"m","temperature":0}`:             true,
		`{"temperature":0.0,"messages":[]}`:         true,
		`{"temperature":0.1}`:                       false,
		`{"temperature":null}`:                      false,
		`{"temperature":"0"}`:                       false,
		`{"metadata":{"temperature":0},"model":""}`: false,
		`{}`:               false,
		`[`:                false,
		`{"temperature":0`: false,
	} {
		if got := Repeatable(tasks.Request{Kind: tasks.Raw, Body: []byte(body)}); got != want {
			t.Errorf("%s: %t", body, got)
		}
	}
	if Repeatable(tasks.Request{Kind: tasks.Text, Body: []byte(`"temperature 0"`)}) {
		t.Error("a prompt has the provider's temperature")
	}
}
