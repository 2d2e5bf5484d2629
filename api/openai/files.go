package openai

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/header"
	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
)

// Documents keeps what the form has beside jobs and batches.
type Documents interface {
	PutDocument(ctx context.Context, d tasks.Document) error
	// Document is tasks.ErrNotFound for another tenant's.
	Document(ctx context.Context, tenant, id string) (tasks.Document, error)
	// Documents lists those that a filter selects, and says whether there are more.
	Documents(ctx context.Context, f tasks.DocumentFilter) (page []tasks.Document, more bool, err error)
	DropDocument(ctx context.Context, d tasks.Document) error
	// ClaimDocument keeps a document unless there is one of its id, and returns that one's body.
	ClaimDocument(ctx context.Context, d tasks.Document) (prior []byte, err error)
	// AddContent adds a chunk to the content of a document that is to come; past the
	// bytes that the tenant may have it is a *tasks.QuotaError.
	AddContent(ctx context.Context, tenant, id string, chunk []byte, l tasks.Limits) error
	// Content returns one chunk of a content, the first being 0; nil after the last.
	Content(ctx context.Context, id string, chunk int) ([]byte, error)
}

const (
	chunkBytes = 1 << 20
	fileKept   = 30 * 24 * time.Hour
	mostFiles  = 1000    // of a tenant
	mostHeld   = 1 << 30 // bytes of all files of a tenant
)

// file is what is kept of an uploaded file beside its content.
type file struct {
	Name    string `json:"name"`
	Bytes   int64  `json:"bytes"`
	Purpose string `json:"purpose"`
	Created int64  `json:"created"` // unix seconds, as OpenAI has all times
	Expires int64  `json:"expires"`
	Lines   int    `json:"lines"`
	Faults  faults `json:"faults,omitempty"`
}

// upload is a file on its way in.
type upload struct {
	file
	id, tenant, seconds string

	limits tasks.Limits // of the tenant
	left   int64        // bytes that the tenant's files may have besides
	sum    hash.Hash    // of all that came
	seen   bool         // the file's part has come
}

// CreateFile is POST /openai/v1/files. The file is checked and stored while it comes;
// what is wrong in its lines is told when a batch is made of it.
func (a *API) CreateFile(c echo.Context) error {
	r, x := c.Request(), a.c.Caller(c)
	leave, err := a.c.Desk.Upload(x.Tenant)
	if err != nil {
		return err
	}
	defer leave()
	key, err := header.IdempotencyKey(r.Header)
	if err != nil {
		return err
	}
	u := upload{id: strings.Replace(a.c.NewID("file"), "_", "-", 1), tenant: x.Tenant, sum: sha256.New()}
	if u.limits, err = a.c.Desk.Limits(r.Context(), x.Tenant); err != nil {
		return err
	}
	if u.left, err = a.roomForFiles(r.Context(), x.Tenant, 1); err != nil {
		return err
	}
	d, replayed, err := a.take(c, &u, key)
	if d.ID != u.id && u.seen { // nothing of it is of use
		a.drop(r.Context(), tasks.Document{ID: u.id, Tenant: x.Tenant, Kind: tasks.FileDocument}, x.Request)
	}
	if err != nil {
		return err
	}
	if replayed {
		c.Response().Header().Set("Idempotency-Replayed", "true")
	}
	return a.write(c, fileOf(nil, d.ID, &u.file))
}

// take takes a file in, or finds the one that an upload with the same key has made:
// u.file describes it then.
func (a *API) take(c echo.Context, u *upload, key string) (d tasks.Document, replayed bool, err error) {
	now := a.c.Now().Unix()
	u.Created, u.Expires = now, now+int64(fileKept.Seconds())
	if err := a.readForm(c, u); err != nil {
		return d, false, err
	}
	ctx := c.Request().Context()
	if key != "" {
		d, err = a.claim(ctx, u, key)
		if err != nil || d.ID != "" {
			return d, true, err
		}
	}
	body, err := json.Marshal(u.file)
	if err != nil {
		return d, false, err
	}
	kept := tasks.Document{ID: u.id, Tenant: u.tenant, Kind: tasks.FileDocument, Body: body, Expires: time.Duration(u.Expires-now) * time.Second}
	if err := a.c.Documents.PutDocument(ctx, kept); err != nil {
		return d, false, err
	}
	// Others may have come meanwhile: of too many the last ones go.
	if _, err := a.roomForFiles(ctx, u.tenant, 0); err != nil {
		return d, false, err
	}
	return kept, false, nil
}

