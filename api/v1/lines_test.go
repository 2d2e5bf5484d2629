package v1_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/tasks"
)

const faulty = `{"model":"m","prompt":"one","custom_id":"a"}
{"model":"m","prompt":"cut
{"prompt":"three"}

{"model":"elsewhere","prompt":"five"}
{"model":"m","prompt":"six","custom_id":"a"}
[1]
{"model":"m","prompt":"eight","temperature":1}
{"model":"m","prompt":"nine"}
`

// prompts reads a file as run does; the pool m serves the model m.
func prompts(l v1.Lines, file string) (read []string, err error) {
	l.Match = func(model string) (string, bool) { return "pool", model == "m" }
	err = l.Read(strings.NewReader(file), func(j tasks.Job) error {
		read = append(read, fmt.Sprint(j.Line, j.CustomID, j.Model, string(j.Request.Body)))
		return nil
	})
	return read, err
}

func TestEveryFaultyLineOfAFileIsTold(t *testing.T) {
	var got []string
	l := v1.Lines{Fault: func(f *v1.LineFault) error {
		got = append(got, fmt.Sprint(f, " ", f.Unserved))
		return nil
	}}
	read, err := prompts(l, faulty)
	want := []string{
		`Line 2: The body ends before its JSON value does. false`,
		`Line 3: The member "model" is missing. true`,
		`Line 5: No pool serves the model in "model". true`,
		`Line 6: The "custom_id" is that of line 1 already. false`,
		`Line 7: The body must be a JSON object. false`,
		`Line 8: The member "temperature" is unknown: put it into "request", which goes to the provider as it is, or leave it out. false`,
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("error %v, faults\n%s\nwant\n%s", err, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if want := []string{`1am"one"`, `99m"nine"`}; !slices.Equal(read, want) {
		t.Errorf("read %q; want %q", read, want)
	}
}

func TestTheFirstFaultyLineEndsTheReadingOfWhoTakesNone(t *testing.T) {
	read, err := prompts(v1.Lines{}, faulty)
	var fault *v1.LineFault
	if !errors.As(err, &fault) || fault.Line != 2 || len(read) != 1 {
		t.Errorf("read %q, then %v; want one line, and the fault of line 2", read, err)
	}
	stop := errors.New("enough")
	if _, err := prompts(v1.Lines{Fault: func(*v1.LineFault) error { return stop }}, faulty); !errors.Is(err, stop) {
		t.Errorf("who has enough: %v", err)
	}
}

func TestWhatIsTooLongOrTooManyEndsAFile(t *testing.T) {
	l := v1.Lines{Most: 1, Fault: func(f *v1.LineFault) error { return nil }}
	for file, want := range map[string]string{
		"{\"model\":\"m\",\"prompt\":\"a\"}\n{\"model\":\"m\",\"prompt\":\"b\"}\n": "Line 2: A batch must not have more than 1 jobs.",
		"\n" + strings.Repeat("x", 33<<20):                                         "Line 2: A job must not be longer than 33554432 bytes.",
	} {
		var fault *v1.LineFault
		if _, err := prompts(l, file); !errors.As(err, &fault) || fault.Error() != want {
			t.Errorf("%v; want %s", err, want)
		}
	}
}

func TestLinesThatNameNoModelAreOfTheOneThatIsGiven(t *testing.T) {
	read, err := prompts(v1.Lines{Model: "m", Now: time.Now}, `{"prompt":"a"}
{"request":{"messages":[]}}
{"model":"m","prompt":"c"}
`)
	if want := []string{`11m"a"`, `22m{"messages":[]}`, `33m"c"`}; err != nil || !slices.Equal(read, want) {
		t.Errorf("read %q, %v; want %q", read, err, want)
	}
	if _, err := prompts(v1.Lines{Model: "m"}, `{"model":"x","prompt":"a"}`); err == nil {
		t.Error("a line's own model gave way")
	}
}
