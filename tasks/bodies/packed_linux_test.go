package bodies_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks/bodies"
)

// folder returns a store and the folder of the files that bodies share.
func folder(t *testing.T, c bodies.Config) (*bodies.Bodies, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bodies")
	c.URL = "file://" + dir
	return open(t, c), filepath.Join(dir, "packed")
}

// onDisk is how many files there are, and how many bytes they take of the disk.
func onDisk(t *testing.T, dir string) (files int, taken int64) {
	t.Helper()
	list, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range list {
		info, err := e.Info()
		must(t, err)
		files, taken = files+1, taken+info.Sys().(*syscall.Stat_t).Blocks*512
	}
	return files, taken
}

// Bodies that are put at once share files and syncs; each is itself when it is read,
// also by another process, and what is removed takes no room.
func TestBodiesShareFilesAndLeaveNoRoomBehind(t *testing.T) {
	t.Parallel()
	s, dir := folder(t, bodies.Config{})
	other := open(t, bodies.Config{URL: "file://" + filepath.Dir(dir)})
	const writers, each = 16, 10
	refs, want := make([]bodies.Ref, writers*each), make([][]byte, writers*each)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := w * each; i < (w+1)*each; i++ {
				body := make([]byte, 1+i*1500)
				_, _ = rand.Read(body)
				name, _ := bodies.New(fmt.Sprint("tenant", w), job, bodies.Prompt, "")
				r, err := s.Put(t.Context(), name, int64(len(body)), bytes.NewReader(body))
				if err != nil {
					t.Error(err)
				}
				refs[i], want[i] = r, body
			}
		})
	}
	all.Wait()
	for i, r := range refs {
		for _, from := range []*bodies.Bodies{s, other} {
			if got, err := from.Read(t.Context(), r, 0); err != nil || !bytes.Equal(got, want[i]) {
				t.Errorf("body %d: %d bytes, %v", i, len(got), err)
			}
		}
	}
	if files, taken := onDisk(t, dir); files > 2 || taken < 18<<20 {
		t.Errorf("%d files of %d bytes for %d bodies", files, taken, len(refs))
	}
	var gone []bodies.Ref
	for i, r := range refs {
		if i%7 > 0 {
			gone = append(gone, r)
		}
	}
	mathrand.Shuffle(len(gone), func(i, j int) { gone[i], gone[j] = gone[j], gone[i] })
	must(t, other.Delete(t.Context(), gone...)) // an API's of what a worker has put, as well
	for i := 0; i < len(refs); i += 7 {
		if got, err := s.Read(t.Context(), refs[i], 0); err != nil || !bytes.Equal(got, want[i]) {
			t.Errorf("its neighbours' end touches body %d: %v", i, err)
		}
	}
	for _, r := range gone {
		if _, err := s.Read(t.Context(), r, 0); !missing(err) {
			t.Errorf("%s is still there: %v", r.Name, err)
		}
	}
	must(t, other.Delete(t.Context(), refs[1:]...)) // those that have gone as well
	if _, taken := onDisk(t, dir); taken > 8<<10 {
		t.Errorf("a body of a byte takes %d", taken)
	}
}

