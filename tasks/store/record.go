package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/seal"
)

// envelope is what never changes about a job, as it is stored: short names,
// since every queued job pays for them in memory.
type envelope struct {
	Model     string          `json:"m"`
	Priority  tasks.Priority  `json:"p,omitempty"` // "" is normal
	CustomID  string          `json:"c,omitempty"`
	Line      int             `json:"l,omitempty"`
	NotBefore int64           `json:"nb,omitempty"`
	Kind      tasks.Kind      `json:"k,omitempty"` // "" is text, where this release alone reads it
	MaxTokens int             `json:"x,omitempty"`
	Output    int             `json:"y,omitempty"`
	Open      bool            `json:"u,omitempty"`
	Input     int             `json:"i,omitempty"`
	Version   string          `json:"v,omitempty"`
	Beta      string          `json:"b,omitempty"`
	Metadata  json.RawMessage `json:"md,omitempty"` // pairs; sealed, a string: see hide
	Pairs     []string        `json:"mp,omitempty"` // what stands for each pair that is sealed
	Webhook   string          `json:"w,omitempty"`
	Fallback  []string        `json:"f,omitempty"`
	Bytes     int64           `json:"z,omitempty"`
	Result    int64           `json:"r,omitempty"` // how large it may be in memory; room.lua reads it
	Endpoint  tasks.Path      `json:"ep,omitempty"`
	Stream    bool            `json:"s,omitempty"`
	Behind    bool            `json:"bg,omitempty"`
	Patient   bool            `json:"pt,omitempty"`
	AtMost    tasks.Money     `json:"rm,omitempty"` // account.lua reads it
	Trace     string          `json:"tr,omitempty"`

	OpenAI tasks.OpenAIFields `json:"oa,omitzero"`
}

// outcome is what a finished job, or one that is tried again, has to show.
type outcome struct {
	Error    *tasks.JobError `json:"error,omitempty"`
	Usage    *usage          `json:"usage,omitempty"`
	Provider string          `json:"provider,omitempty"`
	Finish   tasks.Finish    `json:"finish,omitempty"`

	// In place of these, of a whole answer: its tokens, in the order of usage, and the provider.
	Whole []int64 `json:"ok,omitempty"`
	By    string  `json:"by,omitempty"`
}

// brief is an outcome in fewer bytes, where it is that of a whole answer.
func (o outcome) brief() outcome {
	u := o.Usage
	if o.Error != nil || u == nil || o.Finish != tasks.FinishComplete {
		return o
	}
	tokens := []int64{u.InputTokens, u.OutputTokens, u.CacheReadInputTokens, u.CacheCreationInputTokens}
	for len(tokens) > 2 && tokens[len(tokens)-1] == 0 {
		tokens = tokens[:len(tokens)-1]
	}
	return outcome{Whole: tokens, By: o.Provider}
}

// full is what brief was made of.
func (o outcome) full() outcome {
	if len(o.Whole) == 0 {
		return o
	}
	var n [4]int64
	copy(n[:], o.Whole)
	return outcome{Usage: &usage{n[0], n[1], n[2], n[3]}, Provider: o.By, Finish: tasks.FinishComplete}
}

// usage is a [tasks.Usage] without its zeros.
type usage struct {
	InputTokens              int64 `json:"input_tokens,omitempty"`
	OutputTokens             int64 `json:"output_tokens,omitempty"`
	CacheReadInputTokens     int64 `json:"cache_read_input_tokens,omitempty"`
	CacheCreationInputTokens int64 `json:"cache_creation_input_tokens,omitempty"`
}

