package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Batches proves that a large batch in a provider's own form takes little memory of the
// API: while it is made, while it runs and while its results are read.
type Batches struct {
	Options
	Lines int `default:"100000" help:"Requests of each batch."`
	Bytes int `default:"1024" help:"Bytes of each prompt."`
	Most  int `default:"200" help:"MiB of memory that the API may have at the most."`
}

// Run makes, runs and reads one batch in each form, each at processes of its own.
func (b *Batches) Run(ctx context.Context, lab *rig.Lab) error {
	return b.measure(ctx, func(ctx context.Context) error {
		var figures []figure
		for _, f := range []struct {
			name, stage string
			run         func(*Batches, context.Context, *stack) (int, error)
		}{{"Message Batches", "messages", (*Batches).messages}, {"OpenAI's files and batches", "files", (*Batches).files}} {
			start := time.Now()
			peak, err := b.peak(ctx, lab, f.stage, f.run)
			if err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			figures = append(figures, atMost(f.name+": most memory of the API", "%.0f MiB", peak, float64(b.Most), fmt.Sprintf("in %.0f s", time.Since(start).Seconds())))
		}
		err := report(fmt.Sprintf("batches: %d requests with a prompt of %d bytes, made, run and their results read", b.Lines, b.Bytes), figures)
		for _, f := range figures {
			if !f.met {
				err = errors.Join(err, fmt.Errorf("%s is %s", f.name, f.value))
			}
		}
		return err
	})
}

// peak takes one batch to the end of its results, and returns the most MiB of memory that
// the API had.
func (b *Batches) peak(ctx context.Context, lab *rig.Lab, name string, run func(*Batches, context.Context, *stack) (int, error)) (mib float64, err error) {
	provider, err := rig.StartProvider(fake.Config{MeanOutputTokens: 8})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, provider.Close()) }()
	const limits = "limits: {requests_per_minute: 6000000, input_tokens_per_minute: 0, output_tokens_per_minute: 0, request_burst: 100000, concurrency: 64}"
	stage, err := lab.Stage(ctx, rig.Config{
		Name: name, APIs: 1, Workers: 1, OneKey: true, TCP: true, Provider: provider, Flags: []string{"--log-level", "warn"}, Pool: limits,
		RedisArgs: []string{"--appendfsync", b.fsync("everysec"), "--auto-aof-rewrite-percentage", "0"},
		Providers: fmt.Sprintf("  gpt: {dialect: openai, base_url: \"http://%s/v1\", api_key: gpt}\n", provider.Addr),
		Pools:     fmt.Sprintf("  gpt: {provider: gpt, models: [\"gpt-*\"], %s}\n", limits),
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stage.Close()) }()
	st := &stack{Stage: stage, Options: b.Options, api: stage.Addrs[0]}
	wait := st.profile(ctx, name, 20*time.Second)
	lines, err := run(b, ctx, st)
	wait()
	if err != nil {
		return 0, err
	}
	if lines != b.Lines {
		return 0, fmt.Errorf("%d lines of results, of %d", lines, b.Lines)
	}
	peak, err := stage.APIs[0].PeakMemory()
	return float64(peak) / (1 << 20), err
}

// ask makes a request whose body is written as it is sent, and decodes the answer.
func (st *stack) ask(ctx context.Context, method, path, media string, body func(io.Writer) error, into any) error {
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		out := bufio.NewWriterSize(w, 64<<10)
		err := body(out)
		err = errors.Join(err, out.Flush())
		_ = w.CloseWithError(err) // it never fails
		sent <- err
	}()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+st.api+path, r)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+st.Token)
	req.Header.Set("Content-Type", media)
	res, err := http.DefaultClient.Do(req)
	_ = r.Close() // what was not read is not wanted
	if err = errors.Join(err, <-sent); res == nil {
		return err
	}
	defer res.Body.Close()
	said, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return errors.Join(err, fmt.Errorf("%s %s: %s: %.300s", method, path, res.Status, said))
	}
	return json.Unmarshal(said, into)
}

