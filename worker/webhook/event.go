package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/tasks"
)

// MaxResultBytes is how large a body with a result in it may be. A result that
// does not fit stays out, and the body says so.
const MaxResultBytes = 256 << 10

// payload is the body that the specification recommends.
type payload struct {
	Type      tasks.EventType `json:"type"`
	Timestamp string          `json:"timestamp"` // of the event, not of the attempt
	Data      any             `json:"data"`
}

type jobData struct {
	ID            string            `json:"id"`
	Object        string            `json:"object"`
	Status        tasks.Status      `json:"status"`
	Model         string            `json:"model"`
	Batch         string            `json:"batch,omitempty"`
	CustomID      string            `json:"custom_id,omitempty"`
	Attempts      int               `json:"attempts"`
	CreatedAt     *string           `json:"created_at"`
	FinishedAt    *string           `json:"finished_at"`
	Finish        *string           `json:"finish"`
	Usage         *tasks.Usage      `json:"usage"`
	Error         *jobError         `json:"error"`
	Metadata      map[string]string `json:"metadata"`
	Result        json.RawMessage   `json:"result,omitempty"`
	Text          string            `json:"text,omitempty"`
	ResultOmitted bool              `json:"result_omitted,omitempty"`
	Links         map[string]string `json:"links"`
}

type jobError struct {
	Code           tasks.ErrorCode `json:"code"`
	Message        string          `json:"message,omitempty"`
	UpstreamStatus int             `json:"upstream_status,omitempty"`
	MaybeBilled    bool            `json:"maybe_billed"`
}

// JobEvent returns the type and the body of the event of a final job, or
// [tasks.ErrConflict] for one that is not final. base is public_url, the beginning
// of every link.
//
// The body is thin: who the job is, how it ended, what it used, and where to get
// the rest. A provider's words, which may quote the prompt, are in it only with
// includeResult: then it has the result, its text and the error's message, unless
// that made it larger than [MaxResultBytes] or the result is no UTF-8 JSON, in which
// case "result_omitted" is true.
func JobEvent(job tasks.Job, base string, includeResult bool) (tasks.EventType, []byte, error) {
	if !job.Status.Final() {
		return "", nil, fmt.Errorf("build event of job %s: %w", job.ID, tasks.ErrConflict)
	}
	t := tasks.EventType("job." + string(job.Status))
	self := link(base, "/v1/jobs/"+job.ID)
	data := jobData{
		ID: job.ID, Object: "job", Status: job.Status, Model: job.Model, Batch: job.Batch, CustomID: job.CustomID,
		Attempts: job.Attempts, CreatedAt: optional(job.CreatedAt), FinishedAt: optional(job.FinishedAt),
		Finish: nonEmpty(string(job.Finish)), Usage: job.Usage, Metadata: job.Metadata,
		Links: map[string]string{"self": self, "events": self + "/events"},
	}
	if data.Metadata == nil {
		data.Metadata = map[string]string{}
	}
	if job.Error != nil {
		data.Error = &jobError{Code: job.Error.Code, UpstreamStatus: job.Error.UpstreamStatus, MaybeBilled: job.Error.MaybeBilled}
	}
	thin := data
	if includeResult {
		if job.Error != nil {
			full := *data.Error
			full.Message = job.Error.Message
			data.Error = &full
		}
		if len(job.Result) > 0 {
			if len(job.Result) > MaxResultBytes || !utf8.Valid(job.Result) || !json.Valid(job.Result) {
				data.ResultOmitted = true
			} else {
				data.Result, data.Text = job.Result, tasks.ResultText(job.Result)
			}
		}
		body, err := encode(t, job.FinishedAt, data)
		if err != nil || len(body) <= MaxResultBytes {
			return t, body, err
		}
		// The text repeats what the result says; it goes first.
		data.Text = ""
		if body, err = encode(t, job.FinishedAt, data); err != nil || len(body) <= MaxResultBytes {
			return t, body, err
		}
		thin.ResultOmitted = true
	}
	body, err := encode(t, job.FinishedAt, thin)
	return t, body, err
}

// BatchEvent returns the body of batch.completed: the batch's counts and where
// its results are. It returns [tasks.ErrConflict] for a batch that has not ended.
func BatchEvent(batch tasks.Batch, base string) ([]byte, error) {
	if batch.Status != tasks.BatchEnded {
		return nil, fmt.Errorf("build event of batch %s: %w", batch.ID, tasks.ErrConflict)
	}
	self := link(base, "/v1/batches/"+batch.ID)
	return encode(tasks.EventBatchCompleted, batch.EndedAt, struct {
		ID        string            `json:"id"`
		Object    string            `json:"object"`
		Status    tasks.BatchStatus `json:"status"`
		Counts    tasks.Counts      `json:"counts"`
		CreatedAt *string           `json:"created_at"`
		EndedAt   *string           `json:"ended_at"`
		Links     map[string]string `json:"links"`
	}{batch.ID, "batch", batch.Status, batch.Counts, optional(batch.CreatedAt), optional(batch.EndedAt),
		map[string]string{"self": self, "results": self + "/results"}})
}

