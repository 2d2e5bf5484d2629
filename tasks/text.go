package tasks

import (
	"encoding/json"
	"strings"
)

// ResultText returns the text of a provider's answer, joined: the text blocks of
// an Anthropic message; or the content of every choice of an OpenAI completion, a
// string or the text parts of a list, with the refusal that stands in its place; or
// the text and the refusals of an OpenAI response's messages. It is "" for anything else.
func ResultText(result []byte) string {
	var body struct {
		Content json.RawMessage `json:"content"`
		Choices []struct {
			Message struct {
				Content json.RawMessage `json:"content"`
				Refusal json.RawMessage `json:"refusal"`
			} `json:"message"`
		} `json:"choices"`
		Output json.RawMessage `json:"output"`
	}
	if json.Unmarshal(result, &body) != nil {
		return ""
	}
	var b strings.Builder
	writeText(&b, body.Content)
	for _, choice := range body.Choices {
		writeText(&b, choice.Message.Content)
		writeText(&b, choice.Message.Refusal)
	}
	var output []struct {
		Content json.RawMessage `json:"content"`
	}
	_ = json.Unmarshal(body.Output, &output) // what is no list has no text
	for _, item := range output {
		writeText(&b, item.Content)
	}
	return b.String()
}

// writeText writes a string, or the text of a list of parts.
func writeText(b *strings.Builder, v json.RawMessage) {
	var s string
	if json.Unmarshal(v, &s) == nil {
		b.WriteString(s)
		return
	}
	var parts []json.RawMessage
	_ = json.Unmarshal(v, &parts) // what is no list has no text
	for _, raw := range parts {
		var part struct {
			Type    string `json:"type"`
			Text    string `json:"text"`
			Refusal string `json:"refusal"`
		}
		if json.Unmarshal(raw, &part) != nil {
			continue
		}
		switch part.Type {
		case "text", "output_text":
			b.WriteString(part.Text)
		case "refusal":
			b.WriteString(part.Refusal)
		}
	}
}

// EstimateTokens guesses how many input tokens a request body of n bytes
// costs, before any provider has counted: four bytes a token, which is near
// the mean of English prose, and three for the message's own frame. The gate
// learns the true ratio from the provider's counts. What is no text, and what may
// come out, is package estimate's.
func EstimateTokens(n int) int { return n/4 + 3 }