// claimed is which file an upload with a key has made.
type claimed struct {
	File string `json:"file"`
	Sum  string `json:"sum"` // of what was sent
}

// claimKept is how long an upload's key is remembered.
const claimKept = 24 * time.Hour

// claim notes that the key of an upload stands for its file, or finds the file that it
// stands for already.
func (a *API) claim(ctx context.Context, u *upload, key string) (d tasks.Document, err error) {
	name := sha256.Sum256([]byte(u.tenant + "\x00" + key))
	mine := claimed{u.id, hex.EncodeToString(u.sum.Sum(nil))}
	body, err := json.Marshal(mine)
	if err != nil {
		return d, err
	}
	note := tasks.Document{ID: "upload-" + hex.EncodeToString(name[:20]), Tenant: u.tenant, Kind: tasks.UploadDocument, Body: body, Expires: claimKept}
	prior, err := a.c.Documents.ClaimDocument(ctx, note)
	if err != nil || prior == nil {
		return d, err
	}
	var first claimed
	if err := json.Unmarshal(prior, &first); err != nil {
		return d, err
	}
	if first.Sum != mine.Sum {
		return d, &tasks.ReusedError{ID: first.File}
	}
	there, f, err := a.uploaded(ctx, u.tenant, first.File)
	if err == nil {
		u.file = f
		return there, nil
	}
	if noFileUnless(err) != err { // its upload never ended, or it was deleted: this one is in its place
		return d, a.c.Documents.PutDocument(ctx, note)
	}
	return d, err
}

// drop forgets a file that is not to be. It may be listed by now: an answer of Redis was
// lost.
func (a *API) drop(ctx context.Context, d tasks.Document, request string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := a.c.Documents.DropDocument(ctx, d); err != nil { // it goes by itself after a while
		a.c.Log.LogAttrs(ctx, slog.LevelWarn, "forget an upload that failed", slog.String("request_id", request), slog.Any("error", err))
	}
}

// readForm reads an upload.
func (a *API) readForm(c echo.Context, u *upload) error {
	r := c.Request()
	memory := wire.Charged(r)
	body, _, err := wire.Open(c.Response(), r, a.c.MaxFile, "multipart/form-data")
	if err != nil {
		return err
	}
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || params["boundary"] == "" {
		return fault.Fail(fault.UnsupportedMedia, "The Content-Type must be multipart/form-data with a boundary.")
	}
	parts := multipart.NewReader(body, params["boundary"])
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return u.complete()
		}
		if err != nil {
			return wire.Fault(err, a.c.MaxFile)
		}
		if err := a.takePart(r.Context(), u, part, func(n int) { memory.Give(int64(n)) }); err != nil {
			return err
		}
	}
}

// roomForFiles returns how many bytes the files of a tenant may have beside those that
// there are. Where there is no room for so many more it refuses.
func (a *API) roomForFiles(ctx context.Context, tenant string, more int) (left int64, err error) {
	held, n := int64(0), 0
	for after, next := "", true; next; {
		var page []tasks.Document
		if page, next, err = a.c.Documents.Documents(ctx, tasks.DocumentFilter{Tenant: tenant, Kind: tasks.FileDocument, After: after, Limit: 100}); err != nil {
			return 0, err
		}
		for _, d := range page {
			var f file
			_ = json.Unmarshal(d.Body, &f) // we wrote it
			held, n, after = held+f.Bytes, n+1, d.ID
		}
	}
	if n+more <= mostFiles && held+int64(more) <= mostHeld {
		return mostHeld - held, nil
	}
	return 0, noRoom()
}

func noRoom() error {
	return fault.Fail(fault.QuotaExceeded, "At most %d files with %d bytes in all are kept of a tenant: delete some, or send smaller ones.", mostFiles, int64(mostHeld))
}

