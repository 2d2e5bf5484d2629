package drain

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/sluicehq/sluice/tasks"
)

// The vendors' forms of a line of results.
//
// Sources: developers.openai.com/api/docs/guides/batch (output file),
// platform.claude.com/docs/en/api/retrieving-message-batch-results.

type openAILine struct {
	ID       string          `json:"id"`
	CustomID string          `json:"custom_id"`
	Response *openAIResponse `json:"response"`
	Error    *openAIError    `json:"error"`
}

type openAIResponse struct {
	StatusCode int             `json:"status_code"`
	RequestID  string          `json:"request_id"`
	Body       json.RawMessage `json:"body"`
}

type openAIError struct {
	Code    tasks.ErrorCode `json:"code"`
	Message string          `json:"message"`
}

type anthropicLine struct {
	CustomID string          `json:"custom_id"`
	Result   anthropicResult `json:"result"`
}

type anthropicResult struct {
	Type    string          `json:"type"`
	Message json.RawMessage `json:"message,omitempty"`
	Error   *anthropicError `json:"error,omitempty"`
}

type anthropicError struct {
	Type  string `json:"type"`
	Error struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	} `json:"error"`
}

// vendorLine is a row in a vendor's form.
func vendorLine(format string, row []byte) ([]byte, error) {
	var in struct {
		ID       string          `json:"id"`
		CustomID string          `json:"custom_id"`
		Status   tasks.Status    `json:"status"`
		Result   json.RawMessage `json:"result"`
		Error    *tasks.JobError `json:"error"`
	}
	if err := json.Unmarshal(row, &in); err != nil {
		return nil, err
	}
	if in.Error == nil {
		in.Error = &tasks.JobError{}
	}
	var line any
	if format == "openai" {
		out := openAILine{ID: in.ID, CustomID: in.CustomID}
		if in.Result != nil && string(in.Result) != "null" {
			out.Response = &openAIResponse{http.StatusOK, in.ID, in.Result}
		}
		if in.Status != tasks.StatusSucceeded {
			out.Error = &openAIError{in.Error.Code, in.Error.Message}
		}
		line = out
	} else {
		out := anthropicLine{CustomID: in.CustomID}
		switch in.Status {
		case tasks.StatusSucceeded:
			out.Result.Type, out.Result.Message = "succeeded", in.Result
		case tasks.StatusCanceled, tasks.StatusExpired:
			out.Result.Type = string(in.Status)
		default:
			out.Result.Type, out.Result.Error = "errored", &anthropicError{Type: "error"}
			out.Result.Error.Error.Type, out.Result.Error.Error.Message = "api_error", in.Error.Message
			if in.Error.Code == tasks.UpstreamRejected {
				out.Result.Error.Error.Type = "invalid_request_error"
			}
		}
		line = out
	}
	return jsonLine(line)
}

// vendorLines reports whether something is lines in a vendor's form; the last may
// have been cut off by a crash.
func vendorLines(format string, b []byte) bool {
	for raw := range bytes.Lines(b) {
		var line struct {
			CustomID *string         `json:"custom_id"`
			Response json.RawMessage `json:"response"`
			Result   json.RawMessage `json:"result"`
			Status   json.RawMessage `json:"status"` // of our own rows
		}
		err := json.Unmarshal(raw, &line)
		switch {
		case err != nil && !bytes.HasSuffix(raw, []byte("\n")):
			return bytes.HasPrefix(raw, []byte(`{"`))
		case err != nil, line.CustomID == nil, line.Status != nil,
			format == "openai" && line.Response == nil, format == "anthropic" && line.Result == nil:
			return false
		}
	}
	return true
}

// checkFormat refuses a vendor that there is not, and what its lines cannot say.
func (o *Options) checkFormat() error {
	switch o.Format {
	case "":
		return nil
	case "openai", "anthropic":
	default:
		return usagef("--format %s: there are openai and anthropic", o.Format)
	}
	if o.Samples > 0 {
		return usagef("--samples and --format exclude one another: a line of %s does not say which sample it is", o.Format)
	}
	return nil
}