// A place in a file is worth nothing without the name that stands there.
func TestAPlaceLeadsToItsOwnBodyAlone(t *testing.T) {
	t.Parallel()
	s, dir := folder(t, bodies.Config{})
	one, other := put(t, s, bodies.Prompt, []byte("one")), put(t, s, bodies.Prompt, []byte("two"))
	name, _, _ := strings.Cut(one.Name, "@")
	_, there, ok := strings.Cut(other.Name, "@")
	if !ok {
		t.Fatal(other.Name)
	}
	mixed := one
	for _, place := range []string{there, there + "zz", strings.Repeat("A", 26) + ".0"} {
		mixed.Name = name + "@" + place
		if _, err := s.Read(t.Context(), mixed, 0); !missing(err) {
			t.Errorf("%s: %v", place, err)
		}
		must(t, s.Delete(t.Context(), mixed))
	}
	for r, want := range map[bodies.Ref]string{one: "one", other: "two"} {
		if got, err := s.Read(t.Context(), r, 0); string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	list, err := os.ReadDir(dir)
	must(t, err)
	file, err := os.OpenFile(filepath.Join(dir, list[0].Name()), os.O_RDWR, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("an"), 256)
	must(t, err, file.Close())
	if got, err := s.Read(t.Context(), one, 0); !missing(err) || len(got) > 0 {
		t.Errorf("what was changed on the disk was read as %q, %v", got, err)
	}
}

// A file goes when it has nothing but holes and nobody can be writing to it, and not
// before; a file that goes while it is written to is no reason to say that a body is there.
func TestAFileOfHolesGoes(t *testing.T) {
	t.Parallel()
	s, dir := folder(t, bodies.Config{})
	kept := put(t, s, bodies.Prompt, []byte("kept"))
	full := make([]byte, 1<<20)
	var gone []bodies.Ref
	for files := 0; files < 2; files, _ = onDisk(t, dir) {
		gone = append(gone, put(t, s, bodies.Prompt, full))
	}
	must(t, s.Delete(t.Context(), gone...))
	k := &known{names: []string{kept.Name}}
	must(t, s.Sweep(t.Context(), k))
	if files, _ := onDisk(t, dir); files != 2 {
		t.Fatalf("%d files", files)
	}
	list, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range list {
		old := time.Now().Add(-25 * time.Hour)
		must(t, os.Chtimes(filepath.Join(dir, e.Name()), old, old))
	}
	must(t, s.Sweep(t.Context(), k))
	if files, _ := onDisk(t, dir); files != 1 {
		t.Errorf("%d files are left of one with a body and one without", files)
	}
	if got, err := s.Read(t.Context(), kept, 0); string(got) != "kept" {
		t.Errorf("%q, %v", got, err)
	}
	name, err := bodies.New("acme", job, bodies.Prompt, "")
	must(t, err)
	if _, err := s.Put(t.Context(), name, 1, strings.NewReader("x")); err == nil {
		t.Error("a body was put into a file that is no longer there")
	}
	if r, err := s.Put(t.Context(), name, 1, strings.NewReader("x")); err != nil || r.Name == "" {
		t.Errorf("the next one: %v", err)
	}
}

// slowly is a body that does something else once the first part of it has been put.
type slowly struct {
	io.ReadSeeker
	pass, parts int
	midway      func()
}

func (b *slowly) Seek(offset int64, whence int) (int64, error) {
	b.pass, b.parts = b.pass+1, 0
	return b.ReadSeeker.Seek(offset, whence)
}

func (b *slowly) Read(p []byte) (int, error) {
	if b.parts++; b.pass == 1 && b.parts == 2 {
		b.midway()
	}
	return b.ReadSeeker.Read(p)
}

// A sweep that comes while a body is being put takes nothing in it for another body: what
// a tenant sends may look like the head of one, of any length.
func TestNothingInABodyIsTakenForAnother(t *testing.T) {
	t.Parallel()
	s, _ := folder(t, bodies.Config{})
	name, err := bodies.New("acme", job, bodies.File, "")
	must(t, err)
	forged := append([]byte("sluice1\n"), make([]byte, 18)...)
	binary.LittleEndian.PutUint64(forged[8:], 1<<20)
	binary.LittleEndian.PutUint16(forged[24:], uint16(len(name)))
	body := make([]byte, 100<<10)
	copy(body[4096-256:], append(forged, name[:len(name)-1]+"A"...))
	var neighbour bodies.Ref
	_, err = s.Put(t.Context(), name, int64(len(body)), &slowly{ReadSeeker: bytes.NewReader(body), midway: func() {
		neighbour = put(t, s, bodies.Prompt, []byte("another tenant's"))
		must(t, s.Sweep(t.Context(), &known{names: []string{neighbour.Name}}))
	}})
	must(t, err)
	if got, err := s.Read(t.Context(), neighbour, 0); string(got) != "another tenant's" {
		t.Errorf("%q, %v", got, err)
	}
}

// wreck does to a file what a loss of power or a faulty disk may: blocks of it are as
// they were before, are another's, or are garbage, and single bytes are others.
func wreck(dice *mathrand.Rand, b []byte) {
	const block = 4096
	blocks := len(b) / block
	at := func() []byte { return b[dice.IntN(blocks)*block:][:block] }
	for range 1 + dice.IntN(6) {
		switch dice.IntN(4) {
		case 0:
			clear(at())
		case 1:
			copy(at(), at())
		case 2:
			for hurt, i := at(), 0; i < block; i++ {
				hurt[i] = byte(dice.Uint32())
			}
		case 3:
			at()[dice.IntN(300)] ^= 1 << dice.IntN(8)
		}
	}
}

// Whatever becomes of the blocks of a shared file, a body is read as it was put or not at
// all, and no sweep touches one that is whole: not by a head that lies in another's
// place, nor by one that stands in a body.
func TestADamagedFileHarmsNoBodyThatIsWhole(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	dice := mathrand.New(mathrand.NewPCG(seed, 0))
	for round := range 10 {
		s, dir := folder(t, bodies.Config{Keep: time.Nanosecond})
		var refs []bodies.Ref
		var want [][]byte
		for range 12 {
			name, err := bodies.New("acme", job, bodies.File, "")
			must(t, err)
			forged := append([]byte("sluice1\n"), make([]byte, 18, 256)...)
			binary.LittleEndian.PutUint64(forged[8:], uint64(1+dice.IntN(1<<20)))
			binary.LittleEndian.PutUint16(forged[24:], uint16(len(name)))
			forged = append(forged, name[:len(name)-1]+"A"...)
			body := make([]byte, 1+dice.IntN(5*4096))
			for at := 4096 - 256; at < len(body); at += 4096 {
				copy(body[at:], forged)
			}
			refs, want = append(refs, put(t, s, bodies.Prompt, body)), append(want, body)
		}
		list, err := os.ReadDir(dir)
		must(t, err)
		path := filepath.Join(dir, list[0].Name())
		b, err := os.ReadFile(path)
		must(t, err)
		b = append(b, make([]byte, -len(b)&4095)...)
		wreck(dice, b)
		must(t, os.WriteFile(path, b, 0o600))
		k := &known{}
		var whole []int
		for i, r := range refs {
			got, err := s.Read(t.Context(), r, 0)
			switch {
			case err == nil && bytes.Equal(got, want[i]):
				whole = append(whole, i)
			case !missing(err) || len(got) > 0:
				t.Fatalf("seed %d, round %d: %d bytes of %d, %v", seed, round, len(got), len(want[i]), err)
			}
			k.names = append(k.names, r.Name)
		}
		must(t, s.Sweep(t.Context(), k))
		for _, i := range whole {
			if got, err := s.Read(t.Context(), refs[i], 0); err != nil || !bytes.Equal(got, want[i]) {
				t.Fatalf("seed %d, round %d: a sweep has harmed a body: %v", seed, round, err)
			}
		}
	}
}
