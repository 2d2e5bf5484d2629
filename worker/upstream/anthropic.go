package upstream

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// messageStream assembles an Anthropic message from its stream.
//
// Source: platform.claude.com/docs/en/build-with-claude/streaming. Members of
// an event beside the ones that carry the assembly are kept too: those of
// message_* on the message, those of content_block_* on their block.
type messageStream struct {
	onText func(string)
	onTick func(charged int64)

	obj     object
	begun   bool
	done    bool // message_stop has come
	stopped bool // a stop_reason came after all that was said
	dubious bool // it came before, too: it proves nothing
	usage   object
	final   bool // output_tokens is the whole answer's
	blocks  []element
	inputs  map[int64][]byte // the pieces of a block's input, joined
	other   *providerError   // of an event that is none of the dialect
	size    int
}

// messageEvent is one event of the stream, by the members that carry the assembly.
type messageEvent struct {
	kind             string
	index            int64
	body             []byte // message, content_block, delta or error
	usage            []byte
	extra            object
	hasIndex, failed bool
}

// readEvent reads an event; kind is its name, for one that has no type.
func readEvent(kind string, data []byte) (e messageEvent, err error) {
	err = eachMember(data, func(name string, v jsontext.Value, _, _ int) error {
		switch name {
		case "type":
			e.kind = text(v)
		case "index":
			e.index, e.hasIndex = number(v)
		case "message", "content_block", "delta", "error":
			if v.Kind() == '{' {
				e.body = v
			}
			e.failed = e.failed || name == "error" && !isNull(v)
		case "usage":
			e.usage = v
		default:
			e.extra.set(name, v)
		}
		return nil
	})
	e.kind = cmp.Or(e.kind, kind)
	e.failed = e.failed || e.kind == "error"
	return e, err
}

func (m *messageStream) event(kind string, data []byte) (done bool, err error) {
	if string(bytes.TrimSpace(data)) == "[DONE]" && m.ended() {
		return true, nil // as some servers end every stream
	}
	e, err := readEvent(kind, data)
	switch {
	case err != nil:
		return false, errMalformed
	case e.failed:
		return false, reported(data)
	}
	switch e.kind {
	case "message_start":
		err = m.start(&e)
	case "content_block_start":
		err = m.open(&e)
	case "content_block_delta", "content_block_stop":
		err = m.extend(&e)
	case "message_delta", "message_stop":
		err = m.close(&e)
		m.done = err == nil && e.kind == "message_stop"
	case "ping":
	default:
		// Of an event that this version does not know, or of another dialect: it
		// counts only if no answer comes.
		if m.other == nil {
			if _, e := judge(Anthropic, tasks.Chat, data); e != nil && e.stated {
				m.other = e
			}
		}
	}
	return m.done, err
}

// keep adds the members of extra that o does not have yet, or has as null.
func (o *object) keep(extra *object) (grown int) {
	for i := range extra.members {
		m := &extra.members[i]
		if n := o.get(m.name); n == nil || n.obj == nil && n.list == nil && isNull(n.raw) {
			grown += o.set(m.name, m.node.raw)
		}
	}
	return grown
}

func (m *messageStream) start(e *messageEvent) error {
	if m.begun || e.body == nil {
		return errMalformed
	}
	m.begun = true
	grown, err := m.obj.load(e.body)
	if err != nil {
		return errMalformed
	}
	m.size += grown + m.obj.keep(&e.extra)
	if usage := m.obj.get("usage"); usage != nil {
		if err := m.count(usage.raw, false); err != nil {
			return err
		}
		if m.onTick != nil && m.usage.get("input_tokens") != nil {
			m.onTick(m.charged())
		}
	}
	return nil
}

// close takes in what is said of the message when its content is over.
func (m *messageStream) close(e *messageEvent) error {
	if !m.begun {
		return errMalformed
	}
	if e.kind == "message_delta" && e.body != nil {
		grown, err := m.obj.load(e.body)
		if err != nil {
			return errMalformed
		}
		m.size += grown
		m.stopped = text(m.obj.raw("stop_reason")) != ""
	}
	m.size += m.obj.keep(&e.extra)
	return m.count(e.usage, true)
}

