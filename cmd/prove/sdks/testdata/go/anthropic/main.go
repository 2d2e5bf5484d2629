// Command anthropic does what it is told by the official SDK of Anthropic.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	sdk "github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"sluice-official-sdks/drive"
)

func main() {
	drive.Serve(do, func(err error) (drive.Failure, bool) {
		e, ok := errors.AsType[*sdk.Error](err)
		if !ok {
			return drive.Failure{}, false
		}
		f := drive.Failure{Class: "Error", Status: e.StatusCode, Message: err.Error(), Request: e.RequestID}
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
	return sdk.NewClient(opts...)
}

func do(ctx context.Context, c *drive.Command) (any, error) {
	client := client(c)
	switch c.Do {
	case "message":
		var p sdk.MessageNewParams
		if err := c.Into(&p); err != nil {
			return nil, err
		}
		return drive.Raw(client.Messages.New(ctx, p))
	case "stream":
		return stream(ctx, client, c)
	case "count":
		var p sdk.MessageCountTokensParams
		if err := c.Into(&p); err != nil {
			return nil, err
		}
		return drive.Raw(client.Messages.CountTokens(ctx, p))
	case "models":
		ids := []string{}
		pages := client.Models.ListAutoPaging(ctx, sdk.ModelListParams{Limit: sdk.Int(cmp.Or(c.Limit, 20))})
		for pages.Next() {
			ids = append(ids, pages.Current().ID)
		}
		return ids, pages.Err()
	case "model":
		return drive.Raw(client.Models.Get(ctx, c.ID, sdk.ModelGetParams{}))
	}
	return batches(ctx, client, c)
}

func stream(ctx context.Context, client sdk.Client, c *drive.Command) (any, error) {
	var p sdk.MessageNewParams
	if err := c.Into(&p); err != nil {
		return nil, err
	}
	var message sdk.Message
	events := []string{}
	s := client.Messages.NewStreaming(ctx, p)
	defer s.Close()
	for s.Next() {
		events = append(events, s.Current().Type)
		if err := message.Accumulate(s.Current()); err != nil {
			return nil, err
		}
	}
	return map[string]any{"message": message, "events": events}, s.Err()
}

func batches(ctx context.Context, client sdk.Client, c *drive.Command) (any, error) {
	b := client.Messages.Batches
	list := sdk.MessageBatchListParams{Limit: sdk.Int(cmp.Or(c.Limit, 20))}
	if c.Before != "" {
		list.BeforeID = sdk.String(c.Before)
	}
	if c.After != "" {
		list.AfterID = sdk.String(c.After)
	}
	ids := []string{}
	switch c.Do {
	case "batch":
		var p sdk.MessageBatchNewParams
		if err := c.Into(&p); err != nil {
			return nil, err
		}
		return drive.Raw(b.New(ctx, p))
	case "batch_beta":
		var p sdk.BetaMessageBatchNewParams
		if err := c.Into(&p); err != nil {
			return nil, err
		}
		return drive.Raw(client.Beta.Messages.Batches.New(ctx, p))
	case "batch_get":
		return drive.Raw(b.Get(ctx, c.ID, sdk.MessageBatchGetParams{}))
	case "batch_list":
		pages := b.ListAutoPaging(ctx, list)
		for pages.Next() {
			ids = append(ids, pages.Current().ID)
		}
		return ids, pages.Err()
	case "batch_page":
		page, err := b.List(ctx, list)
		if err != nil {
			return nil, err
		}
		for _, one := range page.Data {
			ids = append(ids, one.ID)
		}
		return map[string]any{"ids": ids, "has_more": page.HasMore, "first_id": page.FirstID, "last_id": page.LastID}, nil
	case "batch_cancel":
		return drive.Raw(b.Cancel(ctx, c.ID, sdk.MessageBatchCancelParams{}))
	case "batch_delete":
		return drive.Raw(b.Delete(ctx, c.ID, sdk.MessageBatchDeleteParams{}))
	case "batch_results":
		lines := []json.RawMessage{}
		s := b.ResultsStreaming(ctx, c.ID, sdk.MessageBatchResultsParams{})
		for s.Next() {
			lines = append(lines, json.RawMessage(s.Current().RawJSON()))
		}
		return lines, s.Err()
	}
	return nil, fmt.Errorf("there is no %q", c.Do)
}
