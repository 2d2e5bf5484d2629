// Command openai does what it is told by the official SDK of OpenAI.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	sdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"
	"github.com/openai/openai-go/v3/responses"

	"sluice-official-sdks/drive"
)

func main() {
	drive.Serve(do, func(err error) (drive.Failure, bool) {
		e, ok := errors.AsType[*sdk.Error](err)
		if !ok {
			return drive.Failure{}, false
		}
		f := drive.Failure{Class: "Error", Status: e.StatusCode, Message: e.Message}
		if e.Response != nil {
			f.Request = e.Response.Header.Get("X-Request-Id")
		}
		if raw := e.RawJSON(); json.Valid([]byte(raw)) {
			f.Body = json.RawMessage(raw)
		}
		return f, true
	})
}

func client(c *drive.Command) sdk.Client {
	opts := []option.RequestOption{option.WithBaseURL(c.Base), option.WithAPIKey(c.Key)}
	if c.Retries != nil {
		opts = append(opts, option.WithMaxRetries(*c.Retries))
	}
	if c.Timeout > 0 {
		opts = append(opts, option.WithRequestTimeout(time.Duration(c.Timeout)*time.Millisecond))
	}
	for name, value := range c.Headers {
		opts = append(opts, option.WithHeader(name, value))
	}
	if c.Secret != "" {
		opts = append(opts, option.WithWebhookSecret(c.Secret))
	}
	return sdk.NewClient(opts...)
}

func do(ctx context.Context, c *drive.Command) (any, error) {
	client := client(c)
	switch c.Do {
	case "chat", "chat_stream":
		var p sdk.ChatCompletionNewParams
		if err := c.Into(&p); err != nil {
			return nil, err
		}
		if c.Do == "chat" {
			return drive.Raw(client.Chat.Completions.New(ctx, p))
		}
		return chunks(client.Chat.Completions.NewStreaming(ctx, p))
	case "embed":
		var p sdk.EmbeddingNewParams
		if err := c.Into(&p); err != nil {
			return nil, err
		}
		return drive.Raw(client.Embeddings.New(ctx, p))
	case "models":
		ids := []string{}
		pages := client.Models.ListAutoPaging(ctx)
		for pages.Next() {
			ids = append(ids, pages.Current().ID)
		}
		return ids, pages.Err()
	case "model":
		return drive.Raw(client.Models.Get(ctx, c.ID))
	case "unwrap":
		h := http.Header{}
		for name, value := range c.Sent {
			h.Set(name, value)
		}
		return drive.Raw(client.Webhooks.Unwrap([]byte(c.Text), h))
	}
	if out, err, ok := response(ctx, client, c); ok {
		return out, err
	}
	return files(ctx, client, c)
}

func chunks(s *ssestream.Stream[sdk.ChatCompletionChunk]) (any, error) {
	defer s.Close()
	type call struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	}
	var out struct {
		Text   string          `json:"text"`
		Chunks int             `json:"chunks"`
		Usage  json.RawMessage `json:"usage"`
		Tools  []call          `json:"tools"`
	}
	for s.Next() {
		chunk := s.Current()
		out.Chunks++
		if raw := chunk.Usage.RawJSON(); raw != "" && raw != "null" {
			out.Usage = json.RawMessage(raw)
			continue
		}
		delta := chunk.Choices[0].Delta // as every example has it
		out.Text += delta.Content
		for _, t := range delta.ToolCalls {
			for int(t.Index) >= len(out.Tools) {
				out.Tools = append(out.Tools, call{})
			}
			out.Tools[t.Index].Name += t.Function.Name
			out.Tools[t.Index].Arguments += t.Function.Arguments
		}
	}
	return out, s.Err()
}

func events(s *ssestream.Stream[responses.ResponseStreamEventUnion]) (any, error) {
	defer s.Close()
	var out struct {
		Text     string          `json:"text"`
		Events   []string        `json:"events"`
		Numbers  []int64         `json:"numbers"`
		Response json.RawMessage `json:"response"`
	}
	for s.Next() {
		e := s.Current()
		out.Events = append(out.Events, e.Type)
		out.Numbers = append(out.Numbers, e.SequenceNumber)
		if e.Type == "response.output_text.delta" {
			out.Text += e.Delta
		}
		if raw := e.Response.RawJSON(); raw != "" {
			out.Response = json.RawMessage(raw)
		}
	}
	return out, s.Err()
}

func response(ctx context.Context, client sdk.Client, c *drive.Command) (any, error, bool) {
	r := client.Responses
	var out any
	var err error
	switch c.Do {
	case "response", "response_stream":
		var p responses.ResponseNewParams
		if err := c.Into(&p); err != nil {
			return nil, err, true
		}
		if c.Do == "response" {
			out, err = drive.Raw(r.New(ctx, p))
		} else {
			out, err = events(r.NewStreaming(ctx, p))
		}
	case "response_get":
		out, err = drive.Raw(r.Get(ctx, c.ID, responses.ResponseGetParams{}))
	case "response_follow":
		out, err = events(r.GetStreaming(ctx, c.ID, responses.ResponseGetParams{StartingAfter: sdk.Int(c.StartingAfter)}))
	case "response_cancel":
		out, err = drive.Raw(r.Cancel(ctx, c.ID))
	case "response_delete":
		err = r.Delete(ctx, c.ID)
	default:
		return nil, nil, false
	}
	return out, err, true
}

func files(ctx context.Context, client sdk.Client, c *drive.Command) (any, error) {
	ids := []string{}
	limit := sdk.Int(cmp.Or(c.Limit, 20))
	switch c.Do {
	case "file":
		return drive.Raw(client.Files.New(ctx, sdk.FileNewParams{File: sdk.File(bytes.NewReader([]byte(c.Text)), "lines.jsonl", "application/jsonl"), Purpose: sdk.FilePurposeBatch}))
	case "file_get":
		return drive.Raw(client.Files.Get(ctx, c.ID))
	case "file_list":
		pages := client.Files.ListAutoPaging(ctx, sdk.FileListParams{Limit: limit})
		for pages.Next() {
			ids = append(ids, pages.Current().ID)
		}
		return ids, pages.Err()
	case "file_content":
		res, err := client.Files.Content(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return string(body), err
	case "file_delete":
		return drive.Raw(client.Files.Delete(ctx, c.ID))
	case "batch":
		var p sdk.BatchNewParams
		if err := c.Into(&p); err != nil {
			return nil, err
		}
		return drive.Raw(client.Batches.New(ctx, p))
	case "batch_get":
		return drive.Raw(client.Batches.Get(ctx, c.ID))
	case "batch_list":
		pages := client.Batches.ListAutoPaging(ctx, sdk.BatchListParams{Limit: limit})
		for pages.Next() {
			ids = append(ids, pages.Current().ID)
		}
		return ids, pages.Err()
	case "batch_cancel":
		return drive.Raw(client.Batches.Cancel(ctx, c.ID))
	}
	return nil, fmt.Errorf("there is no %q", c.Do)
}
