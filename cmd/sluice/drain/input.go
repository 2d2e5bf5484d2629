package drain

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/tasks"
)

const (
	mostFaults = 20      // faulty lines that are named
	mostShown  = 60      // characters of the first prompt that are shown
	mostInput  = 4 << 30 // bytes of a file once it is decompressed: all of it is held in memory
)

// readPrompts reads the input and says what it was taken for. It returns the
// bytes as they were read, too. Nothing of a file with a fault is used.
func readPrompts(c *Config, o Options) (all []prompt, raw []byte, err error) {
	raw, err = readInput(o.File, c.Stdin)
	if err != nil {
		return nil, nil, err
	}
	text, name := raw, filepath.Base(o.File)
	if strings.EqualFold(filepath.Ext(name), ".gz") {
		name = strings.TrimSuffix(name, filepath.Ext(name))
		if text, err = decompress(raw); err != nil {
			return nil, nil, usagef("%s: %w; nothing was sent", o.File, err)
		}
	}
	text = bytes.TrimPrefix(text, []byte(bomUTF8))
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil, usagef("%s holds no prompts", o.File)
	}
	k, err := kindOf(o, name, text)
	if err != nil {
		return nil, nil, err
	}
	read := readText
	if k == jsonLines {
		read = readJSONLines
	}
	jobs, err := read(c, o, text)
	if err != nil {
		return nil, nil, err
	}
	hooks := 0
	for _, j := range jobs {
		if j.WebhookURL != "" {
			// Nobody could check the signature, or be tried again once the run is over.
			j.WebhookURL = ""
			hooks++
		}
		all = append(all, prompt{j, j.Digest()})
	}
	if hooks > 0 {
		fmt.Fprintf(c.Stderr, "sluice: run sends no webhooks; webhook_url is left out of %d lines\n", hooks)
	}
	fmt.Fprintf(c.Stderr, "sluice: %s: %s; the first prompt: %s\n", nameOf(o.File), k.count(len(all)), opening(&all[0].Request))
	return all, raw, nil
}

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

// decompress reads gzip, whole: what is cut off, or is followed by something
// else, may lack prompts.
func decompress(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("its name ends in .gz, and it is not gzip (%w)", err)
	}
	out, err := io.ReadAll(io.LimitReader(z, mostInput+1))
	if err != nil {
		return nil, fmt.Errorf("its gzip is damaged or cut off (%w)", err)
	}
	if len(out) > mostInput {
		return nil, fmt.Errorf("it holds more than %d GiB: split it", mostInput>>30)
	}
	return out, nil
}

// readJSONLines reads the lines that POST /v1/batches takes.
func readJSONLines(c *Config, o Options, text []byte) ([]tasks.Job, error) {
	if o.Model != "" {
		if _, ok := c.Match(o.Model); !ok {
			return nil, unserved(c, o.Model)
		}
	}
	var all []tasks.Job
	var faults []string
	more, hint := 0, ""
	fault := func(f *v1.LineFault) error {
		if len(faults) < mostFaults {
			faults = append(faults, f.Error())
		} else {
			more++
		}
		if f.Unserved {
			hint = "\n--model names the model of lines that name none; " + c.served()
		}
		return nil
	}
	err := v1.Lines{Match: c.Match, Model: o.Model, Fault: fault}.Read(bytes.NewReader(text), func(j tasks.Job) error {
		all = append(all, j)
		return nil
	})
	var faulty *v1.LineFault
	if errors.As(err, &faulty) {
		err = fault(faulty)
	}
	switch {
	case err != nil:
		return nil, err
	case len(faults) == 0:
		return all, nil
	}
	told := strings.Join(faults, "\n"+o.File+": ")
	if more > 0 {
		told += fmt.Sprintf("\nand %d more", more)
	}
	if n := len(faults) + more; n > 1 {
		told += fmt.Sprintf("\n%d lines are faulty", n)
	}
	return nil, usagef("%s: %s\nnothing was sent%s", o.File, told, hint)
}

// readText reads plain text, a prompt a line.
func readText(c *Config, o Options, text []byte) ([]tasks.Job, error) {
	if o.Model == "" {
		return nil, usagef("%s: plain text names no model, and none is picked: name one with --model; %s", nameOf(o.File), c.served())
	}
	pool, ok := c.Match(o.Model)
	if !ok {
		return nil, unserved(c, o.Model)
	}
	var all []tasks.Job
	number := 0
	for raw := range bytes.Lines(text) {
		number++
		line := strings.TrimSpace(string(raw))
		if line == "" {
			continue
		}
		body, err := json.Marshal(line)
		if err != nil {
			return nil, err
		}
		all = append(all, tasks.Job{
			Model: o.Model, Pool: pool, Priority: tasks.Normal, Line: number, CustomID: strconv.Itoa(number),
			Request: tasks.Request{Kind: tasks.Text, Body: body, MaxTokens: o.MaxTokens, InputTokens: tasks.EstimateTokens(len(body))},
		})
	}
	return all, nil
}

func unserved(c *Config, model string) error {
	return usagef("no pool serves the model %q; name another with --model; %s", model, c.served())
}

// opening is the beginning of a prompt, on one line and quoted. It is for the
// person who has to see what is going to be paid for, not for a log.
func opening(r *tasks.Request) string {
	var s string
	if r.Kind != tasks.Text || json.Unmarshal(r.Body, &s) != nil {
		s = userText(r.Body)
	}
	short := []rune(strings.Join(strings.Fields(s), " "))
	if len(short) > mostShown {
		short = append(short[:mostShown], '…')
	}
	return strconv.Quote(string(short))
}

// userText is the text of a body's first user message, else the body as it is.
func userText(body []byte) string {
	var in struct {
		Messages []struct {
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"`
		} `json:"messages"`
	}
	_ = json.Unmarshal(body, &in) // a body of another form is shown as it is
	for _, m := range in.Messages {
		if m.Role != "user" {
			continue
		}
		var text string
		if json.Unmarshal(m.Content, &text) == nil {
			return text
		}
		var parts []struct {
			Text string `json:"text"`
		}
		if json.Unmarshal(m.Content, &parts) != nil {
			break
		}
		for _, p := range parts {
			if p.Text != "" {
				return p.Text
			}
		}
	}
	return string(body)
}
