package upstream

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// userOf is what the provider is told of whose a job is: 32 hexadecimal digits, from which
// nobody without the key can tell who it is. "": nothing.
func (p *Provider) userOf(owner string) string {
	if p.UserKey == nil || owner == "" {
		return ""
	}
	h := hmac.New(sha256.New, p.UserKey)
	h.Write([]byte(owner))
	return fmt.Sprintf("%x", h.Sum(nil)[:16])
}

// toldUser has the provider told whom the request is for, where its caller has named nobody.
// Sources: docs.anthropic.com/en/api/messages (metadata.user_id);
// developers.openai.com/api/docs/guides/safety-best-practices (safety_identifier, in place of "user").
func (q *Question) toldUser(p *Provider) []edit {
	switch {
	case q.user == "":
		return nil
	case p.Dialect == Anthropic:
		return []edit{{"metadata", q.inMetadata}}
	case q.request.Endpoint != tasks.Chat && q.request.Endpoint != tasks.Responses, !isNull(q.raw.value("user")):
		return nil
	}
	return []edit{{"safety_identifier", q.unlessNamed}}
}

// inMetadata is Anthropic's metadata with a user.
func (q *Question) inMetadata(old jsontext.Value) []byte {
	switch old.Kind() {
	case '{':
		l, _ := lay(old) // read once already
		return l.splice([]edit{{"user_id", q.unlessNamed}})
	case 'n', 0:
		l := layout{data: []byte("{}"), last: 1}
		return l.splice([]edit{{"user_id", q.unlessNamed}})
	}
	return old // for the provider to refuse
}

func (q *Question) unlessNamed(old jsontext.Value) []byte {
	if isNull(old) {
		return appendString(nil, q.user)
	}
	return old
}