// look reads an object until it is as somebody wants it.
func (st *stack) look(ctx context.Context, path string, into any, ok func() bool) error {
	return rig.Until(ctx, st.Timeout, path+" is as wanted", func(ctx context.Context) (bool, error) {
		res, err := st.get(ctx, path)
		if err != nil {
			return false, err
		}
		defer res.Body.Close()
		err = json.NewDecoder(res.Body).Decode(into)
		return ok(), err
	})
}

func (st *stack) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+st.api+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+st.Token)
	res, err := http.DefaultClient.Do(req)
	if err == nil && res.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 300))
		_ = res.Body.Close()
		err = fmt.Errorf("GET %s: %s: %s", path, res.Status, said)
	}
	return res, err
}

// count reads lines of results and counts those that hold a word.
func (st *stack) count(ctx context.Context, path, word string) (n int, err error) {
	res, err := st.get(ctx, path)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	in := bufio.NewReaderSize(res.Body, 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		if bytes.Contains(line, []byte(word)) {
			n++
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// messages takes a Message Batch to its end, and returns how many of its requests succeeded.
func (b *Batches) messages(ctx context.Context, st *stack) (int, error) {
	text := prose(1, b.Bytes)
	var batch struct {
		ID     string `json:"id"`
		Status string `json:"processing_status"`
	}
	const path = "/anthropic/v1/messages/batches"
	err := st.ask(ctx, http.MethodPost, path, "application/json", func(w io.Writer) error {
		for i := range b.Lines {
			before := ","
			if i == 0 {
				before = `{"requests":[`
			}
			if _, err := fmt.Fprintf(w, `%s{"custom_id":"r%d","params":{"model":"%s","max_tokens":16,"messages":[{"role":"user","content":"%s"}]}}`, before, i, model, text); err != nil {
				return err
			}
		}
		_, err := io.WriteString(w, "]}")
		return err
	}, &batch)
	if err != nil {
		return 0, err
	}
	if err := st.look(ctx, path+"/"+batch.ID, &batch, func() bool { return batch.Status == "ended" }); err != nil {
		return 0, err
	}
	return st.count(ctx, path+"/"+batch.ID+"/results", `"type":"succeeded"`)
}

// files uploads a file of requests, takes its batch to the end, and returns how many
// results it has.
func (b *Batches) files(ctx context.Context, st *stack) (int, error) {
	text := prose(1, b.Bytes)
	r, w := io.Pipe()
	form := multipart.NewWriter(w)
	_ = r.Close() // only its boundary is used: each part is written below
	var file, batch struct {
		ID     string `json:"id"`
		Status string `json:"status"`
		Output string `json:"output_file_id"`
	}
	err := st.ask(ctx, http.MethodPost, "/openai/v1/files", form.FormDataContentType(), func(w io.Writer) error {
		f := multipart.NewWriter(w)
		err := errors.Join(f.SetBoundary(form.Boundary()), f.WriteField("purpose", "batch"))
		part, err2 := f.CreateFormFile("file", "in.jsonl")
		if err = errors.Join(err, err2); err != nil {
			return err
		}
		for i := range b.Lines {
			if _, err := fmt.Fprintf(part, `{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-bench","max_tokens":16,"messages":[{"role":"user","content":"%s"}]}}`+"\n", i, text); err != nil {
				return err
			}
		}
		return f.Close()
	}, &file)
	if err != nil {
		return 0, err
	}
	err = st.ask(ctx, http.MethodPost, "/openai/v1/batches", "application/json", func(w io.Writer) error {
		_, err := fmt.Fprintf(w, `{"input_file_id":"%s","endpoint":"/v1/chat/completions","completion_window":"24h"}`, file.ID)
		return err
	}, &batch)
	if err != nil {
		return 0, err
	}
	if err := st.look(ctx, "/openai/v1/batches/"+batch.ID, &batch, func() bool { return batch.Status == "completed" || batch.Status == "failed" }); err != nil {
		return 0, err
	}
	if batch.Output == "" {
		return 0, fmt.Errorf("the batch has %s without an output file", batch.Status)
	}
	return st.count(ctx, "/openai/v1/files/"+batch.Output+"/content", `"status_code":200`)
}
