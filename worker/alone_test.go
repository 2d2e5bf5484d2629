package worker

import (
	"context"
	"testing"
)

// A job that its workers die of takes no other call with it.
func TestWhoRunsAloneWaitsForAllAndKeepsAllOut(t *testing.T) {
	t.Parallel()
	c := newCompany()
	leave, ok := c.enter()
	if !ok || c.closed() {
		t.Fatal("an empty room is closed")
	}
	left := c.leaving()
	alone := make(chan func())
	go func() {
		open, _ := c.alone(t.Context())
		alone <- open
	}()
	<-left // those that make no call yet are to leave
	select {
	case <-alone:
		t.Fatal("a job runs alone beside another")
	default:
	}
	if _, ok := c.enter(); ok || !c.closed() {
		t.Error("a job was let in while another waits to run alone")
	}
	if _, ok := c.alone(t.Context()); ok {
		t.Error("two run alone")
	}
	leave()
	open := <-alone
	open()
	if leave, ok = c.enter(); !ok || c.closed() {
		t.Error("nobody is let in after the one that ran alone")
	}
	// A stop ends the waiting, and the others are let in again.
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, ok := c.alone(ctx); ok || c.closed() {
		t.Error("a stop did not end the waiting")
	}
	leave()
}
