package upstream

import (
	"bytes"
	"cmp"

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

	obj    object
	begun  bool
	done   bool
	usage  object
	final  bool // output_tokens is the whole answer's
	blocks []element
	inputs map[int64][]byte // the pieces of a block's input, joined
	other  *providerError   // of an event that is none of the dialect
	size   int
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
			if _, e := judge(Anthropic, data); e != nil && e.stated {
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
	}
	m.size += m.obj.keep(&e.extra)
	return m.count(e.usage, true)
}

func (m *messageStream) find(index int64) *object {
	for i := range m.blocks {
		if m.blocks[i].index == index {
			return m.blocks[i].obj
		}
	}
	return nil
}

// open begins a block.
func (m *messageStream) open(e *messageEvent) error {
	if !m.begun || e.body == nil || !e.hasIndex || m.find(e.index) != nil {
		return errMalformed
	}
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
	block := m.find(e.index)
	if block == nil || !e.hasIndex || e.kind == "content_block_delta" && e.body == nil {
		return errMalformed
	}
	m.size += block.keep(&e.extra)
	if e.kind == "content_block_stop" {
		return nil
	}
	return m.delta(e.index, block, e.body)
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

// count takes in a usage object. A null in a later one does not undo a number.
func (m *messageStream) count(usage []byte, final bool) error {
	if isNull(usage) {
		return nil
	}
	err := eachMember(usage, func(name string, v jsontext.Value, _, _ int) error {
		if old := m.usage.get(name); old != nil && isNull(v) {
			return nil
		}
		m.size += m.usage.set(name, v)
		if final && name == "output_tokens" {
			m.final = true
		}
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

func (m *messageStream) grown() int { return m.size }

func (m *messageStream) instead() *providerError { return m.other }

func (m *messageStream) result() ([]byte, error) {
	if !m.done {
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
