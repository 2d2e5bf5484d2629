package worker

import (
	"context"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream"
)

const (
	// eventsEvery is the shortest time between two writes of a running attempt's events.
	eventsEvery = 10 * time.Millisecond
	// eventsWithin is how long the last events of an answer may keep its end from the record.
	eventsWithin = 2 * time.Second
	// eventsWaiting is how many bytes of events a call holds that Redis does not take.
	eventsWaiting = 8 << 20
)

// events writes the events of a running attempt for a caller who streams, all that have
// come together: the provider's connection is read on meanwhile. What waits here is
// bounded: of an answer that comes past that nothing more is told, and it has no end.
type events struct {
	texts  Texts
	ticket tasks.Ticket
	call   int

	mu   sync.Mutex
	wait []byte        // not written yet
	away int           // bytes that are being written: they wait again if that fails
	lost bool          // more came than may wait
	come chan struct{} // something waits

	sent int  // bytes written, as the record counts them
	told bool // some may have been told to the caller while no end of them was known
	over chan struct{}
	done chan struct{}
}

// stream begins to write the events of a call. It is to be finished.
func (a *attempt) stream(ctx context.Context) *events {
	e := &events{texts: a.w.c.Texts, ticket: a.ticket, call: a.started.Call, come: make(chan struct{}, 1), over: make(chan struct{}), done: make(chan struct{})}
	go e.run(ctx)
	return e
}

// streamEnd is how the events of a call have ended.
func streamEnd(answer upstream.Answer) tasks.StreamEnd {
	switch {
	case !answer.Streamed:
		return tasks.StreamOpen
	case answer.Outcome == tasks.Succeeded:
		return tasks.StreamWhole
	}
	return tasks.StreamFailed
}

// add takes the next event; it is called from one goroutine.
func (e *events) add(raw []byte) {
	e.mu.Lock()
	if e.lost = e.lost || len(e.wait)+e.away > eventsWaiting; !e.lost {
		e.wait = append(e.wait, raw...)
	}
	e.mu.Unlock()
	select {
	case e.come <- struct{}{}:
	default:
	}
}

func (e *events) run(ctx context.Context) {
	defer close(e.done)
	for {
		select {
		case <-e.come:
		case <-e.over:
			return
		}
		if !e.write(ctx, tasks.StreamOpen) {
			return
		}
		pause := time.NewTimer(eventsEvery)
		select {
		case <-pause.C:
		case <-e.over:
			pause.Stop()
			return
		}
	}
}

// write writes what waits, and reports whether that makes sense any longer. After an
// error it is written with what comes next.
func (e *events) write(ctx context.Context, end tasks.StreamEnd) bool {
	e.mu.Lock()
	out := e.wait
	e.wait, e.away = nil, len(out)
	e.mu.Unlock()
	e.told = e.told || len(out) > 0 && end == tasks.StreamOpen
	size, taken, err := e.texts.AppendEvents(ctx, e.ticket, e.call, e.sent, out, end)
	e.mu.Lock()
	e.away = 0
	if err != nil {
		e.wait = append(out, e.wait...)
	}
	e.mu.Unlock()
	if err == nil {
		e.sent += size
		return taken
	}
	select {
	case e.come <- struct{}{}:
	default:
	}
	return ctx.Err() == nil
}

// finish writes what is left, once nothing more comes, and how that ends. A caller whose events are lost gets the answer by its job's end.
func (e *events) finish(ctx context.Context, end tasks.StreamEnd) {
	close(e.over)
	<-e.done
	if e.lost {
		end = tasks.StreamOpen
	}
	if end == tasks.StreamOpen && len(e.wait) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), eventsWithin)
	defer cancel()
	for e.write(ctx, end) {
		e.mu.Lock()
		left := len(e.wait)
		e.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-time.After(eventsEvery):
		case <-ctx.Done():
			return
		}
	}
}
