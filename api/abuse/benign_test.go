package abuse

import (
	"fmt"
	"testing"
	"time"
)

// Ways of work that look like abuse and are none: whatever is told of them, nothing is done, in
// the mode in which something would be.
func TestBenignShapesAreNotActedOn(t *testing.T) {
	t.Parallel()
	for name, shape := range map[string]func(w *watched, day int, at time.Duration){
		"nightly batch": func(w *watched, day int, at time.Duration) {
			if at == 2*time.Hour || at == 2*time.Hour+10*time.Minute {
				w.many(100, func(i int) string { return fmt.Sprintf("Sum up the record %d of day %d for the report", i, day) })
			}
			w.usual()
		},
		"retry storm after an outage": func(w *watched, day int, at time.Duration) {
			if day > 7 && day%3 == 0 && at == 12*time.Hour {
				for try := range 5 { // of each that failed in the last hours
					w.many(24, func(i int) string { return fmt.Sprintf("Translate the page %c of chapter %d, %d", 'a'+i, i*i, try/5) })
				}
			}
			w.usual()
		},
		"one prompt many times at temperature 1": func(w *watched, day int, at time.Duration) {
			if day%2 == 1 && at == 10*time.Hour {
				w.many(100, func(int) string { return fmt.Sprintf("Invent a name for product %c, kind %c", 'a'+day, 'm'-day) })
			}
			w.usual()
		},
		"evaluation suite": func(w *watched, day int, at time.Duration) {
			if day%2 == 0 && (at == 11*time.Hour || at == 11*time.Hour+10*time.Minute) {
				w.many(100, func(i int) string {
					return fmt.Sprintf("You are a judge. Is the answer to question %d right? Say yes or no.", i)
				})
			}
			w.usual()
		},
		"steady heavy user": func(w *watched, day int, at time.Duration) {
			w.many(60, func(i int) string {
				return fmt.Sprintf("Translate page %c%c%c of the handbook, %s", 'a'+i%26, 'a'+day, 'a'+int(at.Hours()), at)
			})
			w.usual()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &watched{t: t, r: Rules{Window: 10 * time.Minute, Learn: 7 * 24 * time.Hour, Model: NewModel(1), Enforce: true}, key: NewKey([]byte("secret"), "acme"), now: morning.Truncate(24 * time.Hour)}
			for day := range 14 {
				for at := time.Duration(0); at < 24*time.Hour; at += w.r.Window {
					if shape(w, day, at); w.c.Ladder.Rung != Observe {
						t.Fatalf("day %d, %s: %s, for %q", day, at, w.c.Ladder.Rung, w.found())
					}
				}
			}
		})
	}
}

func (w *watched) many(n int, text func(i int) string) {
	for i := range n {
		w.send(text(i), "office")
	}
}

func BenchmarkSee(b *testing.B) {
	w, err := New(Config{Store: &memory{}, Secret: []byte("secret")})
	if err != nil {
		b.Fatal(err)
	}
	v := &Visit{Tenant: "acme", User: "u", Address: "192.0.2.1", Credential: "tok_1", Models: []string{"m"}, Jobs: 1, Body: body(words(90))}
	b.SetBytes(int64(len(v.Body)))
	b.ReportAllocs()
	for b.Loop() {
		w.See(v)
		if len(w.seen["acme"]) == mostActs {
			w.seen["acme"] = w.seen["acme"][:0]
		}
	}
}

func words(n int) (text string) {
	for i := range n {
		text += fmt.Sprintf("w%cr%cd ", 'a'+i%26, 'a'+i%7)
	}
	return text
}