func (m *messageStream) find(index int64) *object {
	i, ok := slices.BinarySearchFunc(m.blocks, index, func(e element, index int64) int { return cmp.Compare(e.index, index) })
	if !ok {
		return nil
	}
	return m.blocks[i].obj
}

// ended reports whether the answer is whole though message_stop is missing.
func (m *messageStream) ended() bool { return m.stopped && !m.dubious }

// open begins a block.
func (m *messageStream) open(e *messageEvent) error {
	if !m.begun || e.body == nil || !e.hasIndex || m.find(e.index) != nil {
		return errMalformed
	}
	m.dubious = m.dubious || m.stopped
	block, grown, err := findElement(&m.blocks, e.index)
	if err != nil {
		return errMalformed
	}
	m.size += grown
	grown, err = block.load(e.body)
	if err != nil {
		return errMalformed
	}
	m.size += grown + block.keep(&e.extra)
	if kind := block.get("type"); kind != nil && text(kind.raw) == "text" {
		if t := block.get("text"); t != nil {
			m.say(t.raw)
		}
	}
	return nil
}

// extend adds to a block, or ends it.
func (m *messageStream) extend(e *messageEvent) error {
	block, err := m.opened(e)
	if err != nil {
		return err
	}
	m.size += block.keep(&e.extra)
	if e.kind == "content_block_stop" {
		return nil
	}
	return m.delta(e.index, block, e.body)
}

// opened returns the block of an event. A delta of text or of a thought begins
// its block where the event for that is missing.
func (m *messageStream) opened(e *messageEvent) (*object, error) {
	block := m.find(e.index)
	if !m.begun || !e.hasIndex || e.kind == "content_block_delta" && e.body == nil {
		return nil, errMalformed
	}
	m.dubious = m.dubious || m.stopped && e.kind == "content_block_delta"
	if block != nil {
		return block, nil
	}
	var delta object
	if _, err := delta.load(e.body); err != nil {
		return nil, errMalformed
	}
	var kind string
	switch text(delta.raw("type")) {
	case "text_delta":
		kind = `"text"`
	case "thinking_delta":
		kind = `"thinking"`
	default:
		return nil, errMalformed // a tool's name and id are missing
	}
	block, grown, err := findElement(&m.blocks, e.index)
	if err != nil {
		return nil, errMalformed
	}
	m.size += grown + block.set("type", []byte(kind))
	return block, nil
}

func (m *messageStream) say(raw []byte) {
	if m.onText == nil || len(raw) <= 2 {
		return
	}
	if s := text(raw); s != "" {
		m.onText(s)
	}
}

// delta adds a piece to a block. A delta of a kind that is not known here adds
// its members by the same rule as the known ones: strings and arrays grow.
func (m *messageStream) delta(index int64, block *object, body []byte) error {
	type piece struct {
		name  string
		value jsontext.Value
	}
	var kind string
	pieces := make([]piece, 0, 4)
	err := eachMember(body, func(name string, v jsontext.Value, _, _ int) error {
		if name == "type" {
			kind = text(v)
		} else {
			pieces = append(pieces, piece{name, v})
		}
		return nil
	})
	if err != nil {
		return errMalformed
	}
	for _, p := range pieces {
		switch {
		case kind == "input_json_delta" && p.name == "partial_json":
			if p.value.Kind() != '"' {
				return errMalformed
			}
			if m.inputs == nil {
				m.inputs = make(map[int64][]byte)
			}
			s := text(p.value)
			m.inputs[index] = append(m.inputs[index], s...)
			m.size += len(s)
		case kind == "citations_delta" && p.name == "citation":
			one := append(append([]byte{'['}, p.value...), ']')
			m.size += block.at("citations").join(one)
		case kind == "signature_delta" && p.name == "signature":
			m.size += block.set("signature", p.value)
		default:
			m.size += block.at(p.name).join(p.value)
			if kind == "text_delta" && p.name == "text" {
				m.say(p.value)
			}
		}
	}
	return nil
}

