package auth

import "strings"

// providerKey is why what looks like a provider's own API key is refused: somebody has
// changed an SDK's base URL and not its key. ok is false for anything else. Only the
// form is looked at, and nothing of the key is kept or told.
func providerKey(raw string) (why reason, ok bool) {
	rest, ok := strings.CutPrefix(raw, "sk-")
	if !ok || strings.Contains(raw, ".") { // a compact JWS has dots, and these keys have none
		return reason{}, false
	}
	text := "this is a key of OpenAI's form, not a token of this server: send a Sluice token, and have the operator put the provider's key into the configuration"
	if strings.HasPrefix(rest, "ant-") {
		text = "this is a key of Anthropic, not a token of this server: send a Sluice token, and have the operator put the provider's key into the configuration"
	}
	return reason{reasonProvider, text}, true
}
