package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/tasks"
)

func readInput(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		b, err := io.ReadAll(stdin)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return b, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, wrongUsage{fmt.Errorf("read the prompts: %w", err)}
	}
	return b, nil
}

// parseInput reads JSON lines or, when the first line is no JSON object and the
// name is not that of JSON lines, plain text with a prompt a line.
func parseInput(cfg *Config, o runOptions, input []byte) ([]tasks.Job, error) {
	input = bytes.TrimPrefix(input, []byte("\xef\xbb\xbf"))
	var all []tasks.Job
	ext := strings.ToLower(filepath.Ext(o.File))
	if ext == ".jsonl" || ext == ".ndjson" || ext != ".txt" && bytes.HasPrefix(bytes.TrimLeft(input, " \t\r\n"), []byte("{")) {
		err := api.Lines{Match: cfg.Pool}.Read(bytes.NewReader(input), func(j tasks.Job) error {
			all = append(all, j)
			return nil
		})
		if err != nil {
			return nil, wrongUsage{fmt.Errorf("%s: %w", o.File, err)}
		}
		return all, nil
	}
	model := o.Model
	if model == "" {
		model = textModel(cfg)
	}
	pool, ok := cfg.Pool(model)
	if !ok {
		return nil, usagef("no pool serves the model %q; name one with --model", model)
	}
	line := 0
	for raw := range bytes.Lines(input) {
		line++
		text := strings.TrimSpace(string(raw))
		if text == "" {
			continue
		}
		if !utf8.ValidString(text) {
			return nil, usagef("%s: Line %d: not UTF-8 text", o.File, line)
		}
		body, err := json.Marshal(text)
		if err != nil {
			return nil, err
		}
		all = append(all, tasks.Job{
			Model: model, Pool: pool, Priority: tasks.Normal, Line: line, CustomID: strconv.Itoa(line),
			Request: tasks.Request{Kind: tasks.Text, Body: body, MaxTokens: o.MaxTokens, InputTokens: tasks.EstimateTokens(len(body))},
		})
	}
	return all, nil
}

// textModel is what plain text is asked of when nobody says.
func textModel(cfg *Config) string {
	for _, m := range []string{"claude-sonnet-4-5", "gpt-4o-mini"} {
		if _, ok := cfg.Pool(m); ok {
			return m
		}
	}
	for _, p := range cfg.Pools {
		for _, m := range p.Models {
			if !strings.ContainsAny(m, "*?[") {
				return m
			}
		}
	}
	return ""
}
