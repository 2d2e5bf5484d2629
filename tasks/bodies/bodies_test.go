package bodies_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// A child of a test puts bodies until it is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("BODIES_TEST_CHILD"); dir != "" {
		child(dir)
	}
	goleak.VerifyTestMain(m)
}

const (
	job    = "job_01KBX3D2Z7R1M5Q8T9VWXYZ012"
	secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// s3 is a server of S3 with one bucket, which can be down.
type s3 struct {
	url  string
	down atomic.Bool
}

func newS3(t *testing.T) *s3 {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("prompts"); err != nil {
		t.Fatal(err)
	}
	f, s := gofakes3.New(backend).Server(), &s3{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		f.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.url = "s3://prompts/some/where?endpoint=" + server.URL
	return s
}

func open(t *testing.T, c bodies.Config) *bodies.Bodies {
	t.Helper()
	c.AccessKey, c.SecretKey = "AKIAEXAMPLE", secret
	s, err := bodies.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// both runs a test with a folder and with a bucket.
func both(t *testing.T, test func(t *testing.T, c bodies.Config)) {
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		test(t, bodies.Config{URL: "file://" + filepath.Join(t.TempDir(), "made", "bodies")})
	})
	t.Run("bucket", func(t *testing.T) {
		t.Parallel()
		test(t, bodies.Config{URL: newS3(t).url})
	})
}

func put(t *testing.T, s *bodies.Bodies, kind bodies.Kind, body []byte) bodies.Ref {
	t.Helper()
	name, err := bodies.New("acme", job, kind, "")
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Put(t.Context(), name, int64(len(body)), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func missing(err error) bool {
	var b *tasks.BodiesError
	return errors.As(err, &b) && b.Missing && errors.Is(err, tasks.ErrUnavailable)
}

func TestABodyIsReadAsItWasPut(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, c bodies.Config) {
		s := open(t, c)
		for _, size := range []int{1, 20_000, 5 << 20} {
			body := make([]byte, size)
			_, _ = rand.Read(body)
			put := put(t, s, bodies.Prompt, body)
			r, err := bodies.Parse(put.String())
			if err != nil || r != put || r.Size != int64(size) || len(r.String()) > 200 || bodies.Owner(r.Name) != job || strings.Contains(r.Name, "acme") {
				t.Fatalf("reference %q read as %v, %v", put, r, err)
			}
			if got, err := s.Read(t.Context(), r, 0); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes were read as %d, %v", size, len(got), err)
			}
			if got, err := s.Read(t.Context(), r, 100); err != nil || !bytes.Equal(got, body[:min(100, size)]) {
				t.Errorf("the first 100 bytes of %d were read as %d, %v", size, len(got), err)
			}
			if err := s.Delete(t.Context(), r, r); err != nil {
				t.Errorf("delete: %v", err)
			}
			if _, err := s.Read(t.Context(), r, 0); !missing(err) {
				t.Errorf("a deleted body: %v", err)
			}
			if err := s.Delete(t.Context(), r); err != nil {
				t.Errorf("delete what is not there: %v", err)
			}
		}
	})
}

func TestTwoBodiesOfAJobNeverMeet(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, c bodies.Config) {
		s := open(t, c)
		one, other := put(t, s, bodies.Result, []byte("one")), put(t, s, bodies.Result, []byte("other"))
		if one.Name == other.Name {
			t.Fatal("the same name twice")
		}
		if got, err := s.Read(t.Context(), one, 0); err != nil || string(got) != "one" {
			t.Errorf("the first reads as %q, %v", got, err)
		}
		// The same again, after an error of which nobody knows what it has left.
		again, err := s.Put(t.Context(), one.Name, 3, strings.NewReader("one"))
		if err != nil || again != one {
			t.Errorf("put again: %v, %v", again, err)
		}
	})
}

