package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// responder is a response as these tests need it.
func responder() form {
	event := func(n int, kind, rest string) string {
		return fmt.Sprintf("event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d%s}\n\n", kind, kind, n, rest)
	}
	delta := func(n int, text string) string {
		return event(n, "response.output_text.delta", `,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"`+text+`"`)
	}
	const item = `{"id":"msg_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"text":"h\u00e9l  lo"}]}`
	whole := `{"id":"resp_theirs","object":"response","status":"completed","error":null,"incomplete_details":null,"output":[` + item + `],"usage":{"input_tokens":3,"output_tokens":5},"odd":1e2}`
	begun := `,"response":{"id":"resp_theirs","object":"response","status":"in_progress","output":[]}`
	return form{"openai", "/openai/v1/responses", "gpt-x", []string{
		event(0, "response.created", begun),
		event(1, "response.in_progress", begun),
		delta(2, `h\u00e9l  `),
		delta(3, "lo"),
		event(4, "response.completed", `,"response":`+whole),
	}, whole, "hél  lo"}
}

// mine is what a caller is told of events: the id is ours.
func mine(job string, events ...string) string {
	return strings.ReplaceAll(strings.Join(events, ""), "resp_theirs", "resp_"+strings.TrimPrefix(job, "job_"))
}

// rereads follows a response by its id.
func (r *stage) rereads(job, query string) *listener {
	r.t.Helper()
	return readAt(r.t, r.url, r.token, "/openai/v1/responses/resp_"+strings.TrimPrefix(job, "job_")+"?stream=true"+query)
}

// Each event of a response goes out before the next has come, under the id that it has
// here; a repeat gets all of them, and so does who reads it later.
func TestAStreamOfAResponse(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	f := responder()
	l := r.listen(f, "")
	if l.res.StatusCode != 200 || !strings.HasPrefix(l.res.Header.Get("Content-Type"), "text/event-stream") || l.job() == "" {
		t.Fatalf("%s %v", l.res.Status, l.res.Header)
	}
	c := p.next(t)
	if !strings.Contains(string(c.body), `"stream":true`) {
		t.Errorf("upstream: %s", c.body)
	}
	for i, e := range f.events {
		c.tell(e)
		if i < len(f.events)-1 {
			l.until(mine(l.job(), f.events[:i+1]...))
		}
	}
	close(c.say)
	all := mine(l.job(), f.events...)
	if got := l.end(); got != all {
		t.Errorf("told %q, want %q", got, all)
	}
	if j := r.final(l.job()); j.Status != "succeeded" || j.Text != f.text {
		t.Errorf("the job is %+v", j)
	}
	if again := r.listen(f, "", "X-Stainless-Retry-Count", "1"); again.end() != all || again.job() != l.job() {
		t.Errorf("a repeat is told %q of %s", again.told(), again.job())
	}
	for after, want := range map[string]string{"": all, "&starting_after=0": mine(l.job(), f.events[1:]...), "&starting_after=3": mine(l.job(), f.events[4:]...), "&starting_after=4": ""} {
		if got := r.rereads(l.job(), after).end(); got != want {
			t.Errorf("read %s: told %q, want %q", after, got, want)
		}
	}
}

// A response in the background goes on whoever reads it: one that reads on has what it
// missed, and its cancel ends the stream.
func TestABackgroundResponseIsFollowed(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	f := responder()
	l := r.listen(f, `,"background":true`)
	c := p.next(t)
	if strings.Contains(string(c.body), "background") {
		t.Errorf("upstream: %s", c.body)
	}
	c.tell(f.events[:3]...)
	l.until(mine(l.job(), f.events[:3]...))
	l.cancel()
	<-l.over
	// Who asks for the header alone has it at once, and holds nothing.
	head, err := http.NewRequestWithContext(t.Context(), http.MethodHead, r.url+"/openai/v1/responses/resp_"+strings.TrimPrefix(l.job(), "job_")+"?stream=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	head.Header.Set("Authorization", "Bearer "+r.token)
	if res, err := http.DefaultClient.Do(head); err != nil || res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") || res.Body.Close() != nil {
		t.Errorf("HEAD: %v, %v", res, err)
	}
	r.until("nothing is held behind a HEAD", func() bool { return r.gauge("sluice_http_held_requests") == 0 })
	on := r.rereads(l.job(), "&starting_after=1")
	on.until(mine(l.job(), f.events[2]))
	c.tell(f.events[3:]...)
	close(c.say)
	if got, want := on.end(), mine(l.job(), f.events[2:]...); got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	// One that is canceled ends with an error, after what came.
	l = r.listen(f, `,"background":true,"x":1`)
	c = p.next(t)
	c.tell(f.events[:2]...)
	l.until(mine(l.job(), f.events[:2]...))
	if res := r.call(http.MethodPost, "/openai/v1/responses/resp_"+strings.TrimPrefix(l.job(), "job_")+"/cancel", "", &struct{}{}); res.StatusCode != 200 {
		t.Fatalf("cancel: %s", res.Status)
	}
	rest, ok := strings.CutPrefix(l.end(), mine(l.job(), f.events[:2]...))
	if !ok || !strings.HasPrefix(rest, "event: error\ndata: {\"type\":\"error\",") || !strings.Contains(rest, `"sequence_number":2,"error":{`) {
		t.Errorf("of a canceled one, told %q", l.told())
	}
	if got := r.rereads(l.job(), "").end(); !strings.Contains(got, `"type":"error"`) || strings.Contains(got, "response.created") {
		t.Errorf("read after its cancel: %q", got)
	}
}

