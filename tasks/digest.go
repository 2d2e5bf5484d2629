package tasks

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io"
	"slices"
	"strconv"
)

// Digest names what a job asks, in 64 hexadecimal digits: two jobs with one
// digest are the same question. It covers the model, the fallback models, the
// kind of input, the limit of output tokens, the provider headers and the body;
// not who asks, when, under which custom_id, on which line, nor the metadata.
//
// Call it on what the caller sent: the fallback list that a pool lends to a job
// without one is configuration, and not part of the question.
//
// A file of results keeps digests over releases, so the encoding never changes.
// It is the SHA-256 of these parts, each behind its length in bytes as a
// big-endian 64-bit number:
//
//	"sluice question 1"; where any of them is there, "sluice question 1 openai" and
//	OpenAI-Beta, OpenAI-Organization and OpenAI-Project
//	the model
//	the kind
//	max_tokens, in decimal
//	anthropic-version
//	anthropic-beta
//	the number of fallback models in decimal, "" when none were named
//	each fallback model
//	each token of the body's JSON, in order
//
// A token of the body is one byte and its text: 's' and a string without quotes
// and escapes, '0' and a number as it is written, 't', 'f' or 'n' for the
// literals, and one of "{}[]". So white space and the way in which a string is
// escaped do not count, which no provider sees; the order of members does, for
// a model may see that of a tool's schema.
//
// The worker's digest of an answer (package worker) is another thing: it also
// holds the tenant, the provider and the model asked in the end, counts each
// byte of the body, and may change with any release.
func (j *Job) Digest() string {
	d := digest{sha256.New()}
	named := ""
	if j.Fallback != nil {
		named = strconv.Itoa(len(j.Fallback))
	}
	begin := []string{"sluice question 1"}
	if o := j.Request.OpenAI; o != (OpenAIFields{}) {
		begin = []string{"sluice question 1 openai", o.Beta, o.Organization, o.Project}
	}
	for _, part := range slices.Concat(begin, []string{
		j.Model, string(j.Request.Kind), strconv.Itoa(j.Request.MaxTokens), j.Request.Version, j.Request.Beta, named,
	}, j.Fallback) {
		d.part("", part)
	}
	d.json(j.Request.Body)
	return hex.EncodeToString(d.Sum(nil))
}

type digest struct{ hash.Hash }

func (d digest) part(mark, text string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(mark)+len(text)))
	_, _ = d.Write(n[:])
	_, _ = io.WriteString(d, mark)
	_, _ = io.WriteString(d, text)
}

// json adds the tokens of a body. What is no JSON, which no caller can submit,
// counts byte by byte.
func (d digest) json(body []byte) {
	in := json.NewDecoder(bytes.NewReader(body))
	in.UseNumber()
	for {
		token, err := in.Token()
		switch v := token.(type) {
		case string:
			d.part("s", v)
		case json.Number:
			d.part("0", v.String())
		case json.Delim:
			d.part("", v.String())
		case bool:
			d.part("", strconv.FormatBool(v)[:1])
		case nil:
			if err == io.EOF {
				return
			}
			if err != nil {
				d.part("!", string(body))
				return
			}
			d.part("", "n")
		}
	}
}
