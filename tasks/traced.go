package tasks

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
)

// OwnTrace is the [Job.Trace] of a job whose trace began with its submit.
const OwnTrace = "-"

// CallersTrace is the [Job.Trace] of a job whose caller had begun a trace.
func CallersTrace(id [16]byte) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// Traced is the trace of the job's spans and the id of the span of its submit, or of its
// batch's, which is their parent; false: it is not traced. Both are made of the id of what was submitted, so
// that the record need not keep them.
func (j *Job) Traced() (trace [16]byte, submit [8]byte, ok bool) {
	if j.Trace == "" {
		return trace, submit, false
	}
	sum := sha256.Sum256([]byte(cmp.Or(j.Batch, j.ID)))
	copy(trace[:], sum[:])
	copy(submit[:], sum[len(trace):])
	if j.Trace != OwnTrace {
		id, err := base64.RawURLEncoding.DecodeString(j.Trace)
		if err != nil || len(id) != len(trace) {
			return trace, submit, false // of a release after this one
		}
		copy(trace[:], id)
	}
	return trace, submit, true
}

// TraceID is the id of the job's trace in hexadecimal digits, as logs have it; "": it is
// not traced.
func (j *Job) TraceID() string {
	trace, _, ok := j.Traced()
	if !ok {
		return ""
	}
	return hex.EncodeToString(trace[:])
}
