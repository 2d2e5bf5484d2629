package fake

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
)

// The paths that OpenAI alone has.
const (
	responses  = "responses"
	embeddings = "embeddings"
)

// ownResponse is the form of the ids that the provider gives its responses.
var ownResponse = regexp.MustCompile(`^resp_[0-9a-f]{32}$`)

// readInput takes in a question to one of these paths, and returns what is wrong with
// it, or "".
func (q *question) readInput(in *form) (flaw string) {
	switch {
	case in.model == "":
		return "Missing required parameter: 'model'."
	case len(in.input) == 0:
		return "Missing required parameter: 'input'."
	case in.messages != nil:
		return "Unknown parameter: 'messages'."
	case in.background != nil && string(in.background) != "false":
		return "This provider answers in the foreground."
	case in.stream && q.path == embeddings:
		return "Unknown parameter: 'stream'."
	}
	if q.path == embeddings {
		return q.readEmbedded(in)
	}
	if in.maxTokens != nil || in.maxCompletionTokens != nil {
		return "Unsupported parameter: use 'max_output_tokens' instead."
	}
	if in.previous != "" && !ownResponse.MatchString(in.previous) {
		return "Previous response with id '" + in.previous + "' not found."
	}
	if !q.readItems(in.input) {
		return "Invalid type for 'input'."
	}
	system, _ := contentText(in.instructions)
	q.text = system + "\n" + q.text
	q.tokens += countTokens(q.text)
	return q.bound(in)
}

// readItems takes in the input of a response: a text, or a list of messages.
func (q *question) readItems(input json.RawMessage) bool {
	if json.Unmarshal(input, &q.last) == nil {
		q.text = q.last
		return true
	}
	var items []struct {
		Role    string
		Content json.RawMessage
	}
	if json.Unmarshal(input, &items) != nil || len(items) == 0 {
		return false
	}
	var all []string
	for _, item := range items {
		text, extra := contentText(item.Content)
		q.tokens += extra + 4
		if all = append(all, text); item.Role == "user" {
			q.last = text
		}
	}
	q.text = strings.Join(all, "\n")
	return true
}

// readEmbedded takes in what is to be embedded: texts, or tokens.
func (q *question) readEmbedded(in *form) (flaw string) {
	var list []json.RawMessage
	var tokens []int
	switch {
	case json.Unmarshal(in.input, &q.last) == nil:
		q.inputs = 1
	case json.Unmarshal(in.input, &tokens) == nil && len(tokens) > 0:
		q.inputs, q.last = 1, string(in.input)
	case json.Unmarshal(in.input, &list) == nil && len(list) > 0 && len(list) <= 2048:
		q.inputs, q.last = len(list), string(in.input)
	default:
		return "'$.input' is invalid."
	}
	if q.dimensions = 8; in.dimensions != nil {
		q.dimensions = *in.dimensions
	}
	if q.dimensions < 1 || q.dimensions > 4096 {
		return "Invalid value for 'dimensions'."
	}
	switch q.base64 = in.encodingFormat == "base64"; in.encodingFormat {
	case "", "float", "base64":
	default:
		return "Invalid value for 'encoding_format'."
	}
	q.text, q.tokens, q.maxTokens = q.last, countTokens(q.last), 1
	return ""
}

type responseSpeaker struct {
	openAISpeaker
	n    int    // events so far
	said string // text so far
}

// event appends an event with the next number; rest begins with a comma.
func (s *responseSpeaker) event(b []byte, kind, rest string) []byte {
	b = fmt.Appendf(b, "event: %s\ndata: {\"type\":%q,\"sequence_number\":%d%s}\n\n", kind, kind, s.n, rest)
	s.n++
	return b
}

func (s *responseSpeaker) id() string { return strings.TrimPrefix(s.c.RequestID, "req_") }

// outputText is a part of the message's content.
func outputText(text string) string {
	return string(appendString([]byte(`{"type":"output_text","annotations":[],"logprobs":[],"text":`), text)) + "}"
}

func (s *responseSpeaker) item(status, parts string) string {
	return fmt.Sprintf(`{"type":"message","id":"msg_%s","status":%q,"role":"assistant","content":[%s]}`, s.id(), status, parts)
}

