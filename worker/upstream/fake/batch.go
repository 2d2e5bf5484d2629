package fake

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// The names by which a fault's Model finds the calls about batches.
const (
	batchCreate  = "batches.create"
	batchRead    = "batches.read"
	batchList    = "batches.list"
	batchResults = "batches.results"
	batchFile    = "batches.file"
)

// batch is requests that are answered within a day, in either dialect. How far it has
// come is reckoned when somebody looks: nothing runs meanwhile.
type batch struct {
	id, owner string
	dialect   Dialect
	at, ends  time.Time
	canceled  time.Time // zero: it is not
	deleted   bool
	lines     []*batchLine

	// OpenAI's.
	endpoint, input string
	metadata        json.RawMessage
	faults          []byte // why it has failed as a whole, as JSON; nil: it has not
}

// batchLine is one request of a batch.
type batchLine struct {
	id    string
	x     *exchange
	flaw  string
	due   time.Time // when it is answered; zero: never
	state string    // "" until it is settled, then succeeded, errored, canceled or expired
}

// uploaded is a file of OpenAI's.
type uploaded struct {
	id, owner, name, purpose string
	data                     []byte
	at                       time.Time
}

var customID = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// routeBatches adds the paths of batches.
func (f *Provider) routeBatches() {
	for path, serve := range map[string]func(x *exchange, w http.ResponseWriter, r *http.Request){
		"POST /v1/messages/batches":             f.createMessages,
		"GET /v1/messages/batches":              f.listBatches,
		"GET /v1/messages/batches/{id}":         f.serveBatch,
		"POST /v1/messages/batches/{id}/cancel": f.cancelBatch,
		"DELETE /v1/messages/batches/{id}":      f.deleteBatch,
		"GET /v1/messages/batches/{id}/results": f.serveResults,
		"POST /v1/batches":                      f.createBatch,
		"GET /v1/batches":                       f.listBatches,
		"GET /v1/batches/{id}":                  f.serveBatch,
		"POST /v1/batches/{id}/cancel":          f.cancelBatch,
		"POST /v1/files":                        f.upload,
		"GET /v1/files/{id}/content":            f.serveContent,
		"DELETE /v1/files/{id}":                 f.deleteFile,
	} {
		dialect := OpenAI
		if bytes.Contains([]byte(path), []byte("/messages/")) {
			dialect = Anthropic
		}
		f.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if x := f.exchange(dialect); x.authorize(w, r) {
				serve(x, w, r)
			}
		})
	}
}

// struck finds the fault that strikes a call about batches, and reports whether it has
// refused the call.
func (x *exchange) struck(w http.ResponseWriter, what string) bool {
	f := x.f
	f.mu.Lock()
	x.fault = f.faults.strike(what, x.call.At, f.dice)
	f.mu.Unlock()
	if x.fault == nil {
		return false
	}
	if e, ok := refusals[x.fault.Kind]; ok {
		x.refuse(w, e, "", x.fault.RetryAfter)
		return true
	}
	return false
}

// owner is whose the batches of a call are.
func (x *exchange) owner() string { return string(x.call.Dialect) + "/" + x.call.Key }

// newBatch takes in a batch, or says why there is no room for it.
func (x *exchange) newBatch(b *batch) (full bool) {
	f := x.f
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.cfg.Clock.Now()
	f.settleBatches(now)
	if most := f.cfg.BatchQueue; most > 0 {
		queued := len(b.lines)
		for _, other := range f.batches {
			if other.owner == x.owner() && !other.over() {
				queued += len(other.lines)
			}
		}
		if queued > most {
			return true
		}
	}
	layout := "batch_%024x"
	if b.dialect == Anthropic {
		layout = "msgbatch_01F%021d"
	}
	b.id, b.owner, b.at, b.ends = fmt.Sprintf(layout, f.serial.Add(1)), x.owner(), now, now.Add(f.cfg.BatchWindow)
	delay := time.Duration(float64(f.cfg.BatchDelay) * (0.5 + f.dice.Float64()))
	stuck := f.dice.Float64() < f.cfg.BatchStuck
	for i, l := range b.lines {
		if stuck && i%2 == 1 {
			continue
		}
		l.due = now.Add(time.Duration(float64(delay) * (0.1 + 0.9*f.dice.Float64())))
	}
	f.batches = append(f.batches, b)
	return false
}

// over reports whether a batch has ended.
func (b *batch) over() bool {
	return b.faults != nil || !slices.ContainsFunc(b.lines, func(l *batchLine) bool { return l.state == "" })
}