// details are what a worker adds to a line of the log; the rest the scripts write.
type details struct {
	Outcome     tasks.Outcome `json:"outcome"`
	Status      int           `json:"status,omitempty"`
	RequestID   string        `json:"request_id,omitempty"`
	Model       string        `json:"model,omitempty"`
	Account     string        `json:"account,omitempty"`
	Batch       string        `json:"batch,omitempty"`
	Usage       *usage        `json:"usage,omitempty"`
	Cost        []tasks.Money `json:"cost,omitempty"` // what it cost, and what it may have cost besides
	MaybeBilled bool          `json:"maybe_billed,omitempty"`

	Brought *string `json:"ok,omitempty"` // see brought

	// What the scripts add (record.lua).
	Waited string `json:"w,omitempty"` // see waited
	Delay  int64  `json:"d,omitempty"` // ms that the job was put off after it
	Lost   int64  `json:"x,omitempty"` // when it was found that its worker had died
}

// waitLetters are the reasons for which a gate or a pool makes jobs wait, as they are kept.
var waitLetters = map[tasks.WaitReason]string{
	"": "n", tasks.WaitRequests: "q", tasks.WaitInputTokens: "i", tasks.WaitOutputTokens: "o", tasks.WaitConcurrency: "c",
	tasks.WaitPaused: "p", tasks.WaitNoWorker: "w", tasks.WaitUnknown: "u",
}

func waitLetter(reason tasks.WaitReason) string {
	return cmp.Or(waitLetters[reason], waitLetters[tasks.WaitUnknown])
}

// waitReason is what a letter stands for; one of a release after this is unknown.
func waitReason(letter string) tasks.WaitReason {
	for reason, l := range waitLetters {
		if l == letter {
			return reason
		}
	}
	return tasks.WaitUnknown
}

// waiting is what a start's name has of the wait before it: ms since it was handed
// out, -1 when that is not known, ms since the gate let it go, and the letter of what it
// waited for there.
func waiting(w tasks.Waited) string {
	handed := int64(-1)
	if w.Handed >= 0 {
		handed = w.Handed.Milliseconds()
	}
	return fmt.Sprintf("%d %d %s", handed, max(0, w.Granted.Milliseconds()), waitLetter(w.For))
}

// waited reads that; ok is false where there is none.
func waited(s string) (w tasks.Waited, ok bool) {
	f := strings.Fields(s)
	if len(f) < 3 { // behind it the call may stand, see asks
		return w, false
	}
	w = tasks.Waited{Handed: time.Duration(atoi(f[0])) * time.Millisecond, Granted: time.Duration(atoi(f[1])) * time.Millisecond, For: waitReason(f[2])}
	return w, true
}

// brought are the details of the call that has brought its job's whole answer, where the
// job's outcome says the rest: the provider's id of it, and its cost.
type brought struct {
	ID   string        `json:"ok"`
	Cost []tasks.Money `json:"cost,omitempty"`
}

// brief are the details in fewer bytes; false: all of them are needed.
func (d *details) brief(o outcome) (brought, bool) {
	if d.Outcome != tasks.Succeeded || d.Status != http.StatusOK || d.Model != "" || d.Batch != "" || d.MaybeBilled ||
		len(o.Whole) == 0 || d.Account != o.By || d.Usage == nil || *d.Usage != *o.full().Usage {
		return brought{}, false
	}
	return brought{d.RequestID, d.Cost}, true
}

// fill puts what brief has left out in its place.
func (d *details) fill(o outcome) {
	if d.Brought == nil {
		return
	}
	o = o.full()
	d.Outcome, d.Status, d.RequestID, d.Account, d.Usage = tasks.Succeeded, http.StatusOK, *d.Brought, o.Provider, o.Usage
}

// cost is what the details say of it; nil: nothing.
func (d *details) cost() *tasks.Cost {
	if len(d.Cost) != 2 {
		return nil
	}
	return &tasks.Cost{Amount: d.Cost[0], Maybe: d.Cost[1]}
}

// A token is taken for so many bytes of a result at most; where only the model limits an
// answer, for so many tokens.
const (
	tokenBytes = 8
	openTokens = 4096
	// In a pool of which few results have come, one is taken for so many bytes at least.
	// The larger a Redis is than smallRedis, the less.
	unseenResult = 32 << 10
	smallRedis   = 128 << 20
)

