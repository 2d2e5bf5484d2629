package drain

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/tasks"
)

const (
	mostShown = 60      // characters of the first prompt that are shown
	mostInput = 4 << 30 // bytes of a file once it is decompressed: all of it is held in memory
)

// promptFile is what a run was given to ask.
type promptFile struct {
	prompts []prompt
	raw     []byte    // as it was read
	invalid []invalid // lines that --skip-invalid leaves out
}

// readPrompts reads the input and says what it was taken for. Nothing of a file
// with a fault is used, unless its faulty lines are to be left out.
func readPrompts(c *Config, o Options) (in promptFile, err error) {
	if in.raw, err = readInput(o.File, c.Stdin); err != nil {
		return in, err
	}
	text, name := in.raw, filepath.Base(o.File)
	if strings.EqualFold(filepath.Ext(name), ".gz") {
		name = strings.TrimSuffix(name, filepath.Ext(name))
		if text, err = readGzip(in.raw); err != nil {
			return in, usagef("%s: %w; nothing was sent", o.File, err)
		}
	}
	text = bytes.TrimPrefix(text, []byte(bomUTF8))
	if len(bytes.TrimSpace(text)) == 0 {
		return in, usagef("%s holds no prompts", o.File)
	}
	k, err := kindOf(o, name, text)
	if err != nil {
		return in, err
	}
	lines, faults, err := readKind(c, o, k, text)
	if err != nil {
		return in, err
	}
	lines = fitting(c, lines, faults)
	if len(faults.all) > 0 && (!o.SkipInvalid || len(lines) == 0) {
		return in, faults.refuse(o, k)
	}
	if len(lines) == 0 {
		return in, usagef("%s holds no prompts", o.File)
	}
	in.invalid, in.prompts = faults.all, asked(c, o, lines)
	fmt.Fprintf(c.Stderr, "sluice: %s: %s; the first prompt: %s\n", nameOf(o.File), k.count(len(lines)), opening(&lines[0].Request))
	return in, checkDialects(c, o, in.prompts)
}

// readKind reads the lines of a text of that kind.
func readKind(c *Config, o Options, k lineKind, text []byte) ([]prompt, *faults, error) {
	if o.Model != "" {
		if _, ok := c.Match(o.Model); !ok {
			return nil, nil, usagef("no pool serves the model %q; name another with --model; %s", o.Model, c.served())
		}
	} else if k != jsonLines && k != jsonList {
		return nil, nil, usagef("%s: %s names no model, and none is picked: name one with --model; %s", nameOf(o.File), k.what(), c.served())
	}
	switch k {
	case jsonLines, jsonList:
		return readJSON(c, o, k == jsonList, text)
	case plainText:
		return readText(c, o, text)
	}
	return readTable(c, o, commas[k], text)
}

// fitting leaves out, as faulty, the lines that no wait makes fit their pool.
func fitting(c *Config, lines []prompt, f *faults) []prompt {
	limits := map[string]int64{}
	for _, p := range c.Pools {
		if !p.Guessed {
			limits[p.Name] = p.InputTokens
		}
	}
	lines = slices.DeleteFunc(lines, func(p prompt) bool {
		words := p.Request.Beyond(limits[p.Pool])
		if words != "" {
			f.add(p.Line, words, p.Request.Body)
		}
		return words != ""
	})
	slices.SortStableFunc(f.all, func(a, b invalid) int { return cmp.Compare(a.line, b.line) })
	return lines
}

// asked makes of each line as many prompts as there are samples of it.
func asked(c *Config, o Options, lines []prompt) []prompt {
	all := make([]prompt, 0, len(lines)*max(1, o.Samples))
	hooks := 0
	for _, p := range lines {
		if p.WebhookURL != "" {
			// Nobody could check the signature, or be tried again once the run is over.
			p.WebhookURL = ""
			hooks++
		}
		p.digest = p.Digest()
		for n := range max(1, o.Samples) {
			p.sample, p.place = min(n+1, o.Samples), len(all)
			all = append(all, p)
		}
	}
	if hooks > 0 {
		fmt.Fprintf(c.Stderr, "sluice: run sends no webhooks; webhook_url is left out of %d lines\n", hooks)
	}
	return all
}

// checkDialects refuses a form of results that a prompt's provider has not.
func checkDialects(c *Config, o Options, all []prompt) error {
	if o.Format == "" {
		return nil
	}
	dialects := map[string]string{}
	for _, p := range c.Pools {
		dialects[p.Name] = p.Dialect
	}
	for i := range all {
		if d := dialects[all[i].Pool]; d != o.Format {
			return usagef("--format %s: the model %q is answered in the dialect %s by the pool %s; leave --format out, or ask its models apart", o.Format, all[i].Model, d, all[i].Pool)
		}
	}
	return nil
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

// readGzip reads gzip, whole: what is cut off, or is followed by something
// else, may lack prompts.
func readGzip(b []byte) ([]byte, error) {
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

// readJSON reads what POST /v1/batches takes: a line a job, or a list of jobs.
func readJSON(c *Config, o Options, list bool, text []byte) (all []prompt, fs *faults, err error) {
	fs = &faults{}
	take := func(f *v1.LineFault) error {
		fs.add(f.Line, f.Detail, f.Raw)
		if f.Unserved {
			fs.hint = "\n--model names the model of lines that name none; " + c.served()
		}
		return nil
	}
	err = v1.Lines{List: list, Match: c.Match, Model: o.Model, Fault: take}.Read(bytes.NewReader(text), func(j tasks.Job) error {
		all = append(all, prompt{Job: j})
		return nil
	})
	var faulty *v1.LineFault
	switch {
	case errors.As(err, &faulty) && faulty.Line == 0:
		return nil, fs, usagef("%s: %s Nothing was sent.", o.File, faulty.Detail)
	case errors.As(err, &faulty):
		// What follows was not read, so no line can be left out.
		_ = take(faulty)
		all = nil
	case err != nil:
		return nil, fs, err
	}
	return all, fs, nil
}

// readText reads plain text, a prompt a line.
func readText(c *Config, o Options, text []byte) (all []prompt, fs *faults, err error) {
	number := 0
	for raw := range bytes.Lines(text) {
		number++
		if line := strings.TrimSpace(string(raw)); line != "" {
			all = append(all, c.textPrompt(o, number, line))
		}
	}
	return all, &faults{}, nil
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
