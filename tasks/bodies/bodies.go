// Package bodies keeps what is large outside of the record: prompts and results, each as
// one object of a folder or of a bucket of S3, or in pieces in Redis.
//
// It promises that
//   - a body that was put is durable, or acknowledged by the bucket, before Put returns,
//     whole under its name or not there at all, whatever is killed;
//   - no body is ever overwritten by another: each has a name of its own, which cannot
//     be guessed and leads nowhere else;
//   - what is read is what was put, byte for byte, or an error;
//   - what nobody refers to any more goes after a day.
//
// Its errors are [tasks.BodiesError], and none of them, nor a metric, holds content or
// credentials. It knows nothing of jobs but their ids, and asks Redis for pieces alone.
package bodies

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
)

// Kind is what a body is.
type Kind string

// The kinds of bodies.
const (
	Prompt Kind = "prompt"
	Result Kind = "result"
	File   Kind = "file" // a part of one
)

// Config says where bodies lie.
type Config struct {
	URL string // as [Check] takes it
	// Pieces is the Redis of a URL that is "redis:".
	Pieces Pieces
	// AccessKey, SecretKey and SessionToken are for a bucket; without a key, the
	// machine's own role is asked (EC2, ECS, or a web identity as in EKS).
	AccessKey, SecretKey, SessionToken string
	// Try is the pause between two trials, 0 means 10 s; Sweep that between two
	// sweeps, 0 means an hour. Keep is how long what nobody refers to is kept, 0
	// means 24 h: more than the time between a put and its record.
	Try, Sweep, Keep time.Duration
	Log              *slog.Logger          // nil: silent
	Metrics          prometheus.Registerer // nil: none
}

// backend is where objects lie. Its names are those of [name] and trials; its errors
// may be of any type, one of an object that is not there is fs.ErrNotExist.
type backend interface {
	// put makes an object of exactly so many bytes and this digest, durable when it
	// returns, and says under which name it is found: this one, and perhaps a place.
	put(ctx context.Context, name, sum string, size int64, body io.ReadSeeker) (string, error)
	open(ctx context.Context, name string) (io.ReadCloser, error)
	// remove removes objects; one that is not there is removed.
	remove(ctx context.Context, names []string) error
	// list calls visit with each object, and with what is left of one that never came to be.
	list(ctx context.Context, visit func(name string, changed time.Time) error) error
	close()
}

// Bodies is a store of bodies. Its methods may be called at once from anywhere.
type Bodies struct {
	c     Config
	where string // for errors and the log
	b     backend
	m     *metrics
	bin   chan string // names to be removed
	tried trial
}

// Check says why a URL names no store of bodies: it has to be file:///a/folder, or
// s3://bucket/prefix, with the parameters endpoint (as in http://127.0.0.1:9000;
// absent: Amazon's) and region (absent: us-east-1).
func Check(raw string) error {
	_, err := parse(raw)
	return err
}

// parse reads a URL. What is wrong with it is told without it: somebody may have
// written credentials there.
func parse(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("is no URL")
	case u.User != nil:
		return nil, errors.New("must not hold credentials: bodies.access_key and bodies.secret_key are for them")
	case u.Fragment != "":
		return nil, errors.New("must not have a fragment")
	case u.Scheme == "file":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") || u.Path == "/" || u.RawQuery != "" {
			return nil, errors.New("has to be file:/// and the path of a folder")
		}
	case u.Scheme == "s3":
		return u, checkBucket(u)
	case u.Scheme == "redis":
		if raw != "redis:" {
			return nil, errors.New("has to be redis: alone, for the Redis that Sluice has")
		}
	default:
		return nil, errors.New("has to begin with file:/// or s3://, or to be redis: alone")
	}
	return u, nil
}

// Open returns the store of bodies at a URL. It makes a folder that is not there, and
// asks no bucket yet.
func Open(c Config) (*Bodies, error) {
	u, err := parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("bodies.url %w", err)
	}
	c.Try, c.Sweep, c.Keep = cmp.Or(c.Try, 10*time.Second), cmp.Or(c.Sweep, time.Hour), cmp.Or(c.Keep, 24*time.Hour)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Bodies{c: c, where: (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(), m: newMetrics(c.Metrics), bin: make(chan string, binMost)}
	switch u.Scheme {
	case "file":
		s.b, err = openFolder(u.Path)
	case "redis":
		s.b = shelf{c.Pieces}
	default:
		s.b, err = openBucket(u, c)
	}
	if err != nil {
		return nil, s.fail("open", err)
	}
	return s, nil
}

// Close ends what is kept open for further calls.
func (s *Bodies) Close() { s.b.close() }

