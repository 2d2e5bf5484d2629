// Package estimate says how many tokens a request may take before any provider
// has counted, in one place for all that has to know: the tenant's quota, the
// pool's gate, and what can never fit.
//
// It promises a figure for every body, in one pass over it, that reads of a file
// inside it only what the figure needs. It never refuses a body, never changes
// one, and knows no provider: the form of a part tells whose rule it is.
//
// # Input
//
// Text is four bytes a token, which is near the mean of English prose, and three
// for the message's own frame. A file counts by its kind and not by its bytes,
// which are base64:
//
//	part              rule
//	image, Anthropic  width*height/750, scaled to 1568 pixels a side and 1,600 tokens
//	image, OpenAI     tiles of 512 pixels or patches of 32, by the model; "detail":"low" is the base alone
//	PDF               3,000 a page: its text and its picture
//	audio             10 a second
//	text file         as text
//	by URL or id      an image 1,600, a PDF 10 pages, audio a minute
//
// Where a picture or a recording cannot be read, it counts as one by URL. What a
// figure is wrong by, the gate learns from the provider's counts, by class of call
// (see worker/limit), and the quota is settled by them when the job ends.
//
// # Output
//
// A body's own limit counts, under each name that the endpoint knows it by, times the
// answers that "n" or "best_of" asks for. Where the body has none (no member, null, 0, -1 or
// anything that is no number above 0), the model alone limits the answer, and it
// counts as what the model may produce at most: see [Most]. The gate takes no such
// figure: it expects what calls of the class were seen to produce.
//
// Sources: platform.claude.com/docs/en/build-with-claude/vision and …/pdf-support,
// developers.openai.com/api/docs/guides/images-vision and …/realtime-costs.
package estimate

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// Fill sets the estimates of a request for a model: its input tokens and, for a
// provider's own body, what the answer may have at most.
func Fill(model string, r *tasks.Request) {
	r.InputTokens = input(model, r)
	if r.Kind != tasks.Raw || r.Endpoint == tasks.Embeddings {
		return // MaxTokens says all, and an embedding has no output
	}
	out := ReadOutput(r.Endpoint, r.Body)
	limit := max(out.Limit, r.MaxTokens)
	if r.Open = limit == 0; r.Open {
		limit = Most(model)
	}
	r.OutputTokens = min(limit, mostTokens) * out.Answers
}

// The most that is counted of one limit, and of answers.
const (
	mostTokens  = 10_000_000
	mostAnswers = 128
)

// Output is what a provider's own body says of the length of its answer.
type Output struct {
	// Given are the values of its limits as they are written, without null, under
	// whichever name.
	Given []string
	// Limit is the largest that is a whole number above 0, of those whose name the
	// endpoint knows: another name is ignored there. 0: none is.
	Limit int
	// Answers is how many are asked for, at least 1.
	Answers int
}

// Agrees reports whether every limit that is given is this one.
func (o Output) Agrees(limit int) bool {
	return !slices.ContainsFunc(o.Given, func(v string) bool {
		n, err := strconv.ParseFloat(v, 64)
		return err != nil || n != float64(limit)
	})
}

// IsLimit reports whether a member is a body's limit of output tokens.
func IsLimit(name string) bool {
	return name == "max_tokens" || name == "max_completion_tokens" || name == "max_output_tokens"
}

// limits reports whether an endpoint knows a limit by this name.
func limits(e tasks.Path, name string) bool {
	return (name == "max_output_tokens") == (e == tasks.Responses)
}

// ReadOutput reads the limits of a body for an endpoint.
func ReadOutput(e tasks.Path, body []byte) Output {
	out := Output{Answers: 1}
	d := newDecoder(body)
	if tok, err := d.ReadToken(); err != nil || tok.Kind() != '{' {
		return out
	}
	for d.PeekKind() == '"' {
		key, err := d.ReadValue()
		if err != nil {
			return out
		}
		name := unquoted(key)
		v, err := d.ReadValue()
		if err != nil {
			return out
		}
		switch {
		case v.Kind() == 'n':
		case IsLimit(name):
			out.Given = append(out.Given, string(v))
			if limits(e, name) {
				out.Limit = max(out.Limit, whole(v))
			}
		case name == "n", name == "best_of":
			out.Answers = max(out.Answers, min(whole(v), mostAnswers))
		}
	}
	return out
}

// whole returns a number above 0, at most mostTokens; else 0.
func whole(v jsontext.Value) int {
	if v.Kind() != '0' {
		return 0
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || f < 1 {
		return 0
	}
	return int(min(f, mostTokens))
}

// Most is the most output tokens that a model may produce for one answer, as the
// providers publish it; 32,768 for a model that is not known.
func Most(model string) int {
	return row(models(), model).output
}

func newDecoder(body []byte) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}
