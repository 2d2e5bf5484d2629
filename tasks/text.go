package tasks

import (
	"encoding/json"
	"strings"
)

// ResultText returns the text of a provider's answer, joined: the text blocks
// of an Anthropic message, or the first choice's content of an OpenAI chat
// completion. It returns "" for a body that holds none.
//
// Sources: platform.claude.com/docs/en/api/messages (content blocks),
// developers.openai.com/api/docs (chat completion object).
func ResultText(result []byte) string {
	var body struct {
		Content []struct {
			Type string `json:"type"`
			Text string `json:"text"`
		} `json:"content"`
		Choices []struct {
			Message struct {
				Content json.RawMessage `json:"content"`
			} `json:"message"`
		} `json:"choices"`
	}
	if json.Unmarshal(result, &body) != nil {
		return ""
	}
	var b strings.Builder
	for _, block := range body.Content {
		if block.Type == "text" {
			b.WriteString(block.Text)
		}
	}
	if len(body.Choices) > 0 {
		var s string
		if json.Unmarshal(body.Choices[0].Message.Content, &s) == nil {
			b.WriteString(s)
		}
	}
	return b.String()
}

// EstimateTokens guesses how many input tokens a request body of n bytes
// costs, before any provider has counted: four bytes a token, which is near
// the mean of English prose, and three for the message's own frame. The gate
// learns the true ratio from the provider's counts. What is no text, and what may
// come out, is package estimate's.
func EstimateTokens(n int) int { return n/4 + 3 }