// InRedis reports whether bodies take room of the record's Redis.
func (s *Bodies) InRedis() bool { _, ok := s.b.(shelf); return ok }

// Where is the URL, without its parameters.
func (s *Bodies) Where() string { return s.where }

// Ref says where a body lies, how long it is and what it was when it was put. Its text
// form is at most 200 bytes.
type Ref struct {
	Name string
	Size int64
	sum  string // SHA-256, in base64
}

// String is the text form, which [Parse] reads.
func (r Ref) String() string { return r.Name + " " + strconv.FormatInt(r.Size, 10) + " " + r.sum }

// Parse reads a Ref's text form.
func Parse(text string) (Ref, error) {
	part := strings.Split(text, " ")
	if len(part) != 3 || !isName(part[0]) || len(part[2]) != base64.RawURLEncoding.EncodedLen(sha256.Size) {
		return Ref{}, errors.New("bodies: a reference is not whole")
	}
	size, err := strconv.ParseInt(part[1], 10, 64)
	if err != nil || size < 0 {
		return Ref{}, errors.New("bodies: a reference is not whole")
	}
	return Ref{part[0], size, part[2]}, nil
}

// Owner is the id of the job that a body was put for; "" for what is no name of a body.
func Owner(name string) string {
	owner, _ := readName(name)
	return owner
}

// New returns the name of a body that is to be put: its tenant, of which nobody can
// tell the name, some hours, its job, its kind and mark, which is different for each
// body, has 26 letters and is nothing that anybody can guess; "" means any.
func New(tenant, job string, kind Kind, mark string) (string, error) {
	if !isID(job) {
		return "", fmt.Errorf("bodies: %q is not the id of a job", job)
	}
	sum := sha256.Sum256([]byte("sluice tenant " + tenant))
	_, ulid, _ := strings.Cut(job, "_")
	name := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10])) + "/" + ulid[:5] + "/" + job + "." + string(kind) + "." + cmp.Or(mark, rand.Text())
	if !isName(name) {
		return "", fmt.Errorf("bodies: %q is no kind or mark", kind)
	}
	return name, nil
}

// Timeout is how long an operation on so many bytes may take: a second for each MiB,
// and 10 s.
func Timeout(size int) time.Duration { return timeout(int64(size)) }

func timeout(size int64) time.Duration {
	return 10*time.Second + time.Duration(size)*time.Second/(1<<20)
}

// Body is one that is to be put: its name, of [New], and exactly so many bytes, at least one.
type Body struct {
	Name string
	Size int64
	From io.ReadSeeker
}

// item is a body that is being put. Its name says nothing of where it lay before.
type item struct {
	name, sum string
	size      int64
	body      io.ReadSeeker
}

// read reads the whole body for its digest.
func (b Body) read() (item, error) {
	if !isName(b.Name) || b.Size < 1 {
		return item{}, fmt.Errorf("bodies: %d bytes named %q are no body", b.Size, b.Name)
	}
	sum := sha256.New()
	n, err := io.Copy(sum, b.From)
	if err == nil {
		_, err = b.From.Seek(0, io.SeekStart)
	}
	if err == nil && n != b.Size {
		err = fmt.Errorf("bodies: %d bytes in place of %d", n, b.Size)
	}
	name, _, _ := strings.Cut(b.Name, "@")
	return item{name, encodeSum(sum), b.Size, b.From}, err
}

// Put puts a body of exactly so many bytes, at least one, under a name of [New]. The same body may be
// put again after an error.
func (s *Bodies) Put(ctx context.Context, name string, size int64, body io.ReadSeeker) (Ref, error) {
	refs, err := s.PutAll(ctx, []Body{{name, size, body}})
	if err != nil {
		return Ref{}, err
	}
	return refs[0], nil
}

// aloneAtOnce is how many bodies are put at once that share nothing.
const aloneAtOnce = 8

// PutAll is Put of several: those that share a file of a folder share a sync. After an error
// none of them is there, or what is goes soon.
func (s *Bodies) PutAll(ctx context.Context, list []Body) ([]Ref, error) {
	items, all := make([]item, len(list)), int64(0)
	for i, b := range list {
		var err error
		if items[i], err = b.read(); err != nil {
			return nil, err
		}
		all += b.Size
	}
	ctx, cancel := context.WithTimeout(ctx, timeout(all))
	defer cancel()
	var there []string
	err := s.m.watch("put", len(list), all, func() (err error) {
		there, err = s.putItems(ctx, items)
		return err
	})
	if err != nil {
		return nil, s.fail("put", err)
	}
	refs := make([]Ref, len(list))
	for i := range items {
		refs[i] = Ref{there[i], items[i].size, items[i].sum}
	}
	return refs, nil
}