// mostResult is how much memory the result of a request may take, as far as can be
// told before.
func (s *Store) mostResult(r *tasks.Request) int64 {
	tokens := cmp.Or(r.Cap(), openTokens)
	if r.Endpoint == tasks.Embeddings {
		tokens = openTokens // its result is numbers
	}
	return weighed(min(tokenBytes*tokens, s.resultBytes))
}

// weighed is how much memory a result of so many bytes takes, with all that ends a job.
func weighed(bytes int64) int64 { return bytes + bytes/4 + 1024 }

// caller is what the envelope of a sealed job has of its caller's, as one value. A release
// that knows nothing of sealing finds a string where it expects pairs, and leaves the job as it is.
type caller struct {
	Metadata map[string]string `json:"md,omitempty"`
	CustomID string            `json:"c,omitempty"`
}

// hide puts into an envelope what is its caller's, sealed where the store seals.
func (s *Store) hide(ctx context.Context, e *envelope, j *tasks.Job) (err error) {
	if !s.vault.seals {
		e.CustomID, e.Webhook = j.CustomID, j.WebhookURL
		if len(j.Metadata) > 0 {
			e.Metadata = json.RawMessage(encode(j.Metadata))
		}
		return nil
	}
	text, err := s.vault.sealText(ctx, j.Tenant, encode(caller{j.Metadata, j.CustomID}), ofCaller, j.ID)
	if err != nil {
		return err
	}
	e.Metadata = json.RawMessage(encode(text))
	for name, value := range j.Metadata {
		pair, err := s.vault.pair(ctx, j.Tenant, name, value)
		if err != nil {
			return err
		}
		e.Pairs = append(e.Pairs, pair)
	}
	slices.Sort(e.Pairs)
	e.Webhook, err = s.hideURL(ctx, j)
	return err
}

// show reads what hide has put there.
func (s *Store) show(ctx context.Context, e *envelope, j *tasks.Job) (err error) {
	j.CustomID, j.WebhookURL = e.CustomID, e.Webhook
	if j.WebhookURL, err = s.showURL(ctx, j.Tenant, j.ID, e.Webhook); err != nil || len(e.Metadata) == 0 {
		return err
	}
	if e.Metadata[0] != '"' {
		return json.Unmarshal(e.Metadata, &j.Metadata)
	}
	if s.vault.ring == nil {
		return &tasks.SealError{Err: errNoKeys}
	}
	var text string
	if err := json.Unmarshal(e.Metadata, &text); err != nil {
		return err
	}
	if text, err = s.vault.openText(ctx, j.Tenant, text, ofCaller, j.ID); err != nil {
		return err
	}
	var c caller
	err = json.Unmarshal([]byte(text), &c)
	j.Metadata, j.CustomID = c.Metadata, c.CustomID
	return err
}

// sealedURL begins a job's own URL that is sealed. What stands for its host follows where a
// URL has it, since scripts keep the deliveries to a host in a lane of their own.
const sealedURL = "sealed://"

func (s *Store) hideURL(ctx context.Context, j *tasks.Job) (string, error) {
	if j.WebhookURL == "" {
		return "", nil
	}
	_, host, _ := strings.Cut(j.WebhookURL, "://")
	if at := strings.IndexAny(host, "/?#"); at >= 0 {
		host = host[:at]
	}
	host, err := s.vault.name(ctx, j.Tenant, ofHost, host)
	if err != nil {
		return "", err
	}
	text, err := s.vault.sealText(ctx, j.Tenant, j.WebhookURL, ofURL, j.ID)
	return sealedURL + host + "/" + text, err
}

func (s *Store) showURL(ctx context.Context, tenant, job, value string) (string, error) {
	rest, is := strings.CutPrefix(value, sealedURL)
	if !is {
		return value, nil
	}
	_, text, _ := strings.Cut(rest, "/")
	return s.vault.openText(ctx, tenant, text, ofURL, job)
}

