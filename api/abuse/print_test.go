package abuse

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func someWords(r *rand.Rand, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("w%c%c%c", 'a'+r.IntN(26), 'a'+r.IntN(26), 'a'+r.IntN(26))
	}
	return list
}

func body(text string) []byte {
	return []byte(`{"model":"m","messages":[{"role":"user","content":"` + text + `"}]}`)
}

func TestPrints(t *testing.T) {
	t.Parallel()
	k := NewKey([]byte("secret"), "acme")
	of := func(text string) Print { return k.Of(body(text)) }
	a := of("Summarise the invoice of customer 17 please")
	for text, want := range map[string]struct{ exact, template bool }{
		"summarise  THE invoice of customer 17 please":         {true, true},
		"Summarise the invoice of customer 4711 please":        {false, true},
		"Summarise the invoice of customer a@b.example please": {false, true},
		"Summarise the invoice of customers 17 please":         {false, false},
	} {
		b := of(text)
		if got := (struct{ exact, template bool }{a.Exact == b.Exact, a.Template == b.Template}); got != want {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
	if q, r := of(`Say \"one\" again`), of(`Say \"two words\" again`); q.Template != r.Template || q.Exact == r.Exact {
		t.Error("two quotations in one template have two templates, or are the same")
	}
	for name, other := range map[string]Key{"tenant": NewKey([]byte("secret"), "other"), "secret": NewKey([]byte("secrets"), "acme")} {
		if b := other.Of(body("Summarise the invoice of customer 17 please")); a.Exact == b.Exact || a.Template == b.Template || a.Min == b.Min {
			t.Errorf("the prints of another %s can be compared", name)
		}
	}
	for _, text := range []string{"", "one", "\xff\xfe", `\`, `"`, strings.Repeat("word ", 1<<12)} {
		k.Of([]byte(text))
	}
}

func TestNearDuplicates(t *testing.T) {
	t.Parallel()
	const pairs = 150
	r := rand.New(rand.NewPCG(1, 1))
	k := NewKey([]byte("secret"), "acme")
	of := func(list []string) Print { return k.Of(body(strings.Join(list, " "))) }
	changed := func(list []string, part float64) []string {
		list = append([]string(nil), list...)
		for i := range list {
			if r.Float64() < part {
				list[i] = someWords(r, 1)[0]
			}
		}
		return list
	}
	for _, row := range []struct {
		part        float64
		least, most float64
	}{{0.05, 0.99, 1}, {0.1, 0.99, 1}, {0.2, 0.9, 1}, {1, 0, 0.01}} {
		found := 0
		for range pairs {
			list := someWords(r, 60)
			a, b := of(list), of(changed(list, row.part))
			if a.Near(&Shape{b.Min, b.Length}) {
				found++
			}
		}
		if got := float64(found) / pairs; got < row.least || got > row.most {
			t.Errorf("%.0f %% of the words changed: %.4f found near, want %v to %v", 100*row.part, got, row.least, row.most)
		}
	}
	// A conversation that goes on holds what was said before, and is no near duplicate.
	list := someWords(r, 60)
	a, b := of(list), of(append(list, someWords(r, 40)...))
	if b.Near(&Shape{a.Min, a.Length}) {
		t.Error("a conversation's next turn counts as a near duplicate")
	}
}

func TestDistinct(t *testing.T) {
	t.Parallel()
	k := NewKey([]byte("secret"), "acme")
	for _, n := range []int{0, 1, 3, 10, 40, 1000} {
		var d, half distinct
		for i := range n {
			d.add(k.Hash(fmt.Sprint(i)))
			d.add(k.Hash(fmt.Sprint(i / 2)))
			half.add(k.Hash(fmt.Sprint(i / 2)))
		}
		if got, off := d.count(), 1+0.4*float64(n); got < float64(n)-off || got > float64(n)+off {
			t.Errorf("%d distinct: got %.1f", n, got)
		}
	}
}

func TestTopNeverCountsTooMany(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 1))
	var top top
	counted := 0
	const stream = 3000
	for range stream {
		h := r.Uint64()
		if r.IntN(4) == 0 {
			h = 7
			counted++
		}
		top.add(h)
	}
	for i := range top {
		if top[i].Hash == 7 {
			if n := float64(top[i].Count); n > float64(counted) || n < float64(counted)-stream/(topSize+1) {
				t.Fatalf("counted %v of %d in %d", n, counted, stream)
			}
			return
		}
	}
	t.Fatal("what is a fourth of the stream is not in the top")
}

func BenchmarkPrint(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	k := NewKey([]byte("secret"), "acme")
	for _, n := range []int{100, 1600, 100000} {
		text := body(strings.Join(someWords(r, n), " "))
		b.Run(fmt.Sprint(len(text)), func(b *testing.B) {
			for b.Loop() {
				k.Of(text)
			}
		})
	}
}

func TestBurstOfTheNightIsAHabit(t *testing.T) {
	t.Parallel()
	var s series
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	r := rand.New(rand.NewPCG(1, 1))
	alarms := 0
	day := func(extra func(minute int) float64) {
		for minute := range 24 * 60 {
			x := float64(r.IntN(3))
			if m := minute - 125; m >= 0 && m < 15 {
				x += 20
			}
			s.close(x+extra(minute), hourOf(at))
			if s.over() >= 1 {
				alarms++
			}
			if at = at.Add(time.Minute); at.Minute() == 0 {
				s.closeHour(hourOf(at.Add(-time.Minute)), true)
			}
		}
	}
	for range 14 {
		day(func(int) float64 { return 0 })
	}
	if alarms > 0 {
		t.Errorf("%d windows of ordinary days and nights are an alarm", alarms)
	}
	day(func(minute int) float64 {
		if minute > 720 && minute < 750 {
			return 8
		}
		return 0
	})
	if alarms == 0 {
		t.Error("half an hour of five times as much at noon is no alarm")
	}
}