// takePart takes in one part of the form.
func (a *API) takePart(ctx context.Context, u *upload, part *multipart.Part, given func(int)) error {
	name := part.FormName()
	_, _ = io.WriteString(u.sum, name+"\x00"+part.FileName()+"\x00")
	if name == "file" {
		if u.seen {
			return fault.Fail(fault.InvalidRequest, `There is more than one "file".`)
		}
		u.seen, u.Name = true, part.FileName()
		return a.takeContent(ctx, u, part, given)
	}
	value, err := io.ReadAll(io.LimitReader(part, 1<<10))
	if err != nil {
		return wire.Fault(err, a.c.MaxFile)
	}
	given(len(value))
	_, _ = u.sum.Write(append(value, 0))
	switch name {
	case "purpose":
		u.Purpose = string(value)
	case "expires_after[seconds]":
		u.seconds = string(value)
	}
	return nil
}

// takeContent stores a file's bytes in chunks, and checks its lines on the way.
func (a *API) takeContent(ctx context.Context, u *upload, part io.Reader, given func(int)) error {
	chunk := make([]byte, 0, chunkBytes)
	flush := func() error {
		if len(chunk) == 0 {
			return nil
		}
		err := a.c.Documents.AddContent(ctx, u.tenant, u.id, chunk, u.limits)
		chunk = chunk[:0]
		return err
	}
	stored := writer(func(p []byte) (int, error) {
		if u.Bytes+int64(len(p)) > u.left {
			return 0, noRoom()
		}
		for rest := p; len(rest) > 0; {
			n := min(len(rest), chunkBytes-len(chunk))
			chunk, rest = append(chunk, rest[:n]...), rest[n:]
			if len(chunk) == chunkBytes {
				if err := flush(); err != nil {
					return 0, err
				}
			}
		}
		u.Bytes += int64(len(p))
		_, _ = u.sum.Write(p)
		given(len(p))
		return len(p), nil
	})
	seen := map[string]int{}
	var kept error // of storing
	err := wire.AllLines(io.TeeReader(part, writer(func(p []byte) (int, error) {
		n, err := stored(p)
		kept = err
		return n, err
	})), a.c.MaxBody, func(line int, raw []byte, whole bool) error {
		u.Lines++
		u.Faults.add(checkLine(line, raw, whole, seen))
		return nil
	})
	switch {
	case kept != nil:
		return kept
	case err != nil:
		return wire.Fault(err, a.c.MaxFile)
	}
	if u.Lines > mostLines {
		u.Faults.add(&lineFault{Code: "too_many_requests", Message: "The file has more than " + strconv.Itoa(mostLines) + " requests."})
	}
	return flush()
}

// checkLine says what is wrong with a line, beside the lines before it.
func checkLine(line int, raw []byte, whole bool, seen map[string]int) *lineFault {
	if !whole {
		return &lineFault{Code: "request_too_large", Line: line, Message: "This line is too long."}
	}
	job, _, wrong := readLine(line, raw)
	if wrong != nil {
		return wrong
	}
	if first, twice := seen[job.CustomID]; twice {
		return &lineFault{Code: "duplicate_custom_id", Line: line, Param: "custom_id", Message: "The 'custom_id' is that of line " + strconv.Itoa(first) + " already."}
	}
	if len(seen) < mostLines {
		seen[job.CustomID] = line
	}
	return nil
}

// writer is a function that takes what is written.
type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// complete checks what the form said beside the file.
func (u *upload) complete() error {
	switch {
	case !u.seen:
		return fault.Fail(fault.InvalidRequest, `The part "file" is missing.`)
	case u.Purpose != "batch":
		return fault.Fail(fault.InvalidRequest, `The part "purpose" must be "batch": files serve batches alone here.`)
	case u.Bytes == 0:
		return fault.Fail(fault.InvalidRequest, "The file is empty.")
	case utf8.RuneCountInString(u.Name) > maxWord || !utf8.ValidString(u.Name):
		return fault.Fail(fault.InvalidRequest, "The file's name is too long.")
	}
	if u.seconds != "" {
		n, err := strconv.ParseInt(u.seconds, 10, 64)
		if err != nil || n < 3600 || n > int64(fileKept.Seconds()) {
			return fault.Fail(fault.InvalidRequest, `The part "expires_after[seconds]" must be a number from 3600 to 2592000.`)
		}
		u.Expires = u.Created + n
	}
	return nil
}