// settleBatches brings every batch to where it stands now. Its caller holds the lock.
func (f *Provider) settleBatches(now time.Time) {
	for _, b := range f.batches {
		if b.faults == nil {
			b.settle(f, now)
		}
	}
}

func (b *batch) settle(f *Provider, now time.Time) {
	until := b.ends
	if !b.canceled.IsZero() && b.canceled.Before(until) {
		until = b.canceled
	}
	for _, l := range b.lines {
		switch {
		case l.state != "":
		case !l.due.IsZero() && !l.due.After(until) && !l.due.After(now):
			l.state = "succeeded"
			if l.flaw != "" {
				l.state = "errored"
				continue
			}
			l.answer(f, b)
		case !b.canceled.IsZero() && !now.Before(b.canceled):
			l.state = "canceled"
		case !now.Before(b.ends):
			l.state = "expired"
		}
	}
}

// answer charges a line, at no limit of its key's.
func (l *batchLine) answer(f *Provider, b *batch) {
	c := &l.x.call
	p := f.cfg.prepare(&l.x.ask)
	f.stats.arrive()
	f.stats.see(c.Prompt, f.cfg.MaxPrompts)
	c.Batch, c.At, c.Status, c.Accepted, c.Completed = b.id, l.due, http.StatusOK, true, true
	c.InputTokens, c.OutputTokens = int64(l.x.ask.tokens), int64(len(p.tokens)*l.x.ask.choices)
	f.stats.accept(c, l.due)
	f.stats.leave(c)
	if f.cfg.OnCall != nil {
		f.cfg.OnCall(*c)
	}
}

// line reads one request of a batch.
func (x *exchange) line(id, path string, body []byte, h http.Header) *batchLine {
	l := &batchLine{id: id, x: x.f.exchange(x.call.Dialect)}
	l.x.call.Key = x.call.Key
	l.x.ask.path = path
	h = h.Clone()
	h.Set("Content-Type", "application/json")
	switch l.flaw = l.x.ask.read(x.call.Dialect, h, body); {
	case l.flaw != "":
	case l.x.ask.stream:
		l.flaw = "stream: not allowed in a batch"
	case !x.f.cfg.hasModel(l.x.ask.model):
		l.flaw = "model: " + l.x.ask.model
	}
	l.x.call.Prompt = l.x.ask.digest()
	if l.x.ask.directive("fault") != "" && l.flaw == "" {
		l.flaw = "the request could not be answered"
	}
	return l
}

// stored ends the answer to a create as the fault has it: "reset" is one that is lost.
func (x *exchange) stored(w http.ResponseWriter, b *batch) {
	if x.kind() == "reset" || x.kind() == "cut" {
		reset(w)
		return
	}
	x.writeBatch(w, b)
}

func (f *Provider) createMessages(x *exchange, w http.ResponseWriter, r *http.Request) {
	if x.struck(w, batchCreate) {
		return
	}
	var in struct {
		Requests []struct {
			CustomID string          `json:"custom_id"`
			Params   json.RawMessage `json:"params"`
		} `json:"requests"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 256<<20)).Decode(&in); err != nil || len(in.Requests) == 0 {
		x.refuse(w, refusals["400"], "requests: at least one request is required", 0)
		return
	}
	b, seen := &batch{dialect: Anthropic}, map[string]bool{}
	for i, line := range in.Requests {
		if !customID.MatchString(line.CustomID) || seen[line.CustomID] {
			x.refuse(w, refusals["400"], fmt.Sprintf("requests.%d.custom_id: not a unique name", i), 0)
			return
		}
		seen[line.CustomID] = true
		b.lines = append(b.lines, x.line(line.CustomID, "", line.Params, r.Header))
	}
	x.finishCreate(w, b)
}

func (x *exchange) finishCreate(w http.ResponseWriter, b *batch) {
	if x.newBatch(b) {
		x.refuse(w, refusals["429"], "This request would exceed the number of requests that may be queued in batches.", 0)
		return
	}
	x.stored(w, b)
}

func (f *Provider) createBatch(x *exchange, w http.ResponseWriter, r *http.Request) {
	if x.struck(w, batchCreate) {
		return
	}
	var in struct {
		File     string          `json:"input_file_id"`
		Endpoint string          `json:"endpoint"`
		Window   string          `json:"completion_window"`
		Metadata json.RawMessage `json:"metadata"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in); err != nil || in.Window != "24h" {
		x.refuse(w, refusals["400"], "completion_window: must be 24h", 0)
		return
	}
	f.mu.Lock()
	file := f.files[in.File]
	f.mu.Unlock()
	paths := map[string]string{"/v1/chat/completions": "", "/v1/responses": responses, "/v1/embeddings": embeddings}
	path, known := paths[in.Endpoint]
	if file == nil || file.owner != x.owner() || !known {
		x.refuse(w, refusals["400"], "input_file_id or endpoint: there is none such", 0)
		return
	}
	b := &batch{dialect: OpenAI, endpoint: in.Endpoint, input: in.File, metadata: in.Metadata}
	b.read(x, path, file.data, r.Header)
	x.finishCreate(w, b)
}