func TestWhatIsNotWhatWasPutIsNotRead(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, c bodies.Config) {
		s := open(t, c)
		r := put(t, s, bodies.Result, []byte("the true answer"))
		for _, other := range []string{"the fake answer", "the true answe", "the true answer!"} {
			if _, err := s.Put(t.Context(), r.Name, int64(len(other)), strings.NewReader(other)); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Read(t.Context(), r, 0); string(got) != "the true answer" && (!missing(err) || len(got) > 0) {
				t.Errorf("%q was read as %q, %v", other, got, err)
			}
		}
	})
}

func TestNoNameLeadsElsewhere(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, c bodies.Config) {
		s := open(t, c)
		r := put(t, s, bodies.Prompt, []byte("x"))
		for _, name := range []string{"", "/etc/passwd", "../x", r.Name + "/../../x", strings.ToUpper(r.Name), r.Name + "\n", "trial/x", "unfinished/x"} {
			bad := r
			bad.Name = name
			if _, err := bodies.Parse(bad.String()); err == nil {
				t.Errorf("a reference to %q is taken", name)
			}
			if _, err := s.Put(t.Context(), name, 1, strings.NewReader("x")); err == nil {
				t.Errorf("put %q", name)
			}
			if _, err := s.Open(t.Context(), bad); err == nil {
				t.Errorf("open %q", name)
			}
			if bodies.Owner(name) != "" {
				t.Errorf("%q is somebody's", name)
			}
		}
		for _, id := range []string{"", "job_1", "../job_01KBX3D2Z7R1M5Q8T9VWXYZ012", "job_01KBX3D2Z7R1M5Q8T9VWXYZ01/"} {
			if name, err := bodies.New("acme", id, bodies.Prompt, ""); err == nil {
				t.Errorf("the job %q has a body named %q", id, name)
			}
		}
	})
}

func TestWhatNamesNoStoreIsSaidWithoutItself(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"file:///var/lib/bodies": "",
		"s3://prompts":           "",
		"s3://prompts/a/b?endpoint=http://127.0.0.1:9000&region=eu-central-1": "",
		"s3://prompts/?endpoint=https://minio.example":                        "",
		"redis:":                           "",
		"redis://127.0.0.1:6379":           "redis: alone",
		"":                                 "begin with",
		"/var/lib/bodies":                  "begin with",
		"http://prompts.example":           "begin with",
		"file://bodies":                    "path of a folder",
		"file:///":                         "path of a folder",
		"file:///var?x=1":                  "path of a folder",
		"s3://":                            "name a bucket",
		"s3://prompts:80/":                 "name a bucket",
		"s3://AKIA:geheim@prompts/":        "must not hold credentials",
		"s3://prompts?secret=geheim":       "parameters endpoint and region",
		"s3://prompts?region=a&region=b":   "parameters endpoint and region",
		"s3://prompts?endpoint=minio:9000": "endpoint",
		"s3://prompts?endpoint=https://AKIA:geheim@minio.example": "endpoint",
		"s3://prompts/a/../b":                            "plain",
		"s3://prompts/#geheim":                           "fragment",
		"s3://prompts/%zz" + strings.Repeat("geheim", 3): "no URL",
		"s3://prompts?endpoint=https://minio.example/geheim/path/of/somebody's/own": "endpoint",
	} {
		err := bodies.Check(raw)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim")) {
			t.Errorf("%q: %v, want %q", raw, err, want)
		}
	}
}

// known is a record of some names.
type known struct {
	names []string
	asked [][]string
	turns atomic.Int64
}

func (k *known) BodiesTurn(context.Context, time.Duration) (bool, error) {
	k.turns.Add(1)
	return true, nil
}

func (k *known) Orphans(_ context.Context, names []string) ([]string, error) {
	k.asked = append(k.asked, slices.Clone(names))
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(k.names, n) }), nil
}

