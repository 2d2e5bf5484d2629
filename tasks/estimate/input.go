package estimate

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// What a part counts as.
const (
	imageTokens  = 1600 // of one by URL or id, or that cannot be read
	pageTokens   = 3000
	pagesByURL   = 10
	secondTokens = 10
	secondsByURL = 60
	bytesPerPage = 50_000 // of a document whose pages cannot be counted
	maxDepth     = 200    // levels of a body that are looked at
)

func input(model string, r *tasks.Request) int {
	c := counter{model: row(models(), model), body: r.Body, text: len(r.Body)}
	if r.Kind != tasks.Text && HasFiles(r.Body) {
		_, _ = c.value(newDecoder(r.Body), "", 0) // as far as it can be read
	}
	return tasks.EstimateTokens(c.text) + c.files
}

// HasFiles reports whether a body may hold a file or name one: most do not, and
// are not read for it.
func HasFiles(body []byte) bool {
	for _, sign := range [...]string{`"data`, `_data"`, `url"`, `file_id"`} {
		if bytes.Contains(body, []byte(sign)) {
			return true
		}
	}
	return false
}

// counter counts one body.
type counter struct {
	model model
	body  []byte
	text  int // bytes that are no file
	files int // tokens of files
}

// part is what an object of a body says of a file.
type part struct {
	kind      string // its "type"
	mediaType string
	format    string // of a recording
	detail    string // of a picture
	data      []byte // a JSON string with the file, perhaps as a data URL
	named     bool   // the file is named by URL or id
}

// value consumes a value and counts the files in it. What an object names without
// saying what it is, is the matter of the object around it.
func (c *counter) value(d *jsontext.Decoder, within string, depth int) (part, error) {
	switch kind := d.PeekKind(); {
	case kind == '{' && depth < maxDepth:
		return c.object(d, within, depth+1)
	case kind == '[' && depth < maxDepth:
		return part{}, c.list(d, depth+1)
	}
	return part{}, d.SkipValue()
}

func (c *counter) list(d *jsontext.Decoder, depth int) error {
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != ']' {
		if _, err := c.value(d, "", depth); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

func (c *counter) object(d *jsontext.Decoder, within string, depth int) (p part, err error) {
	if _, err := d.ReadToken(); err != nil {
		return p, err
	}
	for d.PeekKind() != '}' {
		key, err := d.ReadValue()
		if err != nil {
			return p, err
		}
		name := unquoted(key)
		if d.PeekKind() != '"' {
			inner, err := c.value(d, name, depth)
			if err != nil {
				return p, err
			}
			p.named = p.named || inner.named
			continue
		}
		v, err := d.ReadValue()
		if err != nil {
			return p, err
		}
		end := int(d.InputOffset())
		p.member(name, c.body[end-len(v):end])
	}
	if p.data != nil {
		c.file(&p)
	} else if n := byReference(p.kind); p.named && n > 0 && within != "source" { // whose type is how it is named
		c.files += n
		p.named = false
	}
	_, err = d.ReadToken()
	return p, err
}

// member takes note of a member that is a string. Only the last of a name counts,
// as with most readers.
func (p *part) member(name string, v jsontext.Value) {
	switch name {
	case "type":
		p.kind = unquoted(v)
	case "media_type":
		p.mediaType = unquoted(v)
	case "format":
		p.format = unquoted(v)
	case "detail":
		p.detail = unquoted(v)
	case "data", "file_data":
		p.data = v
	case "url", "image_url", "file_url", "audio_url", "file_id":
		if bytes.HasPrefix(v, []byte(`"data:`)) {
			p.data = v
		} else {
			p.named = true
		}
	}
}

// file counts the file that a part holds. Data of which nothing says that it is a
// file is text.
func (c *counter) file(p *part) {
	text := p.data[1 : len(p.data)-1] // a file is long, and nothing in it needs an escape
	if bytes.IndexByte(text, '\\') >= 0 {
		text, _ = jsontext.AppendUnquote(nil, p.data)
	}
	media, ours := p.mediaType, p.mediaType != ""
	if rest, ok := bytes.CutPrefix(text, []byte("data:")); ok {
		head, data, _ := bytes.Cut(rest, []byte(","))
		if media, ok = strings.CutSuffix(string(head), ";base64"); !ok {
			return
		}
		text, ours = data, false
	}
	if media == "" && p.format != "" {
		media = "audio/" + p.format
	}
	if media == "" || p.kind == "text" { // a source of Anthropic's that is plain text
		return
	}
	n := base64.StdEncoding.DecodedLen(len(text))
	switch family, _, _ := strings.Cut(media, "/"); {
	case family == "image":
		c.files += c.model.picture(decoded(text), p.detail, ours)
	case family == "audio":
		c.files += secondTokens * seconds(decoded(text), media, n)
	case family == "text":
		c.files += tasks.EstimateTokens(n)
	case media == "application/pdf":
		c.files += pageTokens * pages(decoded(text), n)
	default:
		c.files += pageTokens * max(1, n/bytesPerPage)
	}
	c.text -= len(p.data)
}

// byReference is what a part counts as whose file is somewhere else; 0 for a part
// that is no file.
func byReference(kind string) int {
	switch kind {
	case "image", "image_url", "input_image":
		return imageTokens
	case "document", "file", "input_file":
		return pagesByURL * pageTokens
	case "audio", "input_audio", "audio_url":
		return secondsByURL * secondTokens
	}
	return 0
}

// decoded reads the bytes of base64, as far as it is any.
func decoded(text []byte) *bufio.Reader {
	return bufio.NewReader(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(text)))
}

// unquoted returns the text of a JSON string.
func unquoted(v jsontext.Value) string {
	text, _ := jsontext.AppendUnquote(nil, v)
	return string(text)
}
