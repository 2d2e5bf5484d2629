package upstream

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// Batch is a batch at a provider, as far as its own answer says.
type Batch struct {
	ID        string
	Name      string // as [Caller.CreateBatch] was told it, where the provider keeps one
	CreatedAt time.Time
	Lines     int
	Ended     bool   // no line is answered any more
	Failed    bool   // as a whole: no line ever was
	File      string // that was uploaded for it; "": none was, or the provider does not say

	files []string // of results
}

// LineResult is what became of one line of a batch. Of one that brought no answer
// Answer.Outcome is tasks.Spilled, or tasks.TooLarge; Answer.MaybeBilled says whether it may cost.
type LineResult struct {
	ID string
	Answer
}

// maxBatchAnswer is how much of an answer about batches is read.
const maxBatchAnswer = 16 << 20

// BatchLine is a request as a line of a batch, by that name. An error means that it can
// never be one, and quotes nothing of it.
func (c *Caller) BatchLine(id, owner string, q Question) ([]byte, error) {
	whole := c.provider
	whole.NoStream = true
	q.as(c.provider.Models)
	q.user = c.provider.userOf(owner)
	body, err := q.Body(&whole)
	if err != nil {
		return nil, err
	}
	var line bytes.Buffer
	if err := json.Compact(&line, body); err != nil { // a line has one line
		return nil, errors.New("the request is not JSON")
	}
	out := appendString([]byte(`{"custom_id":`), id)
	if c.provider.Dialect == OpenAI {
		out = appendString(append(out, `,"method":"POST","url":`...), batchEndpoint(q.request.Endpoint))
		return append(append(append(out, `,"body":`...), line.Bytes()...), '}'), nil
	}
	return append(append(append(out, `,"params":`...), line.Bytes()...), '}'), nil
}

// batchEndpoint is what OpenAI calls an endpoint in a batch, whatever the base URL.
func batchEndpoint(e tasks.Path) string { return "/v1/" + cmp.Or(string(e), "chat/completions") }

// batches is the address of the provider's batches.
func (c *Caller) batches() string {
	if c.provider.Dialect == OpenAI {
		return strings.TrimSuffix(c.url, "/chat/completions") + "/batches"
	}
	return c.url + "/batches"
}

// CreateBatch makes a batch of lines. r is one of their requests, for what headers and endpoint
// are alike in all, name is kept by a provider that keeps names, and file is that of an
// upload before, if there was one; fileMade is told of a new one before the batch is asked for. An answer
// whose MaybeBilled is true says that the batch may exist.
func (c *Caller) CreateBatch(ctx context.Context, r *tasks.Request, name, file string, lines [][]byte, fileMade func(id string) error) (Batch, Answer) {
	if c.provider.Dialect != OpenAI {
		body := append(append([]byte(`{"requests":[`), bytes.Join(lines, []byte{','})...), "]}"...)
		return c.oneBatch(ctx, http.MethodPost, "", "application/json", r, body)
	}
	if file == "" {
		var a Answer
		if file, a = c.uploadLines(ctx, r, name, lines); a.Outcome != tasks.Succeeded {
			a.MaybeBilled = false // a file costs nothing
			return Batch{}, a
		}
		if err := fileMade(file); err != nil {
			return Batch{}, Answer{Outcome: tasks.ConnectError, Message: "the file that was uploaded is not in the record"}
		}
	}
	body, _ := json.Marshal(map[string]any{ // strings
		"input_file_id": file, "endpoint": batchEndpoint(r.Endpoint), "completion_window": "24h", "metadata": map[string]string{"sluice_bundle": name},
	})
	return c.oneBatch(ctx, http.MethodPost, "", "application/json", r, body)
}

