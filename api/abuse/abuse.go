// Package abuse watches how tenants behave: it keeps, for each, keyed hashes and sums of its
// submits, and tells what is out of the ordinary by named rules, each with its window and its
// measure.
//
// It promises that no content is kept or can be read from what is kept, that one signal alone
// never leads to an action, and that a tenant's own past counts only once there is one. It is not
// the judge of intent: a paraphrase by a model looks new to every rule here, and a job that is
// done for the first time, much and all alike, looks like a stolen key. Therefore it is watched
// first and acted upon where an operator has asked for that.
package abuse