// What another attempt brings is never told behind what one that broke has brought.
func TestAResponseWhoseAttemptBreaks(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	f := responder()
	l := r.listen(f, `,"background":true`)
	c := p.next(t)
	c.tell(f.events[:2]...)
	l.until(mine(l.job(), f.events[:2]...))
	close(c.abort)
	again := p.next(t)
	again.tell(f.events[:2]...)
	rest, ok := strings.CutPrefix(l.end(), mine(l.job(), f.events[:2]...))
	if !ok || !strings.Contains(rest, `"error":{"message":"The provider's answer broke off`) {
		t.Errorf("told %q", l.told())
	}
	if on := r.rereads(l.job(), "&starting_after=1"); on.res.StatusCode != 400 || !strings.Contains(on.end(), "starting_after") {
		t.Errorf("who reads on: %s %s", on.res.Status, on.told())
	}
	anew := r.rereads(l.job(), "")
	again.tell(f.events[2:]...)
	close(again.say)
	if got, want := anew.end(), mine(l.job(), f.events...); got != want {
		t.Errorf("who reads anew: told %q, want %q", got, want)
	}
}

// A response that came whole, or failed, is told as events as well.
func TestAWholeResponseIsToldInEvents(t *testing.T) {
	t.Parallel()
	r, p := streams(t)
	f := responder()
	for name, row := range map[string]struct {
		item   string
		events []string // types of those of the item
	}{
		"text":     {`{"id":"m","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","annotations":[],"text":"hi"},{"type":"refusal","refusal":"no"}]}`, []string{"content_part.added", "output_text.delta", "output_text.done", "content_part.done", "content_part.added", "refusal.delta", "refusal.done", "content_part.done"}},
		"call":     {`{"id":"f","type":"function_call","name":"f","arguments":"{\"a\": 1}"}`, []string{"function_call_arguments.delta", "function_call_arguments.done"}},
		"whatever": {`{"id":"r","type":"reasoning","summary":[]}`, nil},
	} {
		l := r.listen(f, `,"x":"`+name+`"`)
		c := p.next(t)
		c.tell(`{"id":"resp_theirs","object":"response","status":"completed","error":null,"output":[` + row.item + `],"usage":{"input_tokens":3,"output_tokens":5}}`)
		close(c.say)
		got := l.end()
		var kinds []string
		for event := range strings.SplitSeq(strings.TrimSpace(got), "\n\n") {
			kind, _, _ := strings.Cut(strings.TrimPrefix(event, "event: response."), "\n")
			kinds = append(kinds, kind)
		}
		want := append(append([]string{"created", "in_progress", "output_item.added"}, row.events...), "output_item.done", "completed")
		if strings.Join(kinds, " ") != strings.Join(want, " ") || !strings.Contains(got, mine(l.job(), `"response":{"id":"resp_theirs"`)) || strings.Contains(got, "resp_theirs") {
			t.Errorf("%s: told %v, want %v: %s", name, kinds, want, got)
		}
		if got := r.rereads(l.job(), "&starting_after=100").end(); !strings.HasPrefix(got, "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":101,") {
			t.Errorf("%s: after its events had gone, told %q", name, got)
		}
	}
	l := r.listen(f, `,"background":true,"x":"no"`)
	p.next(t).tell(`400 refused {"error":{"type":"invalid_request_error","message":"no such thing"}}`)
	if got := l.end(); !strings.HasPrefix(got, "event: response.created\n") || !strings.Contains(got, "event: response.failed\n") || !strings.Contains(got, "no such thing") {
		t.Errorf("one that failed: %q", got)
	}
	l = r.listen(f, `,"x":"no"`)
	p.next(t).tell(`400 refused {"error":{"type":"invalid_request_error","message":"no such thing","code":"odd","param":null}}`)
	if got := l.end(); got != "event: error\ndata: {\"type\":\"error\",\"code\":\"odd\",\"message\":\"no such thing\",\"param\":null,\"sequence_number\":0,\"error\":{\"type\":\"invalid_request_error\",\"message\":\"no such thing\",\"code\":\"odd\",\"param\":null}}\n\n" {
		t.Errorf("one that failed and had a caller: %q", got)
	}
	redistest.Until(t, "nothing else is asked upstream", func() bool { return len(p.calls) == 0 })
}