func TestASweepRemovesWhatNobodyRefersTo(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, c bodies.Config) {
		s := open(t, c)
		kept, orphan := put(t, s, bodies.Prompt, []byte("kept")), put(t, s, bodies.Result, []byte("orphan"))
		k := &known{names: []string{kept.Name}}
		if err := s.Sweep(t.Context(), k); err != nil || len(k.asked) > 0 {
			t.Fatalf("what is younger than a day was asked for: %v, %v", k.asked, err)
		}
		c.Keep = time.Nanosecond
		soon := open(t, c)
		redistest.Until(t, "the orphan goes", func() bool { // the clock of S3 has seconds
			if err := soon.Sweep(t.Context(), k); err != nil {
				t.Fatal(err)
			}
			_, err := s.Read(t.Context(), orphan, 0)
			return missing(err)
		})
		if got, err := s.Read(t.Context(), kept, 0); err != nil || string(got) != "kept" {
			t.Errorf("what is referred to: %q, %v", got, err)
		}
	})
}

func TestWhatIsDiscardedGoesSoon(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, c bodies.Config) {
		c.Sweep, c.Try = time.Millisecond, time.Millisecond
		s, k := open(t, c), &known{}
		if s.Ready() == nil {
			t.Error("it is ready before it was tried")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, k) }()
		r := put(t, s, bodies.Prompt, []byte("x"))
		s.Discard(r)
		redistest.Until(t, "it is removed, tried and swept", func() bool {
			_, err := s.Read(t.Context(), r, 0)
			return missing(err) && s.Ready() == nil && k.turns.Load() > 0
		})
		var late []bodies.Ref
		for range 20 {
			late = append(late, put(t, s, bodies.Prompt, []byte("late")))
		}
		s.Discard(late...)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, r := range late {
			if _, err := s.Read(t.Context(), r, 0); !missing(err) {
				t.Errorf("discarded before the stop: %v", err)
			}
		}
	})
}

