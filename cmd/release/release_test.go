package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var commit = time.Date(2026, 11, 28, 1, 2, 3, 0, time.UTC)

// The same files make the same archive, whenever they were written.
func TestAnArchiveIsReproducible(t *testing.T) {
	t.Parallel()
	var made [2][]byte
	for i := range made {
		dir := t.TempDir()
		files := map[string]string{}
		for _, name := range []string{"sluice", "README.md"} {
			files[name] = filepath.Join(dir, name)
			if err := os.WriteFile(files[name], []byte("of "+name), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(files[name], time.Time{}, commit.Add(time.Duration(i)*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		to := filepath.Join(dir, "a.tar.gz")
		if err := archive(to, files, commit); err != nil {
			t.Fatal(err)
		}
		var err error
		if made[i], err = os.ReadFile(to); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(made[0], made[1]) {
		t.Error("two archives of the same files differ")
	}
	zip, err := gzip.NewReader(bytes.NewReader(made[0]))
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]int64{}
	for pack := tar.NewReader(zip); ; {
		h, err := pack.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(pack)
		if err != nil || string(b) != "of "+h.Name || !h.ModTime.Equal(commit) {
			t.Errorf("%s of %s: %q, %v", h.Name, h.ModTime, b, err)
		}
		modes[h.Name] = h.Mode
	}
	if len(modes) != 2 || modes["sluice"] != 0o755 || modes["README.md"] != 0o644 {
		t.Errorf("modes %v", modes)
	}
}

// A program of Go says itself what it was built of: this one, for a test.
func TestTheBillNamesEachModule(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := sbom(program, "sluice-test", "1.2.3", commit)
	if err != nil {
		t.Fatal(err)
	}
	var b bill
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	own := b.Metadata.Component
	if b.Format != "CycloneDX" || b.Spec != "1.6" || b.Metadata.Timestamp != "2026-11-28T01:02:03Z" || own.Version != "1.2.3" || len(own.Hashes) != 1 || len(own.Hashes[0].Content) != 64 {
		t.Errorf("%+v", b.Metadata)
	}
	if len(b.Dependencies) != 1 || len(b.Dependencies[0].On) != len(b.Components) || b.Dependencies[0].Ref != own.Ref {
		t.Errorf("%+v", b.Dependencies)
	}
	refs := map[string]bool{}
	for _, c := range b.Components {
		if refs[c.Ref] || c.Version == "" || !strings.HasPrefix(c.PURL, "pkg:golang/") {
			t.Errorf("%+v", c)
		}
		refs[c.Ref] = true
	}
	if b.Components[0].Name != "std" {
		t.Errorf("%+v is not Go's own library", b.Components[0])
	}
}

// sha256sum -c reads the list.
func TestChecksumsAreOfEveryFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"b": "b", "a": "a"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := checksums(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, sums))
	want := "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  a\n3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d  b\n"
	if err != nil || string(got) != want {
		t.Errorf("%v, %q; want %q", err, got, want)
	}
}