func (c *Caller) uploadLines(ctx context.Context, r *tasks.Request, name string, lines [][]byte) (string, Answer) {
	var form bytes.Buffer
	m := multipart.NewWriter(&form)
	_ = m.WriteField("purpose", "batch") // a buffer takes all, here and below
	part, _ := m.CreateFormFile("file", name+".jsonl")
	for _, line := range lines {
		_, _ = part.Write(append(line, '\n'))
	}
	_ = m.Close()
	said, a := c.about(ctx, http.MethodPost, strings.TrimSuffix(c.batches(), "/batches")+"/files", m.FormDataContentType(), r, form.Bytes())
	var file struct{ ID string }
	if a.Outcome == tasks.Succeeded && (json.Unmarshal(said, &file) != nil || file.ID == "") {
		a.Outcome, a.Message = tasks.ServerError, "the upload of a batch's lines was not answered with a file"
	}
	return file.ID, a
}

// ReadBatch reads how far a batch has come.
func (c *Caller) ReadBatch(ctx context.Context, id string) (Batch, Answer) {
	return c.oneBatch(ctx, http.MethodGet, "/"+url.PathEscape(id), "", &tasks.Request{}, nil)
}

// CancelBatch asks for the end of a batch: what was answered is kept.
func (c *Caller) CancelBatch(ctx context.Context, id string) (Batch, Answer) {
	return c.oneBatch(ctx, http.MethodPost, "/"+url.PathEscape(id)+"/cancel", "application/json", &tasks.Request{}, []byte("{}"))
}

// ForgetBatch deletes what the provider still has of a batch that has ended, where it lets one. An
// error says nothing: it is deleted by itself in time.
func (c *Caller) ForgetBatch(ctx context.Context, b Batch) {
	none := &tasks.Request{}
	if c.provider.Dialect != OpenAI {
		c.about(ctx, http.MethodDelete, c.batches()+"/"+url.PathEscape(b.ID), "", none, nil)
		return
	}
	for _, file := range append(b.files, b.File) {
		if file != "" {
			c.about(ctx, http.MethodDelete, strings.TrimSuffix(c.batches(), "/batches")+"/files/"+url.PathEscape(file), "", none, nil)
		}
	}
}

// RecentBatches lists all batches that were made since then, the newest first. Of very many, it is an
// error of the provider: which there are is then not known.
func (c *Caller) RecentBatches(ctx context.Context, since time.Time) (list []Batch, a Answer) {
	after := ""
	for range 50 {
		page := c.batches() + "?limit=100"
		if after != "" && c.provider.Dialect == OpenAI {
			page += "&after=" + url.QueryEscape(after)
		} else if after != "" {
			page += "&after_id=" + url.QueryEscape(after)
		}
		said, a := c.about(ctx, http.MethodGet, page, "", &tasks.Request{}, nil)
		if a.Outcome != tasks.Succeeded {
			return nil, a
		}
		var got struct {
			Data []json.RawMessage `json:"data"`
			More bool              `json:"has_more"`
		}
		if json.Unmarshal(said, &got) != nil {
			return nil, Answer{Outcome: tasks.ServerError, Message: "the list of batches cannot be read"}
		}
		for _, v := range got.Data {
			b, ok := c.readBatch(v)
			if !ok {
				return nil, Answer{Outcome: tasks.ServerError, Message: "the list of batches cannot be read"}
			}
			if b.CreatedAt.Before(since) {
				return list, a
			}
			list, after = append(list, b), b.ID
		}
		if !got.More || len(got.Data) == 0 {
			return list, a
		}
	}
	return nil, Answer{Outcome: tasks.ServerError, Message: "there are too many batches to list"}
}

func (c *Caller) oneBatch(ctx context.Context, method, path, media string, r *tasks.Request, body []byte) (Batch, Answer) {
	said, a := c.about(ctx, method, c.batches()+path, media, r, body)
	if a.Outcome != tasks.Succeeded {
		return Batch{}, a
	}
	b, ok := c.readBatch(said)
	if !ok {
		a.Outcome, a.Message, a.MaybeBilled = tasks.ServerError, "the address did not answer with a batch", true
	}
	return b, a
}

