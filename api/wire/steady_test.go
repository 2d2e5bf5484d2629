package wire

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// drip is a body whose bytes come in pieces, with time between them, and that
// keeps to the deadline that was set.
type drip struct {
	piece, left int
	every       time.Duration
	by          time.Time
}

func (d *drip) Close() error { return nil }

func (d *drip) Read(p []byte) (int, error) {
	wait := d.every
	if !d.by.IsZero() && time.Until(d.by) < wait {
		<-time.After(time.Until(d.by))
		return 0, os.ErrDeadlineExceeded
	}
	<-time.After(wait)
	if d.left == 0 {
		return 0, io.EOF
	}
	n := min(d.piece, d.left, len(p))
	d.left -= n
	return n, nil
}

func TestHowSlowABodyMayBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		piece, size int
		every       time.Duration // between pieces
		think       time.Duration // of the reader, between reads
		cut         bool
		least, most time.Duration // when it is over
	}{
		"as fast as asked":         {piece: 1200, size: 120_000, every: time.Second},
		"in lumps":                 {piece: 16 << 10, size: 1 << 20, every: 14 * time.Second},
		"a short one, slowly":      {piece: 1, size: 10, every: time.Second},
		"a reader that is slow":    {piece: 1 << 20, size: 20 << 20, every: time.Second, think: time.Minute},
		"one byte in two seconds":  {piece: 1, size: 1000, every: 2 * time.Second, cut: true, least: 15 * time.Second, most: 15 * time.Second},
		"half as fast as asked":    {piece: 512, size: 120_000, every: time.Second, cut: true, least: 15 * time.Second, most: 15 * time.Second},
		"a mebibyte, then silence": {piece: 1 << 20, size: 2 << 20, every: 20 * time.Second, cut: true, least: 15 * time.Second, most: 15 * time.Second},
		"a silent one":             {piece: 1, size: 1, every: time.Hour, cut: true, least: 15 * time.Second, most: 15 * time.Second},
		"for more than an hour":    {piece: 2048, size: 1 << 30, every: time.Second, cut: true, least: time.Hour, most: time.Hour + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := &drip{piece: c.piece, left: c.size, every: c.every}
				s := &steady{ReadCloser: d, deadline: func(by time.Time) error { d.by = by; return nil }, pace: pace{end: time.Now().Add(longest)}}
				began, buf := time.Now(), make([]byte, 1<<20)
				var got bytes.Buffer
				for {
					n, err := s.Read(buf)
					got.Write(buf[:n])
					if err == nil {
						<-time.After(c.think)
						continue
					}
					if cut := errors.Is(err, os.ErrDeadlineExceeded); cut != c.cut {
						t.Errorf("after %s and %d of %d bytes: %v", time.Since(began), got.Len(), c.size, err)
					}
					break
				}
				if took := time.Since(began); c.cut && (took < c.least || took > c.most) {
					t.Errorf("it was cut after %s, want %s to %s", took, c.least, c.most)
				}
				if !c.cut && (got.Len() != c.size || !d.by.IsZero()) {
					t.Errorf("%d of %d bytes came; the deadline left is %s", got.Len(), c.size, d.by)
				}
				if n := len(s.pace.last); n > 200 {
					t.Errorf("%d arrivals are remembered", n)
				}
			})
		})
	}
}