func (s *Store) pack(ctx context.Context, j *tasks.Job) (string, error) {
	e := envelope{
		Model: j.Model, Priority: j.Priority, Line: j.Line,
		NotBefore: milli(j.NotBefore), Endpoint: j.Request.Endpoint,
		Kind: j.Request.Kind, MaxTokens: j.Request.MaxTokens, Output: j.Request.OutputTokens, Open: j.Request.Open, Input: j.Request.InputTokens,
		Version: j.Request.Version, Beta: j.Request.Beta,
		Fallback: j.Fallback, Bytes: j.Bytes, Stream: j.Request.Stream, Behind: j.Request.Background, Patient: j.Request.Patient,
		Result: s.mostResult(&j.Request), AtMost: j.AtMost, OpenAI: j.Request.OpenAI, Trace: j.Trace,
	}
	if e.Priority == tasks.Normal {
		e.Priority = ""
	}
	if e.Kind == tasks.Text && s.bodies != nil {
		e.Kind = ""
	}
	if err := s.hide(ctx, &e, j); err != nil {
		return "", fmt.Errorf("seal job %s: %w", j.ID, err)
	}
	return encode(e), nil
}

// laneShift moves a job in its tenant's backlog into its lane, in milliseconds.
func laneShift(p tasks.Priority) int64 {
	switch p {
	case tasks.High:
		return -apart
	case tasks.Low:
		return apart
	}
	return 0
}

// firstStatus is the status that the scripts give a job at its creation, by Redis's
// clock alone, and when it falls due.
func firstStatus(j *tasks.Job) (status tasks.Status, due time.Time) {
	if j.NotBefore.After(j.CreatedAt) {
		return tasks.StatusScheduled, j.NotBefore
	}
	return tasks.StatusQueued, time.Time{}
}

// shown are the fields of a record that a caller may be shown, but for its
// result, r, which is as large as it likes, and its prompt, b, which [Store.Prompt] alone shows.
var shown = []string{
	"e", "t", "p", "c", "s", "f", "v", "n", "ct", "dl", "due", "st", "fin", "exp", "fi", "nb", "fo", "q", "o", "log", "cur", "w", "by", "us", "bu",
}

// withResult are these and the result, or where it lies.
var withResult = append([]string{"r", "rr"}, shown...)

// sealedFields are those of a record that are sealed whole, with what they are.
var sealedFields = [...]struct{ field, what string }{{"b", ofPrompt}, {"r", ofResult}, {"o", ofOutcome}}

// unseal opens what a record, or some fields of it, has sealed, in its place.
func (s *Store) unseal(ctx context.Context, id string, h map[string]string) error {
	for _, f := range sealedFields {
		if !seal.Sealed(h[f.field]) {
			continue
		}
		plain, err := s.vault.open(ctx, h["t"], []byte(h[f.field]), f.what, id)
		if err != nil {
			return fmt.Errorf("read job %s: %w", id, err)
		}
		h[f.field] = string(plain)
	}
	return nil
}