// PoolEvent returns the type and the body of pool.paused or, for a pool in any
// other state, pool.resumed. It tells what /v1/status tells everybody, and no
// numbers of jobs, which belong to all tenants together.
func PoolEvent(pool tasks.PoolStatus, base string) (tasks.EventType, []byte, error) {
	t := tasks.EventPoolResumed
	if pool.State == tasks.PoolPaused {
		t = tasks.EventPoolPaused
	}
	body, err := encode(t, pool.Since, struct {
		ID               string            `json:"id"`
		Object           string            `json:"object"`
		State            tasks.PoolState   `json:"state"`
		Since            *string           `json:"since"`
		Reason           string            `json:"reason"`
		PausedBy         *string           `json:"paused_by"`
		ExpectedResumeAt *string           `json:"expected_resume_at"`
		Links            map[string]string `json:"links"`
	}{pool.Name, "pool", pool.State, optional(pool.Since), pool.Reason, nonEmpty(pool.PausedBy),
		optional(pool.ExpectedResumeAt), map[string]string{"status": link(base, "/v1/status")}})
	return t, body, err
}

// EndpointDisabledEvent returns the body of endpoint.disabled, for the tenant's
// other endpoints: which one sends no more, since when, and the outcome that
// decided it. The endpoint's URL, which may hold a key, is not in it.
func EndpointDisabledEvent(endpoint string, at time.Time, last Outcome, base string) ([]byte, error) {
	return encodeEndpoint(tasks.EventEndpointDisabled, endpoint, at, last, base)
}

// TestEvent returns the body that an endpoint's owner asks for to see one
// arrive. Its type, endpoint.test, is none that a receiver acts on.
func TestEvent(endpoint string, at time.Time, base string) ([]byte, error) {
	return encodeEndpoint(tasks.EventEndpointTest, endpoint, at, "", base)
}

func encodeEndpoint(t tasks.EventType, endpoint string, at time.Time, last Outcome, base string) ([]byte, error) {
	return encode(t, at, struct {
		ID     string            `json:"id"`
		Object string            `json:"object"`
		Reason Outcome           `json:"reason,omitempty"`
		Links  map[string]string `json:"links"`
	}{endpoint, "webhook_endpoint", last, map[string]string{"self": link(base, "/v1/webhook-endpoints/"+endpoint)}})
}

// OpenAIEvent returns the body of an event as receivers built for OpenAI's
// webhooks expect it: {"id","object":"event","created_at","type","data":{"id"}}.
// id is unique to the event, as in "evt_…"; object is the id of the response or
// batch. It returns an error for a type that OpenAI has no counterpart of. A job
// that expired is a response that failed: no text of it exists.
//
// Source: developers.openai.com/api/reference, webhook events.
func OpenAIEvent(id string, t tasks.EventType, at time.Time, object string) ([]byte, error) {
	var name string
	switch t {
	case tasks.EventJobSucceeded:
		name = "response.completed"
	case tasks.EventJobFailed, tasks.EventJobExpired:
		name = "response.failed"
	case tasks.EventJobCanceled:
		name = "response.cancelled"
	case tasks.EventBatchCompleted:
		name = "batch.completed"
	default:
		return nil, fmt.Errorf("build event: OpenAI has none like %q", t)
	}
	type data struct {
		ID string `json:"id"`
	}
	return encodeJSON(struct {
		ID        string `json:"id"`
		Object    string `json:"object"`
		CreatedAt int64  `json:"created_at"`
		Type      string `json:"type"`
		Data      data   `json:"data"`
	}{id, "event", at.Unix(), name, data{object}})
}

func encode(t tasks.EventType, at time.Time, data any) ([]byte, error) {
	return encodeJSON(payload{t, stamp(at), data})
}

// encodeJSON returns compact JSON. What is no UTF-8 in v is replaced: two
// different broken bodies would verify as the same one at some receivers.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("build event: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func link(base, path string) string { return strings.TrimSuffix(base, "/") + path }

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// optional is null for a time that is not set.
func optional(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := stamp(t)
	return &s
}

func nonEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
