// Package webhook builds, signs and sends webhooks by the Standard Webhooks
// specification, version 1.0.0, and verifies them for receivers of ours.
//
// [Sender.Send] makes one attempt through a [Guard], with a body from [JobEvent],
// [BatchEvent], [PoolEvent] or [EndpointDisabledEvent]. [Verify] is the receiver's side.
//
// It promises that a body is signed as the very bytes that are sent, that one
// attempt takes at most the configured time whatever the receiver does, that no
// more than a fixed amount of an answer is ever read, and that an address is
// judged at the moment it is dialled, after every name has been resolved.
//
// It never follows a redirect, never uses a proxy of the environment, never
// decompresses an answer, never dials an address that [Guard] refuses, and never
// names an address, a secret, a body or a URL in an error, a metric or a log: a
// sender that says what it reached is a port scanner. It decides when an attempt
// is repeated ([Next]) but repeats nothing itself, and it keeps no record.
//
// The specification is standard-webhooks.md of
// github.com/standard-webhooks/standard-webhooks.
package webhook
