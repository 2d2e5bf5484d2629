package tasks

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
)

// OwnTrace is the [Job.Trace] of a job whose trace began with its submit.
const OwnTrace = "-"

// CallersTrace is the [Job.Trace] of a job whose caller had begun a trace.
func CallersTrace(id [16]byte) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// Traced is the trace of the job's spans and the id of the span of its submit, which is
// their parent; false: it is not traced. Both are made of the job's id, so that the record
// need not keep them. A job of a batch has a trace of its own, without a submit in it: one
// of 100,000 lines would be more than anybody can look at. See [Job.TracedBatch].
func (j *Job) Traced() (trace [16]byte, submit [8]byte, ok bool) {
	if j.Batch == "" {
		return submitted(j.ID, j.Trace)
	}
	if _, _, ok = j.TracedBatch(); ok {
		trace, _, _ = submitted(j.ID, OwnTrace)
	}
	return trace, submit, ok
}

// TracedBatch is the span of the submit of the job's batch, which the job's own trace is
// linked to; false: it has no batch, or is not traced.
func (j *Job) TracedBatch() (trace [16]byte, submit [8]byte, ok bool) {
	if j.Batch == "" {
		return trace, submit, false
	}
	return submitted(j.Batch, j.Trace)
}

// submitted is the span of the submit of a job or a batch, kept being its [Job.Trace].
func submitted(id, kept string) (trace [16]byte, submit [8]byte, ok bool) {
	if kept == "" {
		return trace, submit, false
	}
	sum := sha256.Sum256([]byte(id))
	copy(trace[:], sum[:])
	copy(submit[:], sum[len(trace):])
	if kept != OwnTrace {
		theirs, err := base64.RawURLEncoding.DecodeString(kept)
		if err != nil || len(theirs) != len(trace) {
			return trace, submit, false // of a release after this one
		}
		copy(trace[:], theirs)
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
