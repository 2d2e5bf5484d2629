package wire

import (
	"hash/fnv"
	"net/http"
	"strconv"
	"strings"
)

// JSON writes an answer.
func JSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// ETag is a strong entity tag of a small answer.
func ETag(body []byte) string {
	h := fnv.New64a()
	_, _ = h.Write(body)
	return `"` + strconv.FormatUint(h.Sum64(), 36) + `"`
}

// Matches reports whether If-None-Match names the entity tag. Comparison is
// weak (RFC 9110, 13.1.2): a proxy that compresses makes a strong tag weak.
func Matches(h http.Header, etag string) bool {
	etag = strings.TrimPrefix(etag, "W/")
	for _, field := range h["If-None-Match"] {
		for tag := range strings.SplitSeq(field, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == etag || tag == "*" || strings.Replace(tag, `-gzip"`, `"`, 1) == etag { // Apache's compression marks them so
				return true
			}
		}
	}
	return false
}
