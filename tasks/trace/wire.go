package trace

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sluicehq/sluice/tasks"
)

// span is one that has ended.
type span struct {
	trace  [16]byte
	id     [8]byte
	parent [8]byte // zero: it is the first of its trace
	remote bool    // another process may have made its parent
	name   string
	kind   kind
	from   time.Time
	to     time.Time
	failed bool
	of     *tasks.Job // whose it is; nil: not said
}

// kind is a SpanKind of OpenTelemetry's.
type kind uint64

const (
	internal kind = 1
	server   kind = 2
	client   kind = 3
	consumer kind = 5
)

// attr is an attribute: a text, a number or a list of texts.
type attr struct {
	key    string
	text   string
	number int64
	list   []string
	what   protowire.Number // the field of its value
}

// The fields of a value, see below.
const (
	valueText   protowire.Number = 1
	valueNumber protowire.Number = 3
	valueList   protowire.Number = 5
)

// text is left out when it is empty.
func text(key, value string) attr { return attr{key: key, text: value, what: valueText} }

func number(key string, value int64) attr {
	return attr{key: key, number: value, what: valueNumber}
}

func texts(key string, values []string) attr { return attr{key: key, list: values, what: valueList} }

// The fields of a message ScopeSpans and of those in it, see
// https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
// and common.proto beside it. A test reads them with OpenTelemetry's own package.
const (
	scopeSpans protowire.Number = 2

	spanTrace      protowire.Number = 1
	spanID         protowire.Number = 2
	spanParent     protowire.Number = 4
	spanName       protowire.Number = 5
	spanKind       protowire.Number = 6
	spanFrom       protowire.Number = 7
	spanTo         protowire.Number = 8
	spanAttributes protowire.Number = 9
	spanLinks      protowire.Number = 13
	spanStatus     protowire.Number = 15
	spanFlags      protowire.Number = 16

	linkTrace protowire.Number = 1
	linkSpan  protowire.Number = 2
	linkFlags protowire.Number = 6

	statusCode protowire.Number = 3

	attrKey    protowire.Number = 1
	attrValue  protowire.Number = 2
	listValues protowire.Number = 1
)

const (
	codeError     = 2     // of a status
	flagSampled   = 1     // as in a traceparent
	flagHasRemote = 0x100 // it is said whether the parent is remote
	flagIsRemote  = 0x200
)

// append appends the span as a field of a message ScopeSpans.
func (s *span) append(b []byte, attrs []attr) []byte {
	var room [768]byte
	in := room[:0]
	in = protowire.AppendTag(in, spanTrace, protowire.BytesType)
	in = protowire.AppendBytes(in, s.trace[:])
	in = protowire.AppendTag(in, spanID, protowire.BytesType)
	in = protowire.AppendBytes(in, s.id[:])
	if s.parent != [8]byte{} {
		in = protowire.AppendTag(in, spanParent, protowire.BytesType)
		in = protowire.AppendBytes(in, s.parent[:])
	}
	in = appendText(in, spanName, s.name)
	in = protowire.AppendTag(in, spanKind, protowire.VarintType)
	in = protowire.AppendVarint(in, uint64(s.kind))
	in = protowire.AppendTag(in, spanFrom, protowire.Fixed64Type)
	in = protowire.AppendFixed64(in, uint64(s.from.UnixNano()))
	in = protowire.AppendTag(in, spanTo, protowire.Fixed64Type)
	in = protowire.AppendFixed64(in, uint64(s.to.UnixNano()))
	if s.of != nil {
		for _, a := range [...]attr{text("sluice.job", s.of.ID), text("sluice.tenant", s.of.Tenant), text("sluice.batch", s.of.Batch)} {
			in = a.append(in)
		}
	}
	for i := range attrs {
		in = attrs[i].append(in)
	}
	if s.of != nil && s.parent == [8]byte{} {
		in = appendLink(in, s.of)
	}
	if s.failed {
		in = protowire.AppendTag(in, spanStatus, protowire.BytesType)
		in = protowire.AppendVarint(in, uint64(protowire.SizeTag(statusCode)+protowire.SizeVarint(codeError)))
		in = protowire.AppendTag(in, statusCode, protowire.VarintType)
		in = protowire.AppendVarint(in, codeError)
	}
	flags := uint32(flagSampled | flagHasRemote)
	if s.remote {
		flags |= flagIsRemote
	}
	in = protowire.AppendTag(in, spanFlags, protowire.Fixed32Type)
	in = protowire.AppendFixed32(in, flags)

	b = protowire.AppendTag(b, scopeSpans, protowire.BytesType)
	return protowire.AppendBytes(b, in)
}

// appendLink appends a link to the submit of a job's batch, if it has one.
func appendLink(b []byte, j *tasks.Job) []byte {
	trace, submit, ok := j.TracedBatch()
	if !ok {
		return b
	}
	b = protowire.AppendTag(b, spanLinks, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(protowire.SizeTag(linkTrace)+protowire.SizeBytes(len(trace))+
		protowire.SizeTag(linkSpan)+protowire.SizeBytes(len(submit))+protowire.SizeTag(linkFlags)+protowire.SizeFixed32()))
	b = protowire.AppendTag(b, linkTrace, protowire.BytesType)
	b = protowire.AppendBytes(b, trace[:])
	b = protowire.AppendTag(b, linkSpan, protowire.BytesType)
	b = protowire.AppendBytes(b, submit[:])
	b = protowire.AppendTag(b, linkFlags, protowire.Fixed32Type)
	return protowire.AppendFixed32(b, flagSampled|flagHasRemote|flagIsRemote)
}

// append appends the attribute as a field of a message Span.
func (a *attr) append(b []byte) []byte {
	var size int // of the value's message
	switch a.what {
	case valueText:
		if a.text == "" {
			return b
		}
		a.text = valid(a.text)
		size = sizeText(valueText, a.text)
	case valueNumber:
		size = protowire.SizeTag(valueNumber) + protowire.SizeVarint(uint64(a.number))
	case valueList:
		size = protowire.SizeTag(valueList) + protowire.SizeBytes(sizeList(a.list))
	}
	b = protowire.AppendTag(b, spanAttributes, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(sizeText(attrKey, a.key)+protowire.SizeTag(attrValue)+protowire.SizeBytes(size)))
	b = appendText(b, attrKey, a.key)
	b = protowire.AppendTag(b, attrValue, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	switch a.what {
	case valueText:
		b = appendText(b, valueText, a.text)
	case valueNumber:
		b = protowire.AppendTag(b, valueNumber, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(a.number))
	case valueList:
		b = protowire.AppendTag(b, valueList, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(sizeList(a.list)))
		for _, s := range a.list {
			b = protowire.AppendTag(b, listValues, protowire.BytesType)
			b = protowire.AppendVarint(b, uint64(sizeText(valueText, s)))
			b = appendText(b, valueText, s)
		}
	}
	return b
}

// valid is a text that every reader takes: one that is no UTF-8 would have a whole batch of
// spans refused. A provider writes its requests' ids.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func appendText(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func sizeText(field protowire.Number, s string) int {
	return protowire.SizeTag(field) + protowire.SizeBytes(len(s))
}

func sizeList(list []string) (size int) {
	for _, s := range list {
		size += protowire.SizeTag(listValues) + protowire.SizeBytes(sizeText(valueText, s))
	}
	return size
}

// SpanID returns an id for a span that is made later.
func SpanID() (id [8]byte) {
	for id == [8]byte{} {
		binary.BigEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}