// readBatch reads a batch in the dialect.
func (c *Caller) readBatch(said []byte) (b Batch, ok bool) {
	if c.provider.Dialect != OpenAI {
		var in struct {
			ID      string
			Status  string                                                          `json:"processing_status"`
			Created time.Time                                                       `json:"created_at"`
			Counts  struct{ Processing, Succeeded, Errored, Canceled, Expired int } `json:"request_counts"`
		}
		if json.Unmarshal(said, &in) != nil || in.ID == "" || in.Status == "" {
			return b, false
		}
		n := in.Counts
		return Batch{ID: in.ID, CreatedAt: in.Created, Ended: in.Status == "ended", Lines: n.Processing + n.Succeeded + n.Errored + n.Canceled + n.Expired}, true
	}
	var in struct {
		ID       string
		Status   string
		Created  int64               `json:"created_at"`
		Input    string              `json:"input_file_id"`
		Output   string              `json:"output_file_id"`
		Errors   string              `json:"error_file_id"`
		Metadata map[string]string   `json:"metadata"`
		Counts   struct{ Total int } `json:"request_counts"`
	}
	if json.Unmarshal(said, &in) != nil || in.ID == "" || in.Status == "" {
		return b, false
	}
	b = Batch{ID: in.ID, Name: in.Metadata["sluice_bundle"], CreatedAt: time.Unix(in.Created, 0).UTC(), Lines: in.Counts.Total, File: in.Input}
	switch in.Status {
	case "failed":
		b.Failed, b.Ended = true, true
	case "completed", "expired", "cancelled":
		b.Ended = true
	}
	for _, file := range []string{in.Output, in.Errors} {
		if file != "" {
			b.files = append(b.files, file)
		}
	}
	return b, true
}

// about makes one call that asks no model anything. A 2xx is tasks.Succeeded, with its body.
func (c *Caller) about(ctx context.Context, method, address, media string, r *tasks.Request, body []byte) ([]byte, Answer) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, a := c.open(ctx, cancel, method, address, media, r, body)
	if resp == nil {
		return nil, a
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, maxBatchAnswer))
	if err != nil {
		a.Outcome, a.Message, a.MaybeBilled = tasks.CutOff, "the answer broke off", true
		return nil, a
	}
	a.Outcome = tasks.Succeeded
	return said, a
}

// open begins such a call; a nil response is a call that failed. MaybeBilled is then true
// where it may have been carried out nevertheless.
func (c *Caller) open(ctx context.Context, cancel context.CancelFunc, method, address, media string, r *tasks.Request, body []byte) (*http.Response, Answer) {
	sent := &outgoing{}
	var content io.Reader = http.NoBody
	if body != nil {
		content = &outgoingBody{rest: body, sent: sent}
	}
	req, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil || !sendable(r) {
		return nil, Answer{Outcome: tasks.Rejected, Message: "the call cannot be built"}
	}
	if body != nil {
		req.ContentLength = int64(len(body))
		req.Header.Set("Content-Type", media)
	}
	c.sign(req.Header, r)
	resp, err := c.client.Do(req)
	if err != nil {
		a := c.unanswered(ctx, err, sent.whole.Load())
		a.clean(c.redact)
		return nil, a
	}
	a := c.begin(resp)
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, a
	}
	defer resp.Body.Close()
	c.refused(&a, resp, cancel)
	a.MaybeBilled = a.MaybeBilled || resp.StatusCode >= 500
	a.clean(c.redact)
	return nil, a
}

// BatchResults reads what became of the lines of a batch that has ended, and tells each. Lines
// that cannot be read are left out. Succeeded: all files were read to their ends; an error of each ends it.
func (c *Caller) BatchResults(ctx context.Context, b Batch, e tasks.Path, each func(LineResult) error) Answer {
	addresses := []string{c.batches() + "/" + url.PathEscape(b.ID) + "/results"}
	if c.provider.Dialect == OpenAI {
		addresses = nil
		for _, file := range b.files {
			addresses = append(addresses, strings.TrimSuffix(c.batches(), "/batches")+"/files/"+url.PathEscape(file)+"/content")
		}
	}
	for _, address := range addresses {
		if a := c.results(ctx, address, e, each); a.Outcome != tasks.Succeeded {
			return a
		}
	}
	return Answer{Outcome: tasks.Succeeded}
}

