package web

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicehq/sluice/tasks"
)

const (
	mostUpload = 256<<20 + 1<<20 // bytes of a form with a file, as of a batch of the API's
	mostField  = 64 << 10        // of one field of it
	lingerTime = 30 * time.Second
)

// NewBatch is a file of prompts, and what its lines leave open.
type NewBatch struct {
	Key       string // of the form: one that is sent twice makes one batch
	Name      string // of the file
	Text      bool   // each line is a prompt, whatever the name
	Model     string // of lines that name none
	Template  string // what each row of a table asks
	MaxTokens int    // of the answers to rows and lines of text; 0: the default
	File      io.Reader
}

// Uploader takes a file in as a batch for the tenant of who while it comes, and returns the
// batch's id. What it does not take is a *[RefusedError].
type Uploader func(ctx context.Context, who Actor, n NewBatch) (id string, err error)

type uploadPage struct {
	frame
	NewBatch
	Tokens string // as typed
	Fault  string
	Lines  []FaultyLine
	More   bool
}

func (w *Web) uploadForm(rw http.ResponseWriter, _ *http.Request, v viewer) {
	w.page(rw, http.StatusOK, "upload.html", uploadPage{frame: w.frame(v, "batches"), NewBatch: NewBatch{Key: rand.Text()}})
}

// upload takes in a batch for the viewer's tenant while its file comes, and shows it. That
// the form is of this origin was seen before its body.
func (w *Web) upload(rw http.ResponseWriter, r *http.Request, v viewer) {
	body := r.Body
	r.Body = http.MaxBytesReader(rw, body, cmp.Or(w.cfg.mostUpload, mostUpload))
	page := uploadPage{frame: w.frame(v, "batches")}
	id, err := w.takeForm(r, v, &page)
	var refused *RefusedError
	switch {
	case err == nil:
		w.cfg.Log.Info("batch handed in by hand", "id", id, "subject", v.Subject, "tenant", v.Tenant)
		http.Redirect(rw, r, w.batchPath(id), http.StatusSeeOther)
		return
	case r.Context().Err() != nil:
		return
	}
	drain(body)
	rw.Header().Set("Connection", "close")
	if !errors.As(err, &refused) {
		w.refuse(rw, v, "batch", "take in", err)
		return
	}
	page.Key, page.Fault, page.Lines, page.More = rand.Text(), refused.Text, refused.Lines, refused.More
	w.page(rw, refused.Status, "upload.html", page)
}

// drain reads what is left of a body for a while: a browser shows no answer before it
// has sent all.
func drain(body io.Reader) {
	end := time.Now().Add(lingerTime)
	for time.Now().Before(end) {
		if _, err := io.CopyN(io.Discard, body, 1<<20); err != nil {
			return
		}
	}
}

// takeForm reads the form, whose file is its last field.
func (w *Web) takeForm(r *http.Request, v viewer, page *uploadPage) (id string, err error) {
	no := func(status int, text string) (string, error) {
		return "", &RefusedError{Status: status, Text: text}
	}
	if !v.is(scopeWrite) {
		return no(http.StatusForbidden, "Your token may not submit: that needs the scope jobs:write.")
	}
	parts, err := r.MultipartReader()
	if err != nil {
		return no(http.StatusUnsupportedMediaType, "This is not the form with a file: send multipart/form-data.")
	}
	for {
		part, err := parts.NextPart()
		switch {
		case errors.Is(err, io.EOF):
			return no(http.StatusBadRequest, "There is no file: choose one.")
		case err != nil:
			return "", unreadForm(err)
		case part.FormName() == "file":
			return w.takeFile(r, v, page, part)
		}
		if err := page.field(part); err != nil {
			return "", err
		}
	}
}

// unreadForm is why a form could not be read to its end.
func unreadForm(err error) error {
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return &RefusedError{Status: http.StatusRequestEntityTooLarge, Text: "The form is too long: a file may have up to 256 MiB. Send it in parts."}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &RefusedError{Status: http.StatusRequestTimeout, Text: "The file came too slowly. Send it again over a better connection, or in parts."}
	}
	return &RefusedError{Status: http.StatusBadRequest, Text: "The form could not be read to its end."}
}

// field reads one field of the form that is no file.
func (p *uploadPage) field(part *multipart.Part) error {
	b, err := io.ReadAll(io.LimitReader(part, mostField+1))
	switch {
	case err != nil:
		return unreadForm(err)
	case len(b) > mostField || !utf8.Valid(b):
		return &RefusedError{Status: http.StatusBadRequest, Text: "A field of the form is longer than 64 KiB, or no text in UTF-8."}
	}
	text := strings.TrimSpace(string(b))
	switch part.FormName() {
	case "key":
		p.Key = "console-" + text
	case "model":
		p.Model = text
	case "template":
		p.Template = strings.ReplaceAll(text, "\r\n", "\n")
	case "max_tokens":
		p.Tokens = text
	case "lines":
		p.Text = text == "text"
	}
	return nil
}

// takeFile takes in the file, once the fields before it make sense.
func (w *Web) takeFile(r *http.Request, v viewer, page *uploadPage, part *multipart.Part) (id string, err error) {
	n, file := page.NewBatch, &watched{Reader: part, good: func() error { _, err := w.who(r); return err }}
	n.Name, n.File = part.FileName(), file
	if n.Name == "" {
		return "", &RefusedError{Status: http.StatusBadRequest, Text: "There is no file: choose one."}
	}
	if page.Tokens != "" {
		if n.MaxTokens, err = strconv.Atoi(page.Tokens); err != nil || n.MaxTokens < 1 {
			return "", &RefusedError{Status: http.StatusBadRequest, Text: "Write the most tokens of an answer as a whole number, 1 or more, or leave that empty."}
		}
	}
	if len(n.Key) > mostKey || strings.ContainsFunc(n.Key, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", &RefusedError{Status: http.StatusBadRequest, Text: "The form's key is none: open the page again."}
	}
	id, err = w.cfg.Upload(r.Context(), v.via("console"), n)
	switch {
	case file.broken != nil:
		err = unreadForm(file.broken)
	case unknown(file.bad):
		err = &RefusedError{Status: http.StatusServiceUnavailable, Text: "Nobody can say whether you are still signed in, so nothing was taken in. Send the file again in a moment."}
	case file.bad != nil:
		err = &RefusedError{Status: http.StatusUnauthorized, Text: "You were signed out while the file came, so nothing was taken in. Sign in and send it again."}
	case errors.Is(err, tasks.ErrKeyReused):
		err = &RefusedError{Status: http.StatusConflict, Text: "This form was sent before, with another file: open the page again."}
	}
	return id, err
}

const mostKey = 64

// watched is a file that ends well only if who sends it may still do so by then.
type watched struct {
	io.Reader
	good   func() error
	bad    error // that he may not
	broken error // of reading it
}

func (f *watched) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	switch {
	case err == nil:
	case !errors.Is(err, io.EOF):
		f.broken = err
	default:
		if f.bad = f.good(); f.bad != nil {
			return 0, f.bad
		}
	}
	return n, err
}