func TestAStoreThatIsDownSaysSoAndNoSecret(t *testing.T) {
	t.Parallel()
	server := newS3(t)
	s := open(t, bodies.Config{URL: server.url})
	r := put(t, s, bodies.Prompt, []byte("x"))
	if err := s.Try(t.Context()); err != nil || s.Ready() != nil {
		t.Fatalf("%v, %v", err, s.Ready())
	}
	server.down.Store(true)
	var acts sync.WaitGroup
	for what, act := range map[string]func() error{
		"put": func() error {
			name, _ := bodies.New("acme", job, bodies.Result, "")
			_, err := s.Put(t.Context(), name, 1, strings.NewReader("x"))
			return err
		},
		"read":   func() error { _, err := s.Read(t.Context(), r, 0); return err },
		"delete": func() error { return s.Delete(t.Context(), r) },
		"sweep":  func() error { return s.Sweep(t.Context(), &known{}) },
		"try":    func() error { return cmp.Or(s.Try(t.Context()), s.Ready()) },
	} {
		acts.Go(func() {
			if err := act(); !errors.Is(err, tasks.ErrUnavailable) || missing(err) || !tasks.Away(err) || !strings.Contains(err.Error(), s.Where()) || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "AKIA") {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	acts.Wait()
	if s.Ready() == nil {
		t.Error("it is ready although it is down")
	}
	server.down.Store(false)
	if got, err := s.Read(t.Context(), r, 0); err != nil || string(got) != "x" {
		t.Errorf("when it is back: %q, %v", got, err)
	}
	if err := s.Try(t.Context()); err != nil || s.Ready() != nil {
		t.Errorf("when it is back: %v", err)
	}
}

func TestAFolderThatCannotBeWrittenSaysSo(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bodies")
	s := open(t, bodies.Config{URL: "file://" + dir})
	part := filepath.Join(dir, "packed")
	must(t, s.Try(t.Context()), os.RemoveAll(part), os.WriteFile(part, nil, 0o600))
	if err := s.Try(t.Context()); !errors.Is(err, tasks.ErrUnavailable) || s.Ready() == nil {
		t.Errorf("%v, %v", err, s.Ready())
	}
	must(t, os.Remove(part))
	if err := s.Try(t.Context()); err != nil || s.Ready() != nil { // the folder is made again
		t.Errorf("%v, %v", err, s.Ready())
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestAFolderIsForThisUserAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bodies")
	s := open(t, bodies.Config{URL: "file://" + dir})
	put(t, s, bodies.Prompt, []byte("x"))
	files := 0
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		info, _ := d.Info()
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else {
			files++
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has the mode %v", path, info.Mode())
		}
		return err
	}))
	if files != 1 {
		t.Errorf("%d files", files)
	}
}

// child puts bodies and says which, until it is killed.
func child(dir string) {
	s, err := bodies.Open(bodies.Config{URL: "file://" + dir})
	for i := 0; err == nil; i++ {
		name, _ := bodies.New(fmt.Sprint("tenant", i), job, bodies.Prompt, "")
		body := bytes.Repeat([]byte{byte(i)}, 1<<16)
		if i%8 == 7 { // it has a file of its own
			body = bytes.Repeat([]byte{byte(i)}, 1<<20+1)
		}
		var r bodies.Ref
		if r, err = s.Put(context.Background(), name, int64(len(body)), bytes.NewReader(body)); err == nil {
			fmt.Println(r)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestAKilledWriterLeavesWholeBodiesAndNothingThatASweepDoesNotFind(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bodies")
	s := open(t, bodies.Config{URL: "file://" + dir, Keep: time.Nanosecond})
	var acknowledged []bodies.Ref
	for range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "BODIES_TEST_CHILD="+dir)
		out, err := cmd.StdoutPipe()
		must(t, err, cmd.Start())
		text := make([]byte, 4096)
		n, err := io.ReadAtLeast(out, text, 2000)
		must(t, err, cmd.Process.Kill())
		rest, _ := io.ReadAll(out)
		_ = cmd.Wait()
		for line := range strings.Lines(string(text[:n]) + string(rest)) {
			if r, err := bodies.Parse(strings.TrimSuffix(line, "\n")); err == nil {
				acknowledged = append(acknowledged, r)
			}
		}
	}
	if len(acknowledged) < 20 {
		t.Fatalf("%d bodies", len(acknowledged))
	}
	k := &known{}
	for _, r := range acknowledged {
		k.names = append(k.names, r.Name)
		if _, err := s.Read(t.Context(), r, 0); err != nil {
			t.Errorf("what was acknowledged: %v", err)
		}
	}
	must(t, s.Sweep(t.Context(), k))
	k.asked = nil
	must(t, s.Sweep(t.Context(), k))
	if left := len(slices.Concat(k.asked...)); left != len(acknowledged) {
		t.Errorf("%d bodies are left of %d that were acknowledged", left, len(acknowledged))
	}
	for _, r := range acknowledged {
		if _, err := s.Read(t.Context(), r, 0); err != nil {
			t.Errorf("what was acknowledged, after a sweep: %v", err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "unfinished")); err != nil || len(left) > 0 {
		t.Errorf("unfinished: %v, %v", left, err)
	}
}

// zeros are so many bytes that nobody holds.
type zeros struct{ size, at int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.at == z.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.size-z.at)
	clear(p[:n])
	z.at += n
	return int(n), nil
}

func (z *zeros) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += z.at
	case io.SeekEnd:
		offset += z.size
	}
	z.at = offset
	return offset, nil
}

// It measures what all goroutines allocate, so it runs beside no other test.
func TestALargeBodyTakesLittleMemory(t *testing.T) {
	const size = 20 << 20
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("ETag", `"x"`)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = io.Copy(w, &zeros{size: size})
		}
	}))
	defer server.Close()
	for _, url := range []string{"file://" + t.TempDir() + "/bodies", "s3://prompts?endpoint=" + server.URL} {
		s := open(t, bodies.Config{URL: url})
		name, _ := bodies.New("acme", job, bodies.Prompt, "")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := s.Put(t.Context(), name, size, &zeros{size: size})
		must(t, err)
		body, err := s.Open(t.Context(), r)
		must(t, err)
		n, err := io.Copy(io.Discard, body)
		must(t, err, body.Close())
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; n != size || took > 4<<20 {
			t.Errorf("%s: %d bytes took %d of memory", url, n, took)
		}
	}
}