func (c *Caller) results(ctx context.Context, address string, e tasks.Path, each func(LineResult) error) Answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, a := c.open(ctx, cancel, http.MethodGet, address, "", &tasks.Request{}, nil)
	if resp == nil {
		return a
	}
	defer resp.Body.Close()
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, whole, err := readLine(lines, c.maxResult+64<<10)
		ended := errors.Is(err, io.EOF)
		if err != nil && !ended {
			return Answer{Outcome: tasks.CutOff, Message: "a file of results broke off"}
		}
		if r, ok := c.lineResult(line, whole, e); ok {
			if err := each(r); err != nil {
				return Answer{Outcome: tasks.CallCanceled, Message: err.Error()}
			}
		} else if ended && len(bytes.TrimSpace(line)) > 0 {
			return Answer{Outcome: tasks.CutOff, Message: "a file of results ends within a line"}
		}
		if ended {
			return Answer{Outcome: tasks.Succeeded}
		}
	}
}

// readLine reads a line; of one above most it keeps the beginning, and whole is false.
func readLine(r *bufio.Reader, most int64) (line []byte, whole bool, err error) {
	whole = true
	for {
		part, err := r.ReadSlice('\n')
		if int64(len(line)+len(part)) <= most {
			line = append(line, part...)
		} else {
			whole = false
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, whole, err
		}
	}
}

// lineID finds the name of a line that is too large to be read.
func lineID(line []byte) string {
	dec := json.NewDecoder(bytes.NewReader(line[:min(len(line), 1024)]))
	for {
		t, err := dec.Token()
		if err != nil {
			return ""
		}
		if t == "custom_id" {
			id, _ := dec.Token() // "" where there is none
			name, _ := id.(string)
			return name
		}
	}
}

// lineResult reads a line of results; false: it is none.
func (c *Caller) lineResult(line []byte, whole bool, e tasks.Path) (r LineResult, ok bool) {
	if !whole {
		return LineResult{ID: lineID(line), Answer: Answer{Outcome: tasks.TooLarge, MaybeBilled: true, Message: tooLargeMessage}}, true
	}
	var in struct {
		CustomID string `json:"custom_id"`
		Result   *struct {
			Type    string
			Message json.RawMessage
		}
		Response *struct {
			Status    int    `json:"status_code"`
			RequestID string `json:"request_id"`
			Body      json.RawMessage
		}
		Error json.RawMessage
	}
	if json.Unmarshal(line, &in) != nil || in.CustomID == "" {
		return r, false
	}
	r = LineResult{ID: in.CustomID, Answer: Answer{Outcome: tasks.Spilled, HeadersAt: c.now()}}
	var body []byte
	switch {
	case in.Result != nil:
		if r.Message = "the batch has it as " + in.Result.Type; in.Result.Type == "succeeded" {
			body, r.Status = in.Result.Message, http.StatusOK
		}
	case in.Response != nil:
		r.Status, r.RequestID = in.Response.Status, in.Response.RequestID
		if r.Message = "the batch has it with status " + strconv.Itoa(r.Status); r.Status == http.StatusOK {
			body = in.Response.Body
		}
	default:
		r.Message = "the batch has no answer to it"
	}
	if body == nil {
		r.clean(c.redact)
		return r, true
	}
	ask := Ask{Question: Question{request: tasks.Request{Endpoint: e}}}
	switch err := c.readWhole(ask, bytes.NewReader(body), &r.Answer); {
	case errors.Is(err, errTooLarge):
		r.Outcome, r.Message, r.MaybeBilled = tasks.TooLarge, tooLargeMessage, true
	case err != nil:
		r.Outcome, r.Message, r.MaybeBilled, r.Result = tasks.Spilled, "the batch brought what is no answer of the dialect", true, nil
		var said *providerError
		if !errors.As(err, &said) && !errors.Is(err, errMalformed) {
			r.Message = fmt.Sprintf("%s: %v", r.Message, err)
		}
	default:
		r.Outcome, r.Message = tasks.Succeeded, ""
	}
	r.clean(c.redact)
	return r, true
}
