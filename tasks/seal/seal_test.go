package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func masterOf(name string, b byte) Master { return Master{name, bytes.Repeat([]byte{b}, masterLen)} }

func ringOf(t *testing.T, keys ...Master) *Ring {
	t.Helper()
	r, err := New(keys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The vectors of c2sp.org/XAES-256-GCM: the most significant bit of L is 0, and is 1.
func TestXAESIsAsItsSpecificationHasIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ key, additional, want string }{
		{strings.Repeat("\x01", 32), "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{strings.Repeat("\x03", 32), "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		x, err := newXAES([]byte(c.key))
		if err != nil {
			t.Fatal(err)
		}
		nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
		got := x.seal(nil, nonce, []byte("XAES-256-GCM"), []byte(c.additional))
		if hex.EncodeToString(got) != c.want {
			t.Errorf("sealed with %x: %x, want %s", c.key[:1], got, c.want)
		}
		if plain, err := x.open(nonce, got, []byte(c.additional)); err != nil || string(plain) != "XAES-256-GCM" {
			t.Errorf("opened with %x: %q, %v", c.key[:1], plain, err)
		}
	}
}

// Golden values: what this release sealed, each that comes after has to open.
const (
	goldenWrapped = "YTtmpk2Uem+SWLdyZYq9dkihtgqduCtYyqSMt2LyzqVXG1zPdtHak+EPYIFRfQQPbC/jw/uuGWSSjTOfBbpbREiOT5Ebevdy"
	goldenSealed  = "/wEAESIzRFVmd6GsyWLNxGMJDKYzUlZRyTwPMwQdXZhqGJlUznqiJHIosTiMYUWqvdDFkbtibRW2NRAR0h+iR5I="
	goldenName    = "xDUz7DUzR_tvW1lONRQLG61XeFgxrarUWeneJ-QFfbE"
)

func goldenKey(t testing.TB) *Key {
	t.Helper()
	r, err := New([]Master{masterOf("2026-10", 1), masterOf("2026-11", 2)})
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := base64.StdEncoding.DecodeString(goldenWrapped)
	if err != nil {
		t.Fatal(err)
	}
	k, err := r.Unwrap("acme", Wrapped{ID: "0011223344556677", Master: "2026-10", Key: wrapped})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestWhatAReleaseSealedOpensForEver(t *testing.T) {
	t.Parallel()
	k := goldenKey(t)
	sealed, err := base64.StdEncoding.DecodeString(goldenSealed)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open(sealed, "prompt", "acme", "job_1"); err != nil || string(got) != "a golden prompt" {
		t.Errorf("opened %q, %v", got, err)
	}
	if got := k.Name("metadata", "city", "Paris"); got != goldenName {
		t.Errorf("named %s, want %s", got, goldenName)
	}
}

func TestWhatStandsInAnothersPlaceDoesNotOpen(t *testing.T) {
	t.Parallel()
	r := ringOf(t, masterOf("a", 1))
	mine, wrapped, err := r.Make("acme", nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := r.Make("globex", nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed := mine.Seal([]byte("secret"), "result", "acme", "job_1")
	for _, c := range []struct {
		name    string
		purpose []string
	}{
		{"another kind", []string{"prompt", "acme", "job_1"}},
		{"another tenant", []string{"result", "globex", "job_1"}},
		{"another job", []string{"result", "acme", "job_2"}},
		{"parts cut elsewhere", []string{"result", "acmej", "ob_1"}},
		{"a part less", []string{"result", "acme"}},
		{"a part more", []string{"result", "acme", "job_1", ""}},
	} {
		if got, err := mine.Open(sealed, c.purpose...); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: opened %q, %v", c.name, got, err)
		}
	}
	for i := range sealed {
		forged := bytes.Clone(sealed)
		forged[i] ^= 1
		if got, err := mine.Open(forged, "result", "acme", "job_1"); err == nil {
			t.Errorf("with byte %d changed: opened %q", i, got)
		}
	}
	for n := range sealed {
		if got, err := mine.Open(sealed[:n], "result", "acme", "job_1"); err == nil {
			t.Errorf("cut to %d bytes: opened %q", n, got)
		}
	}
	var foreign *ForeignError
	if _, err := other.Open(sealed, "result", "acme", "job_1"); !errors.As(err, &foreign) || foreign.Key != mine.ID() {
		t.Errorf("with another's key: %v", err)
	}
	if _, err := r.Unwrap("globex", wrapped); !errors.Is(err, ErrOpen) {
		t.Errorf("another tenant's wrapped key: %v", err)
	}
	if mine.Name("a", "bc") == mine.Name("ab", "c") || mine.Name("a") == other.Name("a") {
		t.Error("names are alike that are not of the same parts and tenant")
	}
	if again := mine.Seal([]byte("secret"), "result", "acme", "job_1"); bytes.Equal(again, sealed) {
		t.Error("the same value sealed twice is alike")
	}
	same := mine.SealSame([]byte("secret"), "result", "acme", "job_1")
	if got, err := mine.Open(same, "result", "acme", "job_1"); err != nil || string(got) != "secret" {
		t.Errorf("sealed to look the same: %q, %v", got, err)
	}
	for _, c := range []struct {
		value, id string
		want      bool
	}{{"secret", "job_1", true}, {"secret", "job_2", false}, {"Secret", "job_1", false}} {
		if got := bytes.Equal(mine.SealSame([]byte(c.value), "result", "acme", c.id), same); got != c.want {
			t.Errorf("%s of %s looks the same: %v, want %v", c.value, c.id, got, c.want)
		}
	}
}

// Values that are sealed one after another share a derived key, so many of them, and no nonce;
// whoever else has the tenant's key opens them.
func TestARunOfValuesHasNoNonceTwice(t *testing.T) {
	t.Parallel()
	const sealers, each = 4, runLength
	mine, others := goldenKey(t), goldenKey(t)
	var all [sealers][each][]byte
	var wait sync.WaitGroup
	for i := range all {
		wait.Go(func() {
			for n := range each {
				all[i][n] = mine.Seal([]byte("x"), "prompt")
			}
		})
	}
	wait.Wait()
	nonces, runs := map[string]bool{}, map[string]int{}
	for i := range all {
		for _, sealed := range all[i] {
			nonce := string(sealed[headSize : headSize+nonceSize])
			nonces[nonce] = true
			runs[nonce[:halfSize]]++
			if got, err := others.Open(sealed, "prompt"); err != nil || string(got) != "x" {
				t.Fatalf("opened %q, %v", got, err)
			}
		}
	}
	if len(nonces) != sealers*each {
		t.Errorf("%d values have %d nonces", sealers*each, len(nonces))
	}
	longest := slices.Max(slices.Collect(maps.Values(runs)))
	if most := 2 * sealers * sealers; longest > runLength || len(runs) > most { // each end of a run may find all sealers
		t.Errorf("%d runs, at most %d were to be; the longest has %d values, at most %d", len(runs), most, longest, runLength)
	}
}

func TestKeysRotateWithoutSealingAnew(t *testing.T) {
	t.Parallel()
	r := ringOf(t, masterOf("old", 1))
	k, wrapped, err := r.Make("acme", nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed := k.Seal([]byte("x"), "p")
	if err := r.Set([]Master{masterOf("old", 1), masterOf("new", 2)}); err != nil {
		t.Fatal(err)
	}
	anew, changed, err := r.Rewrap("acme", wrapped)
	if err != nil || !changed || anew.Master != "new" || anew.ID != wrapped.ID {
		t.Fatalf("wrapped anew: %+v, %v, %v", anew, changed, err)
	}
	if _, changed, err := r.Rewrap("acme", anew); changed || err != nil {
		t.Errorf("once more: %v, %v", changed, err)
	}
	if err := r.Set([]Master{masterOf("new", 3)}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Rewrap("acme", anew); !errors.Is(err, ErrOpen) {
		t.Errorf("with another key of that name: %v", err)
	}
	if err := r.Set([]Master{masterOf("new", 2)}); err != nil {
		t.Fatal(err)
	}
	again, err := r.Unwrap("acme", anew)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open(sealed, "p"); err != nil || string(got) != "x" {
		t.Errorf("after the rotation: %q, %v", got, err)
	}
	var missing *MissingError
	if _, err := r.Unwrap("acme", wrapped); !errors.As(err, &missing) || missing.Master != "old" {
		t.Errorf("with the old key dropped: %v", err)
	}
	if err := r.Set([]Master{masterOf("new", 3)}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Unwrap("acme", anew); !errors.Is(err, ErrOpen) || !strings.Contains(err.Error(), `"new"`) {
		t.Errorf("with another key of that name: %v", err)
	}
}

func TestARingRefusesWhatIsNoKeyAndStaysAsItWas(t *testing.T) {
	t.Parallel()
	r := ringOf(t, masterOf("a", 1))
	for name, keys := range map[string][]Master{
		"none": nil, "short": {{"a", []byte("short")}}, "no name": {masterOf("", 1)}, "twice": {masterOf("a", 1), masterOf("a", 2)},
	} {
		if err := r.Set(keys); err == nil || r.Current() != "a" {
			t.Errorf("%s: %v, current %s", name, err, r.Current())
		}
	}
	for _, text := range []string{"", "????", base64.StdEncoding.EncodeToString([]byte("sixteen bytes...")), "hunter2"} {
		if _, err := ParseKey(text); err == nil || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTheLocalKeyIsMadeOnceForThisUserAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	atOnce(t, func() (Master, error) { return Local(dir) })
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("the folder has %v, %v", files, err)
	}
	if info, err := files[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "seal.key"), []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Local(dir); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("of a file that is no key: %v", err)
	}
}

// atOnce has eight processes make the local key, and returns the one that all have.
func atOnce(t *testing.T, local func() (Master, error)) Master {
	t.Helper()
	var got [8]Master
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() {
			var err error
			if got[i], err = local(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, m := range got {
		if !bytes.Equal(m.Key, got[0].Key) || len(m.Key) != masterLen {
			t.Fatal("two processes have different keys")
		}
	}
	return got[0]
}

// Some file systems have no hard links: the key is made all the same, once, and whoever comes
// while it is being written waits for it.
func TestTheLocalKeyIsMadeWithoutHardLinks(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	first := atOnce(t, func() (Master, error) { return local(dir, func(string, string) error { return errors.ErrUnsupported }) })
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("the folder has %v, %v", files, err)
	}
	if again, err := Local(dir); err != nil || !bytes.Equal(again.Key, first.Key) {
		t.Errorf("the next start has another key: %v", err)
	}
}

// A tenant's key is wrapped by the last listed master key that all processes have.
func TestANewKeyIsWrappedByWhatEverybodyHas(t *testing.T) {
	t.Parallel()
	r := ringOf(t, masterOf("old", 1), masterOf("new", 2))
	other := ringOf(t, masterOf("old", 3))
	for _, c := range []struct {
		name, want string
		has        []string
	}{
		{"all have both", "new", r.Known()},
		{"one has the old alone", "old", r.Known()[:1]},
		{"one has another of that name", "new", other.Known()},
	} {
		_, w, err := r.Make("acme", func(known string) bool { return slices.Contains(c.has, known) })
		if err != nil || w.Master != c.want {
			t.Errorf("%s: wrapped by %s, %v; want %s", c.name, w.Master, err, c.want)
		}
	}
	for _, known := range r.Known() {
		if strings.Contains(known, "\x01") || len(known) > 20 {
			t.Errorf("%q says more than a name and a print", known)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k := goldenKey(f)
	sealed, err := base64.StdEncoding.DecodeString(goldenSealed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte{mark, version})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := k.Open(b, "prompt", "acme", "job_1")
		if (err == nil) != bytes.Equal(b, sealed) {
			t.Errorf("opened %q, %v", got, err)
		}
	})
}

func FuzzSeal(f *testing.F) {
	k := goldenKey(f)
	f.Add([]byte("value"), "result", "job_1")
	f.Fuzz(func(t *testing.T, value []byte, what, id string) {
		sealed := k.Seal(value, what, id)
		if got, err := k.Open(sealed, what, id); err != nil || !bytes.Equal(got, value) || len(sealed) != len(value)+Overhead || !Sealed(sealed) {
			t.Errorf("%q: %v", got, err)
		}
	})
}

// What a prompt of 1 KiB costs, alone and in a row.
func BenchmarkSeal(b *testing.B) {
	k := goldenKey(b)
	value := make([]byte, 1024)
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k.Seal(value, "prompt", "acme", "job_1")
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		sealed := k.Seal(value, "prompt", "acme", "job_1")
		for b.Loop() {
			if _, err := k.Open(sealed, "prompt", "acme", "job_1"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("same", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k.SealSame(value, "prompt", "acme", "job_1")
		}
	})
}