// unpack reads a record as HGETALL gives it, or some fields of it.
func (s *Store) unpack(ctx context.Context, id string, h map[string]string) (tasks.Job, error) {
	if err := s.unseal(ctx, id, h); err != nil {
		return tasks.Job{}, err
	}
	var e envelope
	if err := json.Unmarshal([]byte(h["e"]), &e); err != nil {
		return tasks.Job{}, fmt.Errorf("read job %s: %w", id, err)
	}
	j := tasks.Job{
		ID: id, Tenant: h["t"], User: h["us"], Model: e.Model, Pool: h["p"], Priority: e.Priority,
		Batch: h["c"], Line: e.Line,
		Status: tasks.Status(h["s"]), Fence: atoi(h["f"]), Version: atoi(h["v"]), Attempts: int(atoi(h["n"])),
		CreatedAt: fromMilli(atoi(h["ct"])), NotBefore: fromMilli(e.NotBefore), Deadline: fromMilli(atoi(h["dl"])),
		DueAt: fromMilli(atoi(h["due"])), StartedAt: fromMilli(atoi(h["st"])),
		FinishedAt: fromMilli(atoi(h["fin"])), ExpiresAt: fromMilli(atoi(h["exp"])),
		Request: tasks.Request{
			Kind: cmp.Or(e.Kind, tasks.Text), Endpoint: e.Endpoint, Body: []byte(h["b"]), MaxTokens: e.MaxTokens, OutputTokens: e.Output, Open: e.Open, InputTokens: e.Input,
			Version: e.Version, Beta: e.Beta, Stream: e.Stream, Background: e.Behind, Patient: e.Patient, OpenAI: e.OpenAI,
		},
		Bytes: e.Bytes, AtMost: e.AtMost, Trace: e.Trace,
		Fallback: e.Fallback, Passed: int(atoi(h["fi"])), Spent: int(atoi(h["nb"])), Followed: h["fo"], Bundle: h["bu"], Losses: int(atoi(h["lw"])),
	}
	if err := s.show(ctx, &e, &j); err != nil {
		return tasks.Job{}, fmt.Errorf("read job %s: %w", id, err)
	}
	tokens, _, _ := strings.Cut(h["q"], " ")
	j.Reserved = atoi(tokens)
	if j.Priority == "" {
		j.Priority = tasks.Normal
	}
	if r := h["r"]; r != "" {
		result, err := whole([]byte(r))
		if err != nil {
			return tasks.Job{}, fmt.Errorf("read the result of job %s: %w", id, err)
		}
		j.Result = result
	}
	var out outcome
	if o := h["o"]; o != "" {
		if err := json.Unmarshal([]byte(o), &out); err != nil {
			return tasks.Job{}, fmt.Errorf("read job %s: %w", id, err)
		}
		out = out.full()
		if j.Status == tasks.StatusRunning {
			out.Error = nil // of the attempt before
		}
		j.Error, j.Usage, j.Provider, j.Finish = out.Error, (*tasks.Usage)(out.Usage), out.Provider, out.Finish
	}
	var err error
	if j.Log, err = attempts(h, out); err != nil {
		return tasks.Job{}, fmt.Errorf("read job %s: %w", id, err)
	}
	if noted := happened(h["w"], j.CreatedAt); len(noted) > 0 {
		j.Since = noted[len(noted)-1].At
	}
	return j, nil
}

// endsWithJob is in a line of the log when the call ended, where that was the job's end.
const endsWithJob = "-"

// attempts are a job's calls, as its record has them: those that have ended, and the one
// under way. What one of them has in common with the job's outcome stands there.
func attempts(h map[string]string, o outcome) (all []tasks.Attempt, err error) {
	for line := range strings.Lines(h["log"]) {
		part := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(part) != 4 {
			return nil, errors.New("a line of its log is not whole")
		}
		var d details
		if err := json.Unmarshal([]byte(part[3]), &d); err != nil {
			return nil, err
		}
		d.fill(o)
		if part[2] == endsWithJob {
			part[2] = h["fin"]
		}
		one := tasks.Attempt{
			N: int(atoi(part[0])), StartedAt: fromMilli(atoi(part[1])), EndedAt: fromMilli(atoi(part[2])),
			Outcome: d.Outcome, Status: d.Status, RequestID: d.RequestID, Model: d.Model, MaybeBilled: d.MaybeBilled,
			Account: d.Account, Batch: d.Batch, Usage: (*tasks.Usage)(d.Usage), Cost: d.cost(),
			Delay: time.Duration(d.Delay) * time.Millisecond, LostAt: fromMilli(d.Lost),
		}
		one.Waited, one.Told = waited(d.Waited)
		all = append(all, one)
	}
	if n, started, ok := strings.Cut(h["cur"], " "); ok {
		one := tasks.Attempt{N: int(atoi(n)), StartedAt: fromMilli(atoi(started)), Outcome: tasks.Running}
		_, behind, _ := strings.Cut(h["by"], " ")
		one.Waited, one.Told = waited(behind)
		all = append(all, one)
	}
	return all, nil
}