// fileOf appends a file as OpenAI shows it.
func fileOf(b []byte, id string, f *file) []byte {
	o := jsonwrite.Object{B: b}
	o.Str("id", id)
	o.Str("object", "file")
	o.Num("bytes", f.Bytes)
	o.Num("created_at", f.Created)
	o.OptionalNum("expires_at", f.Expires)
	o.Str("filename", f.Name)
	o.Str("purpose", f.Purpose)
	o.Str("status", "processed")
	return o.End()
}

// noFile is the answer about a file that is not there for its caller.
func noFile() error { return fault.Fail(fault.NotFound, "There is no file of this id.") }

// uploaded returns a file that was uploaded.
func (a *API) uploaded(ctx context.Context, tenant, id string) (tasks.Document, file, error) {
	var f file
	d, err := a.c.Documents.Document(ctx, tenant, id)
	if errors.Is(err, tasks.ErrNotFound) || err == nil && d.Kind != tasks.FileDocument {
		return d, f, noFile()
	}
	if err == nil {
		err = json.Unmarshal(d.Body, &f)
	}
	return d, f, err
}

// GetFile is GET /openai/v1/files/{id}.
func (a *API) GetFile(c echo.Context) error {
	ctx, tenant, id := c.Request().Context(), a.c.Caller(c).Tenant, c.Param("id")
	if v, ok := virtualFile(id); ok {
		b, err := a.batch(ctx, tenant, v.batch)
		if err != nil || !a.serves(&b, v.failed) {
			return errors.Join(noFileUnless(err))
		}
		return a.write(c, fileOf(nil, id, v.describe(&b)))
	}
	_, f, err := a.uploaded(ctx, tenant, id)
	if err != nil {
		return err
	}
	return a.write(c, fileOf(nil, id, &f))
}

// noFileUnless is why a batch's file is not there: there is no such batch, or not yet
// anything in it, unless the store has failed.
func noFileUnless(err error) error {
	var f *fault.Fault
	if err == nil || errors.As(err, &f) && f.Code == fault.NotFound {
		return noFile()
	}
	return err
}

// ListFiles is GET /openai/v1/files.
func (a *API) ListFiles(c echo.Context) error {
	limit, err := limitOf(c, 100, 10_000)
	if err != nil {
		return err
	}
	var p page
	if purpose := c.QueryParam("purpose"); purpose != "" && purpose != "batch" {
		return a.write(c, p.end())
	}
	after, err := afterOf(c, "file-")
	if err != nil {
		return err
	}
	order := c.QueryParam("order")
	if order != "" && order != "asc" && order != "desc" {
		return fault.Fail(fault.InvalidRequest, `The query parameter "order" must be "desc" or "asc".`)
	}
	documents, more, err := a.c.Documents.Documents(c.Request().Context(), tasks.DocumentFilter{
		Tenant: a.c.Caller(c).Tenant, Kind: tasks.FileDocument, After: after, Limit: limit, Oldest: order == "asc",
	})
	if err != nil {
		return err
	}
	p.more = more
	for _, d := range documents {
		var f file
		if err := json.Unmarshal(d.Body, &f); err != nil {
			return err
		}
		p.add(d.ID, fileOf(nil, d.ID, &f))
	}
	return a.write(c, p.end())
}

// limitOf is how many a page is to have, from 1 to most; unless its caller says, usual.
func limitOf(c echo.Context, usual, most int) (int, error) {
	v := c.QueryParam("limit")
	if v == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > most {
		return 0, fault.Fail(fault.InvalidRequest, `The query parameter "limit" must be a number from 1 to %d.`, most)
	}
	return min(n, 1000), nil
}