// count takes in a usage object.
func (m *messageStream) count(usage []byte, final bool) error {
	if isNull(usage) {
		return nil
	}
	err := eachMember(usage, func(name string, v jsontext.Value, _, _ int) error {
		n, counted := number(v)
		if final && name == "output_tokens" && counted {
			m.final = true
		}
		// A null, and a zero from a server that does not know, undo no count.
		if old := m.usage.get(name); old != nil && (isNull(v) || counted && n == 0 && count(old.raw) > 0) {
			return nil
		}
		m.size += m.usage.set(name, v)
		return nil
	})
	if err != nil {
		return errMalformed
	}
	return nil
}

func (m *messageStream) tokens(name string) int64 {
	if n := m.usage.get(name); n != nil {
		return count(n.raw)
	}
	return 0
}

// charged is the input that counts against the limit: cache reads do not.
// Source: platform.claude.com/docs/en/api/rate-limits.
func (m *messageStream) charged() int64 {
	return m.tokens("input_tokens") + m.tokens("cache_creation_input_tokens")
}

func (m *messageStream) counted() (tasks.Usage, int64, bool) {
	return tasks.Usage{
		InputTokens:              m.tokens("input_tokens"),
		OutputTokens:             m.tokens("output_tokens"),
		CacheReadInputTokens:     m.tokens("cache_read_input_tokens"),
		CacheCreationInputTokens: m.tokens("cache_creation_input_tokens"),
	}, m.charged(), m.final
}

// served reads the tier, and which tokens were written to the cache for an hour.
// Source: platform.claude.com/docs/en/api/service-tiers.
func (m *messageStream) served() (s tasks.Served) {
	if tier := m.usage.get("service_tier"); tier != nil {
		s.Tier = tasks.Tier(text(tier.raw))
	}
	if kept := m.usage.get("cache_creation"); kept != nil && jsontext.Value(kept.raw).Kind() == '{' {
		_ = eachMember(kept.raw, func(name string, v jsontext.Value, _, _ int) error { // read once already
			if name == "ephemeral_1h_input_tokens" {
				s.Hour = count(v)
			}
			return nil
		})
	}
	return s
}

func (m *messageStream) grown() int { return m.size }

func (m *messageStream) instead() *providerError { return m.other }

func (m *messageStream) result() ([]byte, error) {
	if !m.done && !m.ended() {
		return nil, errMalformed
	}
	for i := range m.blocks {
		input, ok := m.inputs[m.blocks[i].index]
		if !ok || len(bytes.TrimSpace(input)) == 0 {
			continue
		}
		m.blocks[i].obj.set("input", completed(input))
	}
	content := m.obj.at("content")
	content.raw = nil
	content.list = m.blocks
	if content.list == nil {
		content.raw = []byte("[]")
	}
	if len(m.usage.members) > 0 {
		usage := m.obj.at("usage")
		usage.raw = nil
		usage.obj = &m.usage
	}
	if kind := m.obj.get("type"); kind == nil || isNull(kind.raw) {
		m.obj.set("type", []byte(`"message"`)) // the event's name said so
	}
	return m.obj.appendTo(nil), nil
}

// completed returns input as it is when it is JSON. An answer that stopped at
// max_tokens may have cut it short; then it is closed where it broke off.
func completed(input []byte) []byte {
	if jsontext.Value(input).IsValid(lenient) {
		return bytes.TrimSpace(input)
	}
	var out bytes.Buffer
	dec := jsontext.NewDecoder(bytes.NewReader(input), lenient)
	enc := jsontext.NewEncoder(&out, lenient)
	var name *jsontext.Token // an object's name waits for its value
	for {
		t, err := dec.ReadToken()
		if err != nil {
			break
		}
		if kind, n := dec.StackIndex(dec.StackDepth()); t.Kind() == '"' && kind == '{' && n%2 == 1 {
			held := t.Clone()
			name = &held
			continue
		}
		if name != nil {
			if enc.WriteToken(*name) != nil {
				break
			}
			name = nil
		}
		if enc.WriteToken(t) != nil {
			break
		}
	}
	for enc.StackDepth() > 0 {
		end := jsontext.EndArray
		if kind, _ := enc.StackIndex(enc.StackDepth()); kind == '{' {
			end = jsontext.EndObject
		}
		if enc.WriteToken(end) != nil {
			break
		}
	}
	closed := bytes.TrimSpace(out.Bytes())
	if !jsontext.Value(closed).IsValid(lenient) {
		return []byte("{}")
	}
	return closed
}
