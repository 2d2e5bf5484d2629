package trace

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Sampler says which traces have spans. The zero Sampler is parentbased_always_on.
type Sampler struct {
	alone bool   // the caller's decision does not count
	none  bool   // of what no caller has begun
	below uint64 // of what no caller has begun, the ids whose last 63 bits are below it; 0: all
}

// ParseSampler reads OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG; both may be "".
func ParseSampler(name, arg string) (s Sampler, err error) {
	name, arg = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(arg)
	root, ofParent := strings.CutPrefix(name, "parentbased_")
	s.alone = name != "" && !ofParent
	switch {
	case name == "", root == "always_on":
	case root == "always_off":
		s.none = true
	case root == "traceidratio":
		share := 1.0
		if arg != "" {
			if share, err = strconv.ParseFloat(arg, 64); err != nil || !(share >= 0 && share <= 1) {
				return Sampler{}, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG: %q is no share from 0 to 1", arg)
			}
		}
		if share < 1 {
			s.below = uint64(share * (1 << 63))
			s.none = s.below == 0
		}
	default:
		return Sampler{}, fmt.Errorf("OTEL_TRACES_SAMPLER: %q is none of always_on, always_off, traceidratio and these with parentbased_ before them", name)
	}
	return s, nil
}

// samples reports whether a trace is sampled, which a caller may have begun.
func (s Sampler) samples(trace [16]byte, caller parent) bool {
	if caller.is && !s.alone {
		return caller.sampled
	}
	return !s.none && (s.below == 0 || binary.BigEndian.Uint64(trace[8:])>>1 < s.below)
}

// parent is the span of a caller that a traceparent names.
type parent struct {
	trace   [16]byte
	span    [8]byte
	sampled bool
	is      bool // there is one
}

// parentOf reads a traceparent header (https://www.w3.org/TR/trace-context/#traceparent-header).
// What is none, is as good as no header.
func parentOf(header string) (p parent) {
	const version0 = len("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	if len(header) < version0 || header[2] != '-' || header[35] != '-' || header[52] != '-' || strings.ToLower(header[:version0]) != header[:version0] {
		return p
	}
	var version, flags [1]byte
	for _, part := range []struct {
		to   []byte
		from string
	}{{version[:], header[:2]}, {p.trace[:], header[3:35]}, {p.span[:], header[36:52]}, {flags[:], header[53:version0]}} {
		if _, err := hex.Decode(part.to, []byte(part.from)); err != nil {
			return parent{}
		}
	}
	switch {
	case version[0] == 0xff, p.trace == [16]byte{}, p.span == [8]byte{}:
		return parent{}
	case version[0] == 0 && len(header) != version0, len(header) > version0 && header[version0] != '-':
		return parent{}
	}
	p.sampled, p.is = flags[0]&flagSampled != 0, true
	return p
}
