package webhook_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/webhook"
)

const base = "https://sluice.example.com/"

func finished(status tasks.Status) tasks.Job {
	at := time.Date(2026, 11, 22, 12, 0, 0, 250e6, time.FixedZone("CET", 3600))
	j := tasks.Job{
		ID: "job_1", Tenant: "acme", Model: "claude-sonnet-4-5", Status: status, Attempts: 2,
		CreatedAt: at.Add(-time.Minute), FinishedAt: at,
		Request:    tasks.Request{Kind: tasks.Text, Body: []byte(`"THE PROMPT"`)},
		Metadata:   map[string]string{"order": "7"},
		WebhookURL: "https://hooks.example.com/?key=THE-KEY",
	}
	if status == tasks.StatusSucceeded {
		j.Result = json.RawMessage(`{"content":[{"type":"text","text":"THE ANSWER <1>"}], "big": 12345678901234567890}`)
		j.Usage, j.Finish = &tasks.Usage{InputTokens: 3, OutputTokens: 5}, "a provider's own"
	} else {
		j.Error = &tasks.JobError{Code: tasks.UpstreamRejected, Message: "THE MESSAGE", UpstreamStatus: 400}
	}
	return j
}

func decode(t *testing.T, body []byte) (typ, timestamp string, data map[string]any) {
	t.Helper()
	if !utf8.Valid(body) {
		t.Fatalf("the body is no UTF-8: %q", body)
	}
	var p struct {
		Type      string         `json:"type"`
		Timestamp string         `json:"timestamp"`
		Data      map[string]any `json:"data"`
	}
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("read %s: %v", body, err)
	}
	return p.Type, p.Timestamp, p.Data
}

func TestThinJobEvent(t *testing.T) {
	for status, want := range map[tasks.Status]tasks.EventType{
		tasks.StatusSucceeded: tasks.EventJobSucceeded, tasks.StatusFailed: tasks.EventJobFailed,
		tasks.StatusCanceled: tasks.EventJobCanceled, tasks.StatusExpired: tasks.EventJobExpired,
	} {
		typ, body, err := webhook.JobEvent(finished(status), base, false)
		if err != nil || typ != want || !typ.Valid() {
			t.Fatalf("%s: JobEvent = %s, %v, want %s", status, typ, err, want)
		}
		name, stamp, data := decode(t, body)
		if name != string(want) || stamp != "2026-11-22T11:00:00.250Z" {
			t.Errorf("%s: type %s at %s", status, name, stamp)
		}
		if data["id"] != "job_1" || data["status"] != string(status) {
			t.Errorf("%s: data = %v", status, data)
		}
		if finish, has := data["finish"]; !has || (finish == "a provider's own") != (status == tasks.StatusSucceeded) {
			t.Errorf("%s: finish = %v", status, finish)
		}
		links := data["links"].(map[string]any)
		if links["self"] != "https://sluice.example.com/v1/jobs/job_1" {
			t.Errorf("%s: links = %v", status, links)
		}
		if strings.Contains(string(body), "THE") || strings.Contains(string(body), "acme") {
			t.Errorf("%s: a thin body tells more than it may: %s", status, body)
		}
	}
	for _, status := range []tasks.Status{tasks.StatusQueued, tasks.StatusScheduled, tasks.StatusRunning, tasks.StatusRetrying} {
		if _, _, err := webhook.JobEvent(tasks.Job{Status: status}, base, true); !errors.Is(err, tasks.ErrConflict) {
			t.Errorf("%s: JobEvent = %v, want %v", status, err, tasks.ErrConflict)
		}
	}
}