// afterOf is the id behind which a page begins; "" for none. It need not be there any more.
func afterOf(c echo.Context, word string) (string, error) {
	after := c.QueryParam("after")
	if rest, ok := strings.CutPrefix(after, word); after != "" && (!ok || len(rest) != idLength || strings.ToUpper(rest) != rest) {
		return "", fault.Fail(fault.InvalidRequest, `The query parameter "after" must be an id of this list, as in "last_id" of a page.`)
	}
	return after, nil
}

// page is a page of a list under way.
type page struct {
	data        []byte
	first, last string // ids
	more        bool
}

func (p *page) add(id string, shown []byte) {
	if p.first == "" {
		p.first = id
	} else {
		p.data = append(p.data, ',')
	}
	p.data, p.last = append(p.data, shown...), id
}

// end is the page as OpenAI has it.
func (p *page) end() []byte {
	var o jsonwrite.Object
	o.Str("object", "list")
	o.Name("data")
	o.B = append(append(append(o.B, '['), p.data...), ']')
	if p.first == "" {
		p.last = ""
	}
	o.Optional("first_id", p.first)
	o.Optional("last_id", p.last)
	o.Bool("has_more", p.more)
	return o.End()
}

// DeleteFile is DELETE /openai/v1/files/{id}. A batch that was made of it goes on.
func (a *API) DeleteFile(c echo.Context) error {
	if _, virtual := virtualFile(c.Param("id")); virtual {
		return fault.Fail(fault.Conflict, "The file of a batch's results goes with the batch.")
	}
	d, _, err := a.uploaded(c.Request().Context(), a.c.Caller(c).Tenant, c.Param("id"))
	if err != nil {
		return err
	}
	if err := a.c.Documents.DropDocument(c.Request().Context(), d); err != nil {
		return err
	}
	return a.write(c, deleted(d.ID, "file"))
}

// FileContent is GET /openai/v1/files/{id}/content. An answer that cannot be finished is
// broken off, so that it does not look whole.
func (a *API) FileContent(c echo.Context) error {
	ctx, tenant, id := c.Request().Context(), a.c.Caller(c).Tenant, c.Param("id")
	out := wire.NewOutflow(c.Response(), c.Request(), "application/octet-stream", a.c.Caller(c).Request, a.c.Log)
	if v, ok := virtualFile(id); ok {
		b, err := a.batch(ctx, tenant, v.batch)
		if err != nil || !a.serves(&b, v.failed) {
			return noFileUnless(err)
		}
		for next, more := 0, true; more; more = more && next > 0 {
			var jobs []tasks.Job
			if jobs, next, err = a.c.Batches.BatchResults(ctx, tenant, v.batch, next); err != nil {
				return out.Fail(err)
			}
			more = out.Write(resultLines(jobs, v.failed))
		}
		return nil
	}
	_, f, err := a.uploaded(ctx, tenant, id)
	if err != nil {
		return err
	}
	for next := a.chunks(ctx, id, f.Bytes); ; {
		chunk, err := next()
		if err != nil {
			return out.Fail(err)
		}
		if more := out.Write(chunk); !more || chunk == nil {
			return nil
		}
	}
}

// chunks returns a file's chunks one after the other, and nil behind the last. Content that ends
// before the bytes that its document tells, or goes on behind them, is an error: some of it was lost.
func (a *API) chunks(ctx context.Context, id string, size int64) func() ([]byte, error) {
	i := 0
	return func() ([]byte, error) {
		chunk, err := a.c.Documents.Content(ctx, id, i)
		if err != nil {
			return nil, err
		}
		i, size = i+1, size-int64(len(chunk))
		if chunk == nil && size > 0 || size < 0 {
			return nil, fmt.Errorf("the content of %s is not as long as it was when it came", id)
		}
		return chunk, nil
	}
}

// content reads chunks one after the other.
type content struct {
	next func() ([]byte, error)
	rest bytes.Reader
}

func (r *content) Read(p []byte) (int, error) {
	if r.rest.Len() == 0 {
		chunk, err := r.next()
		if err != nil {
			return 0, err
		}
		if chunk == nil {
			return 0, io.EOF
		}
		r.rest.Reset(chunk)
	}
	return r.rest.Read(p)
}