// putItems puts bodies and returns under which names they are found.
func (s *Bodies) putItems(ctx context.Context, items []item) (there []string, err error) {
	if f, ok := s.b.(*folder); ok && !slices.ContainsFunc(items, func(i item) bool { return !f.shares(i.size) }) {
		return f.packs.put(ctx, items)
	}
	there = make([]string, len(items))
	errs := make([]error, len(items))
	places := make(chan struct{}, aloneAtOnce)
	var all sync.WaitGroup
	for i, one := range items {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			there[i], errs[i] = s.b.put(ctx, one.name, one.sum, one.size, one.body)
		})
	}
	all.Wait()
	if err = errors.Join(errs...); err != nil {
		for i := range items {
			if errs[i] == nil {
				s.Discard(Ref{Name: there[i]})
			}
		}
	}
	return there, err
}

func encodeSum(h hash.Hash) string { return base64.RawURLEncoding.EncodeToString(h.Sum(nil)) }

// Open reads a body. Whoever closes it before its end has read less than it; the end
// itself comes only when all of it was right.
func (s *Bodies) Open(ctx context.Context, r Ref) (io.ReadCloser, error) {
	if !isName(r.Name) {
		return nil, fmt.Errorf("bodies: %q is no name of a body", r.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout(r.Size))
	var body io.ReadCloser
	err := s.m.watch("open", 1, 0, func() (err error) {
		body, err = s.b.open(ctx, r.Name)
		return err
	})
	if err != nil {
		cancel()
		return nil, s.fail("open", err)
	}
	return &reading{s: s, ref: r, body: body, cancel: cancel, sum: sha256.New(), left: r.Size}, nil
}

// reading is a body that is being read.
type reading struct {
	s      *Bodies
	ref    Ref
	body   io.ReadCloser
	cancel context.CancelFunc
	sum    hash.Hash
	left   int64
}

// Read reads on.
func (r *reading) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	_, _ = r.sum.Write(p[:n])
	r.left -= int64(n)
	switch {
	case r.left < 0, errors.Is(err, io.EOF) && (r.left > 0 || encodeSum(r.sum) != r.ref.sum):
		return 0, r.s.fail("read", errDamaged)
	case errors.Is(err, io.EOF):
		r.s.m.bytes.WithLabelValues("open").Add(float64(r.ref.Size))
		return n, io.EOF
	case err != nil:
		return n, r.s.fail("read", err)
	}
	return n, nil
}

// Close ends the reading.
func (r *reading) Close() error {
	defer r.cancel()
	return r.body.Close()
}

// errDamaged is an object that is not what was put.
var errDamaged = errors.New("the object is not what was put")

// Read returns a whole body, or its first most bytes when it has more; most 0 is all.
func (s *Bodies) Read(ctx context.Context, r Ref, most int64) ([]byte, error) {
	body, err := s.Open(ctx, r)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	size := r.Size
	if most > 0 && most < size {
		size = most
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(body, b); err != nil {
		return nil, err
	}
	if size < r.Size {
		return b, nil
	}
	if n, err := body.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) { // its end is what vouches for it
		return nil, cmp.Or(err, s.fail("read", errDamaged))
	}
	return b, nil
}

// Delete removes bodies; one that is not there is removed. After an error some may
// still be there, and nobody finds them but a sweep.
func (s *Bodies) Delete(ctx context.Context, refs ...Ref) error {
	list := make([]string, len(refs))
	for i, r := range refs {
		list[i] = r.Name
	}
	return s.remove(ctx, list)
}

func (s *Bodies) remove(ctx context.Context, list []string) error {
	if len(list) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout(0))
	defer cancel()
	if err := s.m.watch("delete", 1, 0, func() error { return s.b.remove(ctx, list) }); err != nil {
		return s.fail("delete", err)
	}
	return nil
}

// fail makes an error of this package of one of a backend.
func (s *Bodies) fail(act string, err error) error {
	var own *tasks.BodiesError
	switch {
	case errors.As(err, &own), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrNotExist) && act != "put":
		return &tasks.BodiesError{Missing: true, Err: fmt.Errorf("%s at %s: %w", act, s.where, err)}
	case errors.Is(err, errDamaged):
		return &tasks.BodiesError{Missing: true, Err: fmt.Errorf("%s at %s: %w", act, s.where, err)}
	}
	full := errors.Is(err, tasks.ErrFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	return &tasks.BodiesError{Full: full, Err: fmt.Errorf("%s at %s: %w", act, s.where, err)}
}