// read takes in the lines of a file. One that is no request fails the batch as a whole.
func (b *batch) read(x *exchange, path string, data []byte, h http.Header) {
	fail := func(line int, code, message string) {
		b.faults = fmt.Appendf(nil, `{"object":"list","data":[{"code":%q,"line":%d,"message":%q,"param":null}]}`, code, line, message)
	}
	seen, model := map[string]bool{}, ""
	for i, text := range bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n")) {
		var in struct {
			CustomID string          `json:"custom_id"`
			Method   string          `json:"method"`
			URL      string          `json:"url"`
			Body     json.RawMessage `json:"body"`
		}
		if json.Unmarshal(text, &in) != nil {
			fail(i+1, "invalid_json_line", "This line is not parseable as valid JSON.")
			return
		}
		if in.CustomID == "" || seen[in.CustomID] || in.Method != "POST" || in.URL != b.endpoint {
			fail(i+1, "invalid_request", "The line's custom_id, method or url is not right.")
			return
		}
		l := x.line(in.CustomID, path, in.Body, h)
		if model = cmp.Or(model, l.x.ask.model); l.x.ask.model != model {
			fail(i+1, "mismatched_model", "All lines have to ask the same model.")
			return
		}
		seen[in.CustomID] = true
		b.lines = append(b.lines, l)
	}
}

// find returns the batch of a call's path; else the call is refused. A fresh one is not
// seen for a while, as at the providers.
func (x *exchange) find(w http.ResponseWriter, r *http.Request) *batch {
	f, now := x.f, x.f.cfg.Clock.Now()
	f.mu.Lock()
	f.settleBatches(now)
	i := slices.IndexFunc(f.batches, func(b *batch) bool {
		return b.id == r.PathValue("id") && b.owner == x.owner() && !b.deleted && !now.Before(b.at.Add(f.cfg.BatchHidden))
	})
	var b *batch
	if i >= 0 {
		b = f.batches[i]
	}
	f.mu.Unlock()
	if b == nil {
		x.refuse(w, refusals["404"], "There is no such batch.", 0)
	}
	return b
}

func (f *Provider) serveBatch(x *exchange, w http.ResponseWriter, r *http.Request) {
	if x.struck(w, batchRead) {
		return
	}
	if b := x.find(w, r); b != nil {
		x.writeBatch(w, b)
	}
}

func (f *Provider) cancelBatch(x *exchange, w http.ResponseWriter, r *http.Request) {
	if x.struck(w, batchRead) {
		return
	}
	b := x.find(w, r)
	if b == nil {
		return
	}
	f.mu.Lock()
	if b.canceled.IsZero() && !b.over() {
		b.canceled = f.cfg.Clock.Now()
		b.settle(f, b.canceled)
	}
	f.mu.Unlock()
	x.writeBatch(w, b)
}

func (f *Provider) deleteBatch(x *exchange, w http.ResponseWriter, r *http.Request) {
	b := x.find(w, r)
	if b == nil {
		return
	}
	f.mu.Lock()
	over := b.over()
	b.deleted = over
	f.mu.Unlock()
	if !over {
		x.refuse(w, refusals["400"], "A batch can be deleted once it has ended.", 0)
		return
	}
	writeJSON(w, map[string]string{"id": b.id, "type": "message_batch_deleted"})
}

// listBatches lists a key's batches, the newest first.
func (f *Provider) listBatches(x *exchange, w http.ResponseWriter, r *http.Request) {
	if x.struck(w, batchList) {
		return
	}
	after := cmp.Or(r.URL.Query().Get("after_id"), r.URL.Query().Get("after"))
	limit, err := strconv.Atoi(cmp.Or(r.URL.Query().Get("limit"), "20"))
	if err != nil || limit < 1 {
		x.refuse(w, refusals["400"], "limit: out of range", 0)
		return
	}
	now := f.cfg.Clock.Now()
	f.mu.Lock()
	f.settleBatches(now)
	page, more, began := []json.RawMessage{}, false, after == ""
	first, last := "", ""
	for _, b := range slices.Backward(f.batches) {
		switch {
		case b.owner != x.owner() || b.deleted || now.Before(b.at.Add(f.cfg.BatchHidden)):
		case !began:
			began = b.id == after
		case len(page) == limit:
			more = true
		default:
			page, first, last = append(page, b.show(f)), cmp.Or(first, b.id), b.id
		}
	}
	f.mu.Unlock()
	out := map[string]any{"data": page, "has_more": more, "first_id": nil, "last_id": nil}
	if first != "" {
		out["first_id"], out["last_id"] = first, last
	}
	writeJSON(w, out)
}