func TestJobEventWithResult(t *testing.T) {
	job := finished(tasks.StatusSucceeded)
	_, body, err := webhook.JobEvent(job, base, true)
	if err != nil {
		t.Fatal(err)
	}
	_, _, data := decode(t, body)
	if data["text"] != "THE ANSWER <1>" || !strings.Contains(string(body), "12345678901234567890") ||
		!strings.Contains(string(body), `"text":"THE ANSWER <1>"}]`) {
		t.Errorf("body = %s", body)
	}
	if strings.Contains(string(body), "PROMPT") || strings.Contains(string(body), "KEY") {
		t.Errorf("the prompt or the URL is in the body: %s", body)
	}
	_, body, _ = webhook.JobEvent(finished(tasks.StatusFailed), base, true)
	_, _, data = decode(t, body)
	if e := data["error"].(map[string]any); e["message"] != "THE MESSAGE" || e["code"] != "upstream_rejected" {
		t.Errorf("error = %v", e)
	}

	answer := func(text string) json.RawMessage {
		b, err := json.Marshal(map[string]any{"content": []any{map[string]any{"type": "text", "text": text}}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name                    string
		result                  json.RawMessage
		wantResult, wantOmitted bool
		wantText                bool
	}{
		{"small", answer("a"), true, false, true},
		{"text does not fit twice", answer(strings.Repeat("a", 200<<10)), true, false, false},
		{"too large", answer(strings.Repeat("a", 256<<10)), false, true, false},
		{"just too large with the rest", answer(strings.Repeat("a", 256<<10-60)), false, true, false},
		{"no JSON", json.RawMessage(`{"a":`), false, true, false},
		{"no UTF-8", json.RawMessage("\"\xff\""), false, true, false},
		{"none", nil, false, false, false},
	} {
		job.Result = c.result
		_, body, err := webhook.JobEvent(job, base, true)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		_, _, data := decode(t, body)
		_, hasResult := data["result"]
		_, hasText := data["text"]
		if hasResult != c.wantResult || hasText != c.wantText || (data["result_omitted"] == true) != c.wantOmitted {
			t.Errorf("%s: result %v, text %v, omitted %v", c.name, hasResult, hasText, data["result_omitted"])
		}
		if len(body) > webhook.MaxResultBytes {
			t.Errorf("%s: the body has %d bytes", c.name, len(body))
		}
	}
}

func TestOtherEvents(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	batch := tasks.Batch{ID: "batch_1", Tenant: "acme", Status: tasks.BatchEnded, Counts: tasks.Counts{Total: 3, Succeeded: 2, Failed: 1}, EndedAt: at}
	body, err := webhook.BatchEvent(batch, base)
	if err != nil {
		t.Fatal(err)
	}
	typ, stamp, data := decode(t, body)
	if typ != "batch.completed" || stamp != "2026-11-22T12:00:00.000Z" || data["id"] != "batch_1" ||
		data["counts"].(map[string]any)["failed"] != 1.0 || strings.Contains(string(body), "acme") {
		t.Errorf("batch event = %s", body)
	}
	batch.Status = tasks.BatchCanceling
	if _, err := webhook.BatchEvent(batch, base); !errors.Is(err, tasks.ErrConflict) {
		t.Errorf("BatchEvent of one that has not ended = %v, want %v", err, tasks.ErrConflict)
	}

	for state, want := range map[tasks.PoolState]tasks.EventType{
		tasks.PoolPaused: tasks.EventPoolPaused, tasks.PoolOpen: tasks.EventPoolResumed, tasks.PoolDegraded: tasks.EventPoolResumed,
	} {
		typ, body, err := webhook.PoolEvent(tasks.PoolStatus{Name: "claude", State: state, Since: at, Reason: "529", PausedBy: "breaker", Queued: 4242}, base)
		if err != nil || typ != want {
			t.Errorf("PoolEvent of %s = %s, %v, want %s", state, typ, err, want)
		}
		name, _, data := decode(t, body)
		if name != string(want) || data["id"] != "claude" || data["paused_by"] != "breaker" || strings.Contains(string(body), "4242") {
			t.Errorf("pool event = %s", body)
		}
	}

	body, err = webhook.EndpointDisabledEvent("whe_1", at, webhook.Gone, base)
	if err != nil {
		t.Fatal(err)
	}
	if typ, _, data := decode(t, body); typ != "endpoint.disabled" || data["id"] != "whe_1" || data["reason"] != "gone" {
		t.Errorf("endpoint event = %s", body)
	}
	body, err = webhook.TestEvent("whe_1", at, base)
	if err != nil {
		t.Fatal(err)
	}
	if typ, _, data := decode(t, body); tasks.EventType(typ).Valid() || data["id"] != "whe_1" {
		t.Errorf("test event = %s, and its type can be subscribed to: %v", body, tasks.EventType(typ).Valid())
	}
}

func TestOpenAIEvent(t *testing.T) {
	at := time.Unix(1750287018, 0)
	for typ, want := range map[tasks.EventType]string{
		tasks.EventJobSucceeded: "response.completed", tasks.EventJobFailed: "response.failed", tasks.EventJobExpired: "response.failed",
		tasks.EventJobCanceled: "response.cancelled", tasks.EventBatchCompleted: "batch.completed",
	} {
		body, err := webhook.OpenAIEvent("evt_1", typ, at, "resp_1")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(body); got != `{"id":"evt_1","object":"event","created_at":1750287018,"type":"`+want+`","data":{"id":"resp_1"}}` {
			t.Errorf("%s: %s", typ, got)
		}
	}
	for _, typ := range []tasks.EventType{tasks.EventPoolPaused, tasks.EventPoolResumed, tasks.EventEndpointDisabled, "x"} {
		if _, err := webhook.OpenAIEvent("evt_1", typ, at, "x"); err == nil {
			t.Errorf("%s: an event that OpenAI has not", typ)
		}
	}
}
