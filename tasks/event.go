package tasks

import "slices"

// EventType is the type of an event, which webhooks tell.
type EventType string

// The events. They are part of the public contract. The scripts of tasks/store
// spell them a second time.
const (
	EventJobSucceeded     EventType = "job.succeeded"
	EventJobFailed        EventType = "job.failed"
	EventJobCanceled      EventType = "job.canceled"
	EventJobExpired       EventType = "job.expired"
	EventBatchCompleted   EventType = "batch.completed"
	EventPoolPaused       EventType = "pool.paused"
	EventPoolResumed      EventType = "pool.resumed"
	EventEndpointDisabled EventType = "endpoint.disabled"
)

// EventEndpointTest is sent on request only; nobody subscribes to it.
const EventEndpointTest EventType = "endpoint.test"

// EventTypes lists every event that can be subscribed to.
func EventTypes() []EventType {
	return []EventType{
		EventJobSucceeded, EventJobFailed, EventJobCanceled, EventJobExpired, EventBatchCompleted,
		EventPoolPaused, EventPoolResumed, EventEndpointDisabled,
	}
}

// Valid reports whether an endpoint can subscribe to t.
func (t EventType) Valid() bool { return slices.Contains(EventTypes(), t) }