func (x *exchange) writeBatch(w http.ResponseWriter, b *batch) {
	x.describe(w.Header())
	x.f.mu.Lock()
	body := b.show(x.f)
	x.f.mu.Unlock()
	writeJSON(w, body)
}

// show is a batch as its dialect has it. Its caller holds the lock.
func (b *batch) show(f *Provider) json.RawMessage {
	now := f.cfg.Clock.Now()
	n := map[string]int{}
	for _, l := range b.lines {
		n[l.state]++
	}
	over := b.over()
	if b.dialect == OpenAI {
		return b.showOpenAI(n, over)
	}
	status, counts := "in_progress", map[string]int{"processing": len(b.lines), "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
	out := map[string]any{
		"id": b.id, "type": "message_batch", "created_at": b.at.UTC().Format(time.RFC3339Nano), "expires_at": b.ends.UTC().Format(time.RFC3339Nano),
		"ended_at": nil, "cancel_initiated_at": nil, "archived_at": nil, "results_url": nil,
	}
	if over {
		status, counts = "ended", map[string]int{"processing": 0, "succeeded": n["succeeded"], "errored": n["errored"], "canceled": n["canceled"], "expired": n["expired"]}
		out["ended_at"], out["results_url"] = now.UTC().Format(time.RFC3339Nano), "https://elsewhere.invalid/v1/messages/batches/"+b.id+"/results"
	}
	out["processing_status"], out["request_counts"] = status, counts
	body, _ := json.Marshal(out) // plain values
	return body
}

func (b *batch) showOpenAI(n map[string]int, over bool) json.RawMessage {
	status := "in_progress"
	switch {
	case b.faults != nil:
		status = "failed"
	case over && !b.canceled.IsZero():
		status = "cancelled"
	case over && n["expired"] > 0:
		status = "expired"
	case over:
		status = "completed"
	}
	out := map[string]any{
		"id": b.id, "object": "batch", "endpoint": b.endpoint, "input_file_id": b.input, "completion_window": "24h", "status": status,
		"created_at": b.at.Unix(), "expires_at": b.ends.Unix(), "metadata": b.metadata, "errors": json.RawMessage("null"), "output_file_id": nil, "error_file_id": nil,
		"request_counts": map[string]int{"total": len(b.lines), "completed": n["succeeded"], "failed": n["errored"]},
	}
	if b.faults != nil {
		out["errors"] = json.RawMessage(b.faults)
	} else if over {
		if n["succeeded"] > 0 {
			out["output_file_id"] = "file-output-" + b.id
		}
		if n["succeeded"] < len(b.lines) {
			out["error_file_id"] = "file-error-" + b.id
		}
	}
	body, _ := json.Marshal(out) // plain values, and JSON that was read
	return body
}

func (f *Provider) serveResults(x *exchange, w http.ResponseWriter, r *http.Request) {
	if x.struck(w, batchResults) {
		return
	}
	b := x.find(w, r)
	if b == nil {
		return
	}
	f.mu.Lock()
	over := b.over()
	f.mu.Unlock()
	if !over {
		x.refuse(w, refusals["404"], "The batch has no results yet.", 0)
		return
	}
	x.writeLines(w, b, func(*batchLine) bool { return true })
}

// writeLines writes the results of the lines that are asked for: the last first, since no
// order is promised.
func (x *exchange) writeLines(w http.ResponseWriter, b *batch, asked func(l *batchLine) bool) {
	w.Header().Set("Content-Type", "application/x-jsonl")
	var out []byte
	for i, l := range slices.Backward(b.lines) {
		if !asked(l) {
			continue
		}
		if x.kind() == "garbage" && i == len(b.lines)/2 {
			out = append(out, "<html>Sign in to continue</html>\n{\"custom_id\":\"somebody-elses\",\"result\":{\"type\":\"succeeded\"},\"response\":{\"status_code\":200}}\n"...)
		}
		out = append(l.show(x.f, out), '\n')
	}
	switch x.kind() {
	case "cut":
		_, _ = w.Write(out[:len(out)/2]) // it is to fail in any case
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "truncated":
		out = out[:len(out)/2]
	}
	_, _ = w.Write(out) // who has gone reads nothing
}

// show appends a line's result.
func (l *batchLine) show(f *Provider, out []byte) []byte {
	x := l.x
	p := f.cfg.prepare(&x.ask)
	quoted := func(s string) { out = appendString(out, s) }
	if x.call.Dialect == Anthropic {
		out = append(out, `{"custom_id":`...)
		quoted(l.id)
		out = append(out, `,"result":{"type":`...)
		quoted(l.state)
		switch l.state {
		case "succeeded":
			out = append(append(out, `,"message":`...), x.speaker(&p).whole()...)
		case "errored":
			out = append(append(out, `,"error":`...), refusals["400"].body(Anthropic, x.call.RequestID, l.flaw)...)
		}
		return append(out, "}}"...)
	}
	out = append(out, `{"id":`...)
	quoted("batch_req_" + x.call.RequestID)
	out = append(out, `,"custom_id":`...)
	quoted(l.id)
	switch l.state {
	case "succeeded", "errored":
		status, body := http.StatusOK, []byte(nil)
		if l.state == "succeeded" {
			body = x.speaker(&p).whole()
		} else {
			status, body = http.StatusBadRequest, refusals["400"].body(OpenAI, x.call.RequestID, l.flaw)
		}
		out = fmt.Appendf(out, `,"response":{"status_code":%d,"request_id":%q,"body":`, status, x.call.RequestID)
		return append(append(out, body...), `},"error":null}`...)
	case "canceled":
		return append(out, `,"response":null,"error":{"code":"batch_cancelled","message":"This request was not executed: its batch was cancelled."}}`...)
	}
	return append(out, `,"response":null,"error":{"code":"batch_expired","message":"This request could not be executed before the completion window expired."}}`...)
}

func (f *Provider) upload(x *exchange, w http.ResponseWriter, r *http.Request) {
	if x.struck(w, batchFile) {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 210<<20)
	part, header, err := r.FormFile("file")
	if err != nil || r.FormValue("purpose") != "batch" {
		x.refuse(w, refusals["400"], "a file with the purpose batch is needed", 0)
		return
	}
	defer part.Close()
	var data bytes.Buffer
	if _, err := data.ReadFrom(part); err != nil {
		x.refuse(w, refusals["400"], "the file cannot be read", 0)
		return
	}
	file := &uploaded{id: fmt.Sprintf("file-%024x", f.serial.Add(1)), owner: x.owner(), name: header.Filename, purpose: "batch", data: data.Bytes(), at: f.cfg.Clock.Now()}
	f.mu.Lock()
	f.files[file.id] = file
	f.mu.Unlock()
	writeJSON(w, map[string]any{"id": file.id, "object": "file", "bytes": len(file.data), "created_at": file.at.Unix(), "filename": file.name, "purpose": file.purpose})
}

// batchOf is the batch whose output file, or whose error file, has that id; nil: none.
func (x *exchange) batchOf(kind, id string) *batch {
	name, ok := bytes.CutPrefix([]byte(id), []byte("file-"+kind+"-"))
	x.f.mu.Lock()
	defer x.f.mu.Unlock()
	for _, b := range x.f.batches {
		if ok && b.id == string(name) && b.owner == x.owner() {
			return b
		}
	}
	return nil
}

func (f *Provider) serveContent(x *exchange, w http.ResponseWriter, r *http.Request) {
	if x.struck(w, batchResults) {
		return
	}
	id := r.PathValue("id")
	if b := x.batchOf("output", id); b != nil {
		x.writeLines(w, b, func(l *batchLine) bool { return l.state == "succeeded" })
		return
	}
	if b := x.batchOf("error", id); b != nil {
		x.writeLines(w, b, func(l *batchLine) bool { return l.state != "succeeded" })
		return
	}
	f.mu.Lock()
	file := f.files[id]
	f.mu.Unlock()
	if file == nil || file.owner != x.owner() {
		x.refuse(w, refusals["404"], "There is no such file.", 0)
		return
	}
	_, _ = w.Write(file.data) // as above
}

func (f *Provider) deleteFile(x *exchange, w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	file := f.files[r.PathValue("id")]
	if file != nil && file.owner == x.owner() {
		delete(f.files, file.id)
	}
	f.mu.Unlock()
	writeJSON(w, map[string]any{"id": r.PathValue("id"), "object": "file", "deleted": true})
}

// Batches is how many batches were created, and files are still there.
func (f *Provider) Batches() (batches, files int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.batches), len(f.files)
}