// place is where the text of the message stands.
func (s *responseSpeaker) place() string {
	return fmt.Sprintf(`,"item_id":"msg_%s","output_index":0,"content_index":0`, s.id())
}

func (s *responseSpeaker) open() []byte {
	started := `,"response":` + string(s.response("in_progress", "", 0))
	b := s.event(nil, "response.created", started)
	b = s.event(b, "response.in_progress", started)
	b = s.event(b, "response.output_item.added", `,"output_index":0,"item":`+s.item("in_progress", ""))
	return s.event(b, "response.content_part.added", s.place()+`,"part":`+outputText(""))
}

func (s *responseSpeaker) piece(text string) []byte {
	s.said += text
	return s.event(nil, "response.output_text.delta", s.place()+string(appendString([]byte(`,"delta":`), text))+`,"logprobs":[]`)
}

func (s *responseSpeaker) close() []byte {
	b := s.event(nil, "response.output_text.done", s.place()+string(appendString([]byte(`,"text":`), s.said))+`,"logprobs":[]`)
	b = s.event(b, "response.content_part.done", s.place()+`,"part":`+outputText(s.said))
	b = s.event(b, "response.output_item.done", `,"output_index":0,"item":`+s.item("completed", outputText(s.said)))
	kind := "response.completed"
	if s.p.cutOff {
		kind = "response.incomplete"
	}
	return s.event(b, kind, `,"response":`+string(s.whole()))
}

func (s *responseSpeaker) fail() []byte {
	return s.event(nil, "error", `,"code":"server_error","message":"The server had an error while processing your request.","param":null`)
}

func (s *responseSpeaker) whole() []byte {
	status := "completed"
	if s.p.cutOff {
		status = "incomplete"
	}
	return s.response(status, s.item("completed", outputText(strings.Join(s.p.tokens, ""))), len(s.p.tokens))
}

// response is a response of that status with so many tokens of output.
func (s *responseSpeaker) response(status, output string, out int) []byte {
	b := fmt.Appendf(nil, `{"id":"resp_%s","object":"response","created_at":%d,"status":%q,"incomplete_details":`, s.id(), s.at, status)
	if status == "incomplete" {
		b = append(b, `{"reason":"max_output_tokens"}`...)
	} else {
		b = append(b, "null"...)
	}
	b = appendString(append(b, `,"error":null,"background":false,"model":`...), s.q.model)
	b = fmt.Appendf(b, `,"output":[%s],"parallel_tool_calls":true,"tool_choice":"auto","tools":[],"metadata":{},"usage":`, output)
	if out == 0 {
		return append(b, "null}"...)
	}
	in := s.q.tokens
	return fmt.Appendf(b, `{"input_tokens":%d,"input_tokens_details":{"cached_tokens":0},"output_tokens":%d,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":%d}}`, in, out, in+out)
}

type embeddingSpeaker struct{ openAISpeaker }

func (s *embeddingSpeaker) whole() []byte {
	b := []byte(`{"object":"list","data":[`)
	for i := range s.q.inputs {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"object":"embedding","index":%d,"embedding":`, i)
		b = append(s.numbers(b, i), '}')
	}
	b = appendString(append(b, `],"model":`...), s.q.model)
	return fmt.Appendf(b, `,"usage":{"prompt_tokens":%d,"total_tokens":%d}}`, s.q.tokens, s.q.tokens)
}

// numbers appends the embedding of one input: a direction that its text, its place and
// the model give.
func (s *embeddingSpeaker) numbers(b []byte, place int) []byte {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s\n%d\n%s", s.q.model, place, s.q.text)
	dice := rand.New(rand.NewPCG(uint64(place), h.Sum64()))
	numbers, sum := make([]float64, s.q.dimensions), 0.0
	for i := range numbers {
		numbers[i] = dice.NormFloat64()
		sum += numbers[i] * numbers[i]
	}
	var packed []byte
	for i, n := range numbers {
		f := float32(n / math.Sqrt(sum))
		if s.q.base64 {
			packed = binary.LittleEndian.AppendUint32(packed, math.Float32bits(f))
			continue
		}
		b = append(b, "[,"[min(i, 1)])
		b = strconv.AppendFloat(b, float64(f), 'g', -1, 32)
	}
	if s.q.base64 {
		return append(base64.StdEncoding.AppendEncode(append(b, '"'), packed), '"')
	}
	return append(b, ']')
}
