package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// spec is the described API.
type spec struct {
	doc     *openapi3.T
	router  routers.Router
	schemas *schemas
}

var loadSpec = sync.OnceValues(func() (spec, error) {
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	if err != nil {
		return spec{}, err
	}
	if err := doc.Validate(context.Background()); err != nil {
		return spec{}, err
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		return spec{}, err
	}
	s := &schemas{compiler: jsonschema.NewCompiler(), known: map[*openapi3.SchemaRef]*jsonschema.Schema{}}
	s.compiler.DefaultDraft(jsonschema.Draft2020)
	s.compiler.AssertFormat()
	return spec{doc, router, s}, s.add("openapi.json", doc)
})

// schemas are those of openapi.yaml, each compiled when it is first asked for: all
// tests hold thousands of answers to them, and to compile one takes a hundred times as
// long as to hold an answer to it.
type schemas struct {
	mu       sync.Mutex
	compiler *jsonschema.Compiler
	known    map[*openapi3.SchemaRef]*jsonschema.Schema
}

// add has the compiler know a document by a name.
func (s *schemas) add(name string, doc any) error {
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(bytes.ReplaceAll(text, []byte(`"#/components/`), []byte(`"openapi.json#/components/`))))
	if err != nil {
		return err
	}
	return s.compiler.AddResource(name, v)
}

// holds checks a value, as encoding/json or jsonschema reads one, against a schema.
func (s *schemas) holds(ref *openapi3.SchemaRef, v any) error {
	schema, err := s.compile(ref)
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

func (s *schemas) compile(ref *openapi3.SchemaRef) (*jsonschema.Schema, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.known[ref]; known != nil {
		return known, nil
	}
	name := fmt.Sprintf("schema-%d.json", len(s.known))
	if err := s.add(name, ref); err != nil {
		return nil, err
	}
	schema, err := s.compiler.Compile(name)
	if err == nil {
		s.known[ref] = schema
	}
	return schema, err
}

// answers checks an answer to a request of a route: its status, headers and body.
func (s spec) answers(o *openapi3.Operation, r reply) error {
	described := o.Responses.Status(r.StatusCode)
	if described == nil {
		described = o.Responses.Default()
	}
	if described == nil {
		return errors.New("the status is not described")
	}
	var faults []error
	for name, header := range described.Value.Headers {
		values := r.Header.Values(name)
		switch {
		case len(values) > 0:
			if err := s.schemas.holds(header.Value.Schema, written(header.Value.Schema, strings.Join(values, ", "))); err != nil {
				faults = append(faults, fmt.Errorf("the header %s, %q: %w", name, values, err))
			}
		case header.Value.Required:
			faults = append(faults, fmt.Errorf("no header %s", name))
		}
	}
	if len(described.Value.Content) == 0 {
		return errors.Join(faults...)
	}
	media := described.Value.Content.Get(r.Header.Get("Content-Type"))
	switch {
	case media == nil:
		faults = append(faults, fmt.Errorf("the content type %q is not described", r.Header.Get("Content-Type")))
	case media.Schema != nil:
		v, err := body(r)
		if err != nil {
			return errors.Join(append(faults, err)...)
		}
		if err := s.schemas.holds(media.Schema, v); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// written is the value of a header.
func written(schema *openapi3.SchemaRef, text string) any {
	if schema.Value.Type.Is("integer") {
		return json.Number(text)
	}
	return text
}

// body is what an answer holds: JSON and YAML as they are read, all else as text.
func body(r reply) (any, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return nil, err
	case kind == "application/json", strings.HasSuffix(kind, "+json"):
		return jsonschema.UnmarshalJSON(bytes.NewReader(r.body))
	case kind == "application/yaml":
		v := map[string]any{}
		return v, yaml.Unmarshal(r.body, &v)
	}
	return string(r.body), nil
}
