// Package wire reads the bodies of requests within their limits, and writes
// answers that a caller may have already.
//
// It promises that no body takes more memory or time than its route allows,
// before and after decompression, and that a caller whose body is not wanted
// still gets the answer that says so. It knows no form of the API and no job.
package wire

import (
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/jsonread"
)

// ErrTooLong is the error of reading a body that is longer than its limit.
var ErrTooLong = errors.New("the body is too long")

// Open returns the request's body, decompressed, of at most limit bytes
// both before and after: then reading fails with ErrTooLong. Its media type
// must be one of those given; a request without one, or with the one that curl
// puts where nobody said anything, is taken for the first of them.
func Open(w http.ResponseWriter, r *http.Request, limit int64, types ...string) (body io.Reader, mediaType string, err error) {
	body, mediaType, err = open(w, r, limit, types)
	if err != nil {
		return nil, "", err
	}
	return charged{body, r.Context(), Charged(r)}, mediaType, nil
}

// Within is a body that comes otherwise than a request's: reading more than limit bytes
// fails with ErrTooLong, and what is read is charged.
func Within(ctx context.Context, body io.Reader, limit int64, a Account) io.Reader {
	return charged{&capped{r: body, left: limit}, ctx, a}
}

// open is Open without a charge for what is read.
func open(w http.ResponseWriter, r *http.Request, limit int64, types []string) (body io.Reader, mediaType string, err error) {
	if r.ContentLength > limit {
		return nil, "", tooLong(limit)
	}
	if mediaType, err = oneOf(types, r.Header.Get("Content-Type")); err != nil {
		return nil, "", err
	}
	// The server closes the connection when a caller sends more than this.
	body = http.MaxBytesReader(w, r.Body, limit)
	switch strings.ToLower(strings.Join(r.Header["Content-Encoding"], ", ")) {
	case "", "identity":
		return body, mediaType, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, "", Fault(err, limit)
		}
		return &capped{r: z, left: limit}, mediaType, nil
	}
	p := fault.Fail(fault.UnsupportedMedia, "The Content-Encoding must be gzip or identity.")
	p.Header = http.Header{"Accept-Encoding": {"gzip"}}
	return nil, "", p
}

// oneOf returns the media type that a Content-Type names, which must be one of
// types; "" where nobody said anything.
func oneOf(types []string, field string) (string, error) {
	if field == "" || field == "application/x-www-form-urlencoded" {
		return "", nil
	}
	media, params, err := mime.ParseMediaType(field)
	charset := params["charset"]
	if err != nil || !slices.Contains(types, media) || charset != "" && !strings.EqualFold(charset, "utf-8") {
		p := fault.Fail(fault.UnsupportedMedia, "The Content-Type must be %s, in UTF-8.", strings.Join(types, " or "))
		p.Header = http.Header{"Accept": {strings.Join(types, ", ")}}
		return "", p
	}
	return media, nil
}

// Read returns the whole body. Its memory is counted as it grows, and is lent: it is the
// next body's after [Account.Spent].
func Read(w http.ResponseWriter, r *http.Request, limit int64, types ...string) ([]byte, error) {
	body, _, err := open(w, r, limit, types)
	if err != nil {
		return nil, err
	}
	ctx, account := r.Context(), Charged(r)
	var b []byte
	if r.Header.Get("Content-Encoding") == "" {
		if err := account.Expect(ctx, r.ContentLength); err != nil {
			return nil, err
		}
		if n := r.ContentLength; n > 0 && n < smallBody {
			b = make([]byte, 0, n+1)
		}
	}
	for {
		if len(b) == cap(b) {
			if b, err = account.Grow(ctx, b); err != nil {
				return nil, err
			}
		}
		n, err := body.Read(b[len(b):min(cap(b), len(b)+readMost)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, Fault(err, limit)
		}
		if len(b) > readMost {
			runtime.Gosched() // a large body that is there at once is a long way to go for a processor
		}
	}
}

// smallBody is up to where a body has the memory that its sender says it takes.
const smallBody = 8 << 10

// readMost is how much of a body is read at a time.
const readMost = 64 << 10

func tooLong(limit int64) *fault.Fault {
	return fault.Fail(fault.BodyTooLarge, "The body must not be longer than %d bytes, before and after decompression.", limit)
}

// Fault is the problem with a body that could not be read to its end.
func Fault(err error, limit int64) error {
	var (
		tooBig *http.MaxBytesError
		known  *fault.Fault
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &tooBig), errors.Is(err, ErrTooLong):
		return tooLong(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fault.Fail(fault.RequestTimeout, "The body came too slowly: it has to bring at least 1 KiB a second over any 15 s, and all of it within an hour. Send it again over a better connection, or in parts.")
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), isCorrupt(err):
		return fault.Fail(fault.InvalidRequest, "The body is not valid gzip.")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fault.Fail(fault.InvalidRequest, "The body ends too early.")
	}
	// The connection broke: nobody will read the answer.
	return fault.Fail(fault.InvalidRequest, "The body could not be read.")
}

// capped fails with ErrTooLong once more than left bytes were there.
type capped struct {
	r    io.Reader
	left int64
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left < 0 {
		return 0, ErrTooLong
	}
	// One byte more than allowed tells a body of the limit from a longer one.
	if int64(len(p)) > c.left+1 {
		p = p[:c.left+1]
	}
	n, err := c.r.Read(p)
	c.left -= int64(n)
	if c.left < 0 {
		return n - 1, ErrTooLong
	}
	return n, err
}

// What is read of a body after its request was refused.
const (
	mostLingered = 256 << 20
	lingerTime   = 10 * time.Second
)

// Linger sends the answer on its way and reads the rest of the body for a while.
// A connection that is closed with bytes unread is reset, and a caller that
// sends all before it reads would then lose the answer (RFC 9112, 9.6).
func Linger(w http.ResponseWriter, r *http.Request) {
	// Who expects to be asked for the body sends none before that.
	if r.ProtoMajor != 1 || r.ContentLength == 0 || r.Header.Get("Expect") != "" {
		return
	}
	body := r.Body
	if s, ok := body.(*steady); ok {
		body = s.ReadCloser
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(lingerTime))
	if control.Flush() == nil {
		_, _ = io.CopyN(io.Discard, body, mostLingered)
	}
}

// isCorrupt reports whether the decompressor found nonsense.
func isCorrupt(err error) bool {
	var corrupt flate.CorruptInputError
	return errors.As(err, &corrupt)
}

// Told makes a problem of what is wrong with a body; every other error passes.
func Told(err error) error {
	var e *jsonread.Error
	switch {
	case !errors.As(err, &e):
		return err
	case e.Syntax:
		return fault.Fail(fault.InvalidJSON, "%s", e.Detail)
	}
	return fault.Fail(fault.InvalidRequest, "%s", e.Detail)
}
