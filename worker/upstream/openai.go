package upstream

import (
	"bytes"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// completionStream assembles an OpenAI chat completion from its chunks.
//
// Source: developers.openai.com/api/docs/api-reference/chat-streaming. The
// member "obfuscation" pads a chunk to a length and is part of no answer.
type completionStream struct {
	onText func(string)
	onTick func(charged int64)

	obj     object
	choices []element
	ends    map[int64]*ending // of the choices, by index
	most    int64             // choices that were asked for
	usage   []byte
	said    bool // onText has been told something
	closed  bool // [DONE] has come
	size    int
}

// ending is what shows that a choice is whole.
type ending struct {
	told    bool // a finish_reason came with or after all that was said
	dubious bool // it came before, too: it proves nothing
}

func (c *completionStream) event(_ string, data []byte) (done bool, err error) {
	if string(bytes.TrimSpace(data)) == "[DONE]" {
		c.closed = true
		return true, nil
	}
	failed := false
	err = eachMember(data, func(name string, v jsontext.Value, _, _ int) error {
		switch name {
		case "error":
			failed = failed || !isNull(v)
		case "choices":
			if isNull(v) {
				return nil
			}
			return eachElement(v, c.choice)
		case "usage":
			c.count(v)
		case "object":
			c.size += c.obj.set("object", []byte(`"chat.completion"`))
		case "obfuscation":
		default:
			if old := c.obj.get(name); old == nil || !isNull(v) {
				c.size += c.obj.set(name, v)
			}
		}
		return nil
	})
	if failed {
		return false, reported(data)
	}
	if err != nil {
		return false, errMalformed
	}
	return false, nil
}

// choice adds one chunk's part of a choice.
func (c *completionStream) choice(data jsontext.Value) error {
	var index int64
	var part choice
	if err := eachMember(data, func(name string, v jsontext.Value, _, _ int) error {
		switch name {
		case "index":
			index, _ = number(v)
		case "finish_reason":
			part.finish = v
		case "delta", "message":
			if v.Kind() == '{' {
				part.message = v
			}
		case "usage": // as Moonshot has it
			c.count(v)
		}
		return nil
	}); err != nil {
		return err
	}
	choice, grown, err := findElement(&c.choices, index)
	if err != nil {
		return err
	}
	c.size += grown
	if grown > 0 {
		// The order in which the API answers.
		choice.set("index", []byte("0"))
		choice.at("message").obj = new(object)
		choice.set("logprobs", []byte("null"))
		choice.set("finish_reason", []byte("null"))
		c.size += 64
	}
	c.mark(index, part)
	return eachMember(data, func(name string, v jsontext.Value, _, _ int) error {
		switch name {
		case "delta", "message", "logprobs":
			if v.Kind() != '{' {
				return nil
			}
			grown, err := c.extend(choice, name, v, index == 0 && c.onText != nil)
			c.size += grown
			return err
		}
		if old := choice.get(name); old == nil || !isNull(v) {
			c.size += choice.set(name, v)
		}
		return nil
	})
}

// mark notes what a part of a choice shows of its end.
func (c *completionStream) mark(index int64, part choice) {
	e := c.ends[index]
	if e == nil {
		if c.ends == nil {
			c.ends = make(map[int64]*ending)
		}
		e = new(ending)
		c.ends[index] = e
	}
	if e.told && part.message != nil && speaks(part.message) {
		e.told, e.dubious = false, true
	}
	e.told = e.told || text(part.finish) != ""
}

// ended reports whether the answer is whole though [DONE] is missing: every
// choice has said how it ended, after all else that it said.
func (c *completionStream) ended() bool {
	for _, e := range c.ends {
		if !e.told || e.dubious {
			return false
		}
	}
	return len(c.ends) > 0 && int64(len(c.ends)) >= c.most
}

// extend adds an object to what a choice has so far; heard is true when
// somebody listens to its text.
func (c *completionStream) extend(choice *object, name string, v jsontext.Value, heard bool) (grown int, err error) {
	switch name {
	case "delta":
		if heard {
			c.say(v)
		}
		return choice.at("message").obj.merge(v, 0)
	case "message":
		// The whole of it, as some servers send in place of deltas, or after them.
		if heard && !c.said {
			c.say(v)
		}
		n := choice.at("message")
		before := len(n.appendTo(nil))
		n.obj = new(object)
		grown, err := n.obj.load(v)
		return grown - before, err
	}
	n := choice.at(name)
	if n.obj == nil {
		n.obj, n.raw = new(object), nil
	}
	return n.obj.merge(v, 0)
}

func (c *completionStream) say(delta []byte) {
	// A fault of the JSON shows when the delta is merged.
	_ = eachMember(delta, func(name string, v jsontext.Value, _, _ int) error {
		if name == "content" {
			eachText(v, c.tell)
		}
		return nil
	})
}

func (c *completionStream) tell(s string) {
	if s != "" {
		c.said = true
		c.onText(s)
	}
}

// sayRest tells what could not be told as it came, in the order of the result:
// refusals, and all choices but the first.
func (c *completionStream) sayRest() {
	for _, choice := range c.choices {
		message := choice.obj.get("message").obj
		if content := message.get("content"); content != nil && choice.index != 0 {
			eachText(content.appendTo(nil), c.tell)
		}
		c.tell(text(message.raw("refusal")))
	}
}

// eachText calls f with each piece of text of a content, a string or a list of parts.
func eachText(content jsontext.Value, f func(string)) {
	if content.Kind() != '[' {
		f(text(content))
		return
	}
	_ = eachElement(content, func(part jsontext.Value) error { // the JSON was read once already, or will be
		var kind, words string
		_ = eachMember(part, func(name string, v jsontext.Value, _, _ int) error { // as above
			switch name {
			case "type":
				kind = text(v)
			case "text":
				words = text(v)
			}
			return nil
		})
		if kind == "text" {
			f(words)
		}
		return nil
	})
}

// count takes in a usage object; the last one counts.
func (c *completionStream) count(usage jsontext.Value) {
	if usage.Kind() == '{' {
		c.size += len(usage) - len(c.usage)
		c.usage = append(c.usage[:0], usage...)
	}
}

func (c *completionStream) counted() (tasks.Usage, int64, bool) {
	return chatUsage.read(c.usage)
}

func (c *completionStream) served() tasks.Served {
	if tier := c.obj.get("service_tier"); tier != nil {
		return servedAt(tier.raw)
	}
	return tasks.Served{}
}

// servedAt reads OpenAI's word for the service tier of an answer.
// Source: developers.openai.com/api/docs/guides/flex-processing.
func servedAt(tier jsontext.Value) tasks.Served { return tasks.Served{Tier: tasks.Tier(text(tier))} }

// usageNames are the members of a usage object of OpenAI's. The count has come with sure.
type usageNames struct {
	input           []string
	details, output string
	sure            []string
}

var (
	chatUsage = usageNames{
		input: []string{"prompt_tokens"}, details: "prompt_tokens_details", output: "completion_tokens", sure: []string{"completion_tokens"},
	}
	// Of responses, and of embeddings, which have no output.
	otherUsage = usageNames{
		input: []string{"input_tokens", "prompt_tokens"}, details: "input_tokens_details", output: "output_tokens", sure: []string{"input_tokens", "prompt_tokens"},
	}
)

// read reads a usage object. The provider counts cached tokens as part of the prompt,
// and against its limits.
func (n *usageNames) read(data jsontext.Value) (u tasks.Usage, charged int64, ok bool) {
	if data.Kind() != '{' {
		return u, 0, false
	}
	err := eachMember(data, func(name string, v jsontext.Value, _, _ int) error {
		if slices.Contains(n.sure, name) {
			_, ok = number(v)
		}
		switch {
		case slices.Contains(n.input, name):
			charged = count(v)
		case name == n.output:
			u.OutputTokens = count(v)
		case name == n.details && v.Kind() == '{':
			return eachMember(v, func(name string, v jsontext.Value, _, _ int) error {
				if name == "cached_tokens" {
					u.CacheReadInputTokens = count(v)
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return tasks.Usage{}, 0, false
	}
	u.CacheReadInputTokens = min(u.CacheReadInputTokens, charged)
	u.InputTokens = charged - u.CacheReadInputTokens
	return u, charged, ok
}

func (c *completionStream) grown() int { return c.size }

func (c *completionStream) result() ([]byte, error) {
	if !c.closed && !c.ended() {
		return nil, errMalformed
	}
	if c.onText != nil {
		c.sayRest()
	}
	result := c.assembled()
	if c.onTick != nil {
		if _, charged, ok := c.counted(); ok {
			c.onTick(charged)
		}
	}
	return result, nil
}

func (c *completionStream) instead() *providerError {
	body := c.assembled()
	if _, e := judge(OpenAI, tasks.Chat, body); e != nil && e.stated {
		return e
	}
	if e := stated(body, ""); e.stated {
		return e
	}
	return nil
}

// assembled returns the completion as far as it has come.
func (c *completionStream) assembled() []byte {
	for _, choice := range c.choices {
		if message := choice.obj.get("message").obj; message.get("content") == nil {
			message.set("content", []byte("null"))
		}
	}
	list := c.obj.at("choices")
	list.raw, list.list = nil, c.choices
	if c.usage != nil {
		c.obj.set("usage", c.usage)
	}
	return c.obj.appendTo(nil)
}