// reads is a body that is not to be read any more once it is over.
type reads struct {
	io.ReadSeeker
	over, late atomic.Bool
}

func (r *reads) Read(p []byte) (int, error) {
	if r.over.Load() {
		r.late.Store(true)
	}
	return r.ReadSeeker.Read(p)
}

// Nothing reads a body after Put has returned: its memory is another's then.
func TestABodyThatWasGivenUpIsReadNoMore(t *testing.T) {
	t.Parallel()
	begun, released := make(chan struct{}, 8), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 1<<10))
		begun <- struct{}{}
		<-released
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	defer server.Close()
	s := open(t, bodies.Config{URL: "s3://prompts?endpoint=" + server.URL})
	name, err := bodies.New("acme", job, bodies.Prompt, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	go func() { <-begun; giveUp() }()
	const size = 16 << 20
	body := &reads{ReadSeeker: bytes.NewReader(make([]byte, size))}
	if _, err := s.Put(ctx, name, size, body); err == nil {
		t.Error("a put that was given up has succeeded")
	}
	body.over.Store(true)
	close(released)
	server.CloseClientConnections()
	if body.late.Load() {
		t.Error("the body was read after Put had returned")
	}
}

// fails is a body that cannot be read a second time.
type fails struct {
	io.ReadSeeker
	pass int
}

func (f *fails) Seek(offset int64, whence int) (int64, error) {
	f.pass++
	return f.ReadSeeker.Seek(offset, whence)
}

func (f *fails) Read(p []byte) (int, error) {
	if f.pass > 0 {
		return 0, io.ErrClosedPipe
	}
	return f.ReadSeeker.Read(p)
}

// Bodies that are put together are all there, each itself, or none is.
func TestBodiesThatArePutTogetherAreThereOrNot(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, c bodies.Config) {
		c.Keep = time.Nanosecond
		s := open(t, c)
		list := func() (all []bodies.Body, want [][]byte) {
			for i, size := range []int{1, 5000, 20_000, 1<<20 + 1, 300} { // one has a file of its own
				name, err := bodies.New("acme", job, bodies.Prompt, "")
				must(t, err)
				body := bytes.Repeat([]byte{byte(i + 1)}, size)
				all, want = append(all, bodies.Body{Name: name, Size: int64(size), From: bytes.NewReader(body)}), append(want, body)
			}
			return all, want
		}
		for _, n := range []int{0, 5} {
			all, want := list()
			refs, err := s.PutAll(t.Context(), all[:n])
			if err != nil || len(refs) != n {
				t.Fatalf("%d bodies: %d, %v", n, len(refs), err)
			}
			for i, r := range refs {
				if got, err := s.Read(t.Context(), r, 0); err != nil || !bytes.Equal(got, want[i]) {
					t.Errorf("body %d of %d: %d bytes, %v", i, n, len(got), err)
				}
			}
			must(t, s.Delete(t.Context(), refs...))
		}
		for _, n := range []int{3, 5} {
			all, _ := list()
			all[n-1].From = &fails{ReadSeeker: all[n-1].From}
			if refs, err := s.PutAll(t.Context(), all[:n]); !errors.Is(err, io.ErrClosedPipe) || refs != nil {
				t.Errorf("the last of %d cannot be read: %v, %v", n, refs, err)
			}
			all[0].Size++
			if refs, err := s.PutAll(t.Context(), all[:n]); err == nil || refs != nil {
				t.Errorf("the first of %d is shorter: %v", n, refs)
			}
		}
		ctx, stop := context.WithCancel(t.Context()) // which removes what is in the bin
		stop()
		k := &known{}
		must(t, s.Run(ctx, k))
		must(t, s.Sweep(t.Context(), k))
		if found := slices.Concat(k.asked...); len(found) > 0 {
			t.Errorf("these were left: %q", found)
		}
	})
}
