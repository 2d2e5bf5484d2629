package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"

	apidesk "github.com/sluicehq/sluice/api/desk"
	apifault "github.com/sluicehq/sluice/api/fault"
	v1 "github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/cmd/sluice/drain"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/web"
)

// startBytes are looked at to tell what the lines of a file are.
const startBytes = 64 << 10

// upload takes a file of the console's in as a batch: its lines are told apart as sluice
// run does, and taken in as the API does.
func (c *consoleJobs) upload(ctx context.Context, who web.Actor, n web.NewBatch) (string, error) {
	u := &v1.Upload{
		Caller: apidesk.Caller{Tenant: who.Tenant, Subject: who.Subject, Models: who.Models, Pools: who.Pools},
		Key:    n.Key, Model: n.Model, Template: n.Template, MaxTokens: n.MaxTokens,
	}
	if err := open(u, n); err != nil {
		return "", err
	}
	b, err := c.api.TakeBatch(ctx, u)
	var faulty *v1.FaultyLines
	switch {
	case err == nil:
		return b.ID, nil
	case errors.As(err, &faulty):
		refused := &web.RefusedError{Status: http.StatusBadRequest, Text: "Nothing was taken in: there are lines that nobody can be asked.", More: faulty.More}
		for _, l := range faulty.Lines {
			refused.Lines = append(refused.Lines, web.FaultyLine{Line: l.Line, Text: l.Detail})
		}
		return "", refused
	case ctx.Err() != nil, errors.Is(err, tasks.ErrUnknown), errors.Is(err, tasks.ErrKeyReused):
		return "", err
	}
	kind, f := apifault.Classify(err)
	if kind.Status >= 500 && kind.Code == apifault.Internal {
		return "", err
	}
	return "", &web.RefusedError{Status: kind.Status, Text: f.Detail}
}

// open finds out what the lines of a file are.
func open(u *v1.Upload, n web.NewBatch) error {
	no := func(text string) error { return &web.RefusedError{Status: http.StatusBadRequest, Text: text} }
	file, name := bufio.NewReaderSize(n.File, startBytes), n.Name
	if strings.EqualFold(filepath.Ext(name), ".gz") {
		z, err := gzip.NewReader(file)
		if err != nil {
			return no("The file's name ends in .gz, and it is not gzip.")
		}
		file, name = bufio.NewReaderSize(z, startBytes), strings.TrimSuffix(name, filepath.Ext(name))
	}
	start, err := file.Peek(startBytes)
	switch end := bytes.LastIndexByte(start, '\n'); {
	case len(start) == 0 && !errors.Is(err, io.EOF):
		return no("The file could not be read to its end: send it again.")
	case len(start) == startBytes && end >= 0:
		start = start[:end+1] // its last line may be cut
	}
	u.File = file
	if n.Text {
		u.Text = true
	} else {
		form, fault := drain.Recognize(name, start, n.Template)
		if fault != "" {
			return no(fault)
		}
		u.List, u.Text, u.Comma = form.List, form.Text, form.Comma
	}
	if u.Model == "" && (u.Text || u.Comma != 0) {
		return no("Name the model: the lines of this file name none, and none is picked.")
	}
	if u.Comma == 0 && u.Template != "" {
		return no("What each row asks is for tables, and this file is none: leave that empty, or name the file .csv or .tsv.")
	}
	return nil
}
