package bodies

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A body of a folder that is not long lies in a file with others: a file of its own
// would cost two syncs and four changes of folders, and the disk would have nothing else
// to do. Each process appends to a file of its own, and all that came meanwhile shares
// one sync. A body that is removed leaves a hole, which takes no room; a file of holes
// alone goes with a sweep. Where the system makes no holes each body has its own file.
const (
	packed     = "packed"
	packedMost = 1 << 20   // bytes of a body that lies beside others
	packMost   = 32 << 20  // bytes of a file; the next body begins another
	packWithin = time.Hour // how long a file is written to, well below emptyAfter
	block      = 4096      // of the disk, and so of holes: each body begins one
)

// A body has a head before it: that it is one, its length, when it was put, its name, and
// a digest of these and of the place. So a place alone leads nowhere, and what a loss of
// power or a faulty disk made of a file is no head: one of another place, one that is not
// whole, or what somebody wrote into a body, who cannot know the file's name.
const (
	headSize = 256
	headMark = "sluice1\n"
	headSum  = headSize - sha256.Size // where the digest begins
	nameMost = headSum - len(headMark) - 8 - 8 - 2
)

func head(name, pack string, at, size int64) []byte {
	b := make([]byte, 0, headSize)
	b = append(b, headMark...)
	b = binary.LittleEndian.AppendUint64(b, uint64(size))
	b = binary.LittleEndian.AppendUint64(b, uint64(time.Now().Unix()))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(name)))
	b = append(b, name...)
	return append(b[:headSum], sumOfHead(b[:headSum], pack, at)...)
}

func sumOfHead(b []byte, pack string, at int64) []byte {
	sum := sha256.New()
	sum.Write(b)
	fmt.Fprintf(sum, "%s %d", pack, at)
	return sum.Sum(nil)
}

// readHead reads what head has made for that place; ok is false for anything else.
func readHead(b []byte, pack string, at int64) (name string, size int64, put time.Time, ok bool) {
	if len(b) < headSize || string(b[:len(headMark)]) != headMark || !bytes.Equal(b[headSum:headSize], sumOfHead(b[:headSum], pack, at)) {
		return "", 0, time.Time{}, false
	}
	b = b[len(headMark):]
	size, put = int64(binary.LittleEndian.Uint64(b)), time.Unix(int64(binary.LittleEndian.Uint64(b[8:])), 0)
	return string(b[18 : 18+int(binary.LittleEndian.Uint16(b[16:]))]), size, put, true
}

// span is the room that a body takes.
func span(size int64) int64 { return (headSize + size + block - 1) / block * block }

// place adds to a body's name where it lies; parsePlace takes them apart again.
func place(name, pack string, at int64) string {
	return name + "@" + pack + "." + strconv.FormatInt(at/block, 36)
}

func parsePlace(text string) (name, pack string, at int64, ok bool) {
	name, where, ok := strings.Cut(text, "@")
	if !ok {
		return text, "", 0, false
	}
	pack, number, _ := strings.Cut(where, ".")
	n, err := strconv.ParseInt(number, 36, 32)
	return name, packed + "/" + pack, n * block, err == nil
}

// packs are the files that bodies share, of which this process appends to one.
type packs struct {
	f   *folder
	mu  sync.Mutex
	now *pack // nil: none yet
}

// pack is a file that this process appends to.
type pack struct {
	name string
	file *os.File
	born time.Time

	// Under packs.mu.
	end   int64
	users int              // who is putting into it
	done  bool             // nobody begins any more
	has   map[string]lying // by name: the same again is there already

	mu    sync.Mutex
	next  *syncing // the sync that is to come; nil: nobody waits for one
	under *syncing // the last that has begun; nil: none has
	err   error
}

// syncing is one sync of a file, for all that asked for one before it began.
type syncing struct {
	before *syncing      // nil: none
	done   chan struct{} // closed when err is set
	err    error
}

// lying is a body that this process has put: its digest, and its name with its place.
type lying struct{ sum, there string }

// put has bodies on the disk, with one sync for those that lie in one file, and returns
// their names with their places; after an error none is there. What was put by this process
// and is still there is not put again.
func (p *packs) put(ctx context.Context, list []item) (there []string, err error) {
	there = make([]string, len(list))
	begun := make([]laid, 0, len(list))
	for i := range list {
		one := &list[i]
		k, at, is, err := p.reserve(one.name, one.sum, one.size)
		if there[i] = is; err == nil && is == "" {
			there[i] = place(one.name, k.name, at)
			begun = append(begun, laid{k, at, one})
			if err = one.write(k, at); err == nil {
				err = ctx.Err()
			}
		}
		if err != nil {
			p.end(begun, err)
			return nil, err
		}
	}
	for i := 0; i < len(begun) && err == nil; i++ {
		if i == 0 || begun[i].in != begun[i-1].in {
			err = begun[i].in.durable(p.stillThere)
		}
	}
	p.end(begun, err)
	return there, err
}

// laid is a body that is being put: where it comes to lie.
type laid struct {
	in *pack
	at int64
	*item
}

// end ends what reserve began. A file that could not be written is left: what it
// says to a further sync is worth nothing.
func (p *packs) end(list []laid, err error) {
	for _, l := range list {
		if err != nil {
			_ = punch(l.in.file, l.at, span(l.size))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range list {
		k := l.in
		if k.users--; err == nil {
			k.has[l.name] = lying{l.sum, place(l.name, k.name, l.at)}
		} else if p.now == k {
			p.leave()
		}
		if k.done && k.users == 0 {
			_ = k.file.Close()
		}
	}
}

// write writes a body and its head. The head comes first, in the same call if the body is
// whole in memory: a sweep that passes goes on behind the body then, and takes nothing in it
// for a head, which whoever sent it may have written.
func (i *item) write(k *pack, at int64) error {
	to := &headed{file: k.file, at: at, head: head(i.name, k.name, at, i.size)}
	n, err := io.Copy(to, i.body)
	if err == nil && n != i.size {
		err = fmt.Errorf("%d bytes in place of %d", n, i.size)
	}
	return err
}

// headed writes to a place of a file what it is given, behind a head.
type headed struct {
	file *os.File
	at   int64
	head []byte // nil: it is written
}

func (h *headed) Write(b []byte) (int, error) {
	n, err := writeBoth(h.file, h.head, b, h.at)
	h.at += int64(n)
	n = max(0, n-len(h.head))
	h.head = nil
	return n, err
}

// reserve returns where a body may be written, or where it lies already.
func (p *packs) reserve(name, sum string, size int64) (k *pack, at int64, there string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k = p.now; k != nil {
		if is := k.has[name]; is.there != "" && is.sum == sum {
			return nil, 0, is.there, nil
		}
		if k.end+span(size) > packMost || time.Since(k.born) > packWithin {
			p.leave()
		}
	}
	if p.now == nil {
		if p.now, err = p.begin(); err != nil {
			return nil, 0, "", err
		}
	}
	k = p.now
	at = k.end
	k.end += span(size)
	k.users++
	return k, at, "", nil
}

// writeRest writes what is left of two parts of which n bytes are written, and returns how
// many are then.
func writeRest(file *os.File, first, second []byte, at int64, n int) (int, error) {
	if n < len(first) {
		m, err := file.WriteAt(first[n:], at+int64(n))
		if n += m; err != nil {
			return n, err
		}
	}
	m, err := file.WriteAt(second[n-len(first):], at+int64(n))
	return n + m, err
}

// leave has the next body begin a file. Under mu.
func (p *packs) leave() {
	k := p.now
	if p.now = nil; k == nil {
		return
	}
	if k.done = true; k.users == 0 {
		_ = k.file.Close()
	}
}

func (p *packs) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leave()
}

// begin makes a file. Under mu.
func (p *packs) begin() (*pack, error) {
	k := &pack{name: rand.Text(), born: time.Now(), has: map[string]lying{}}
	var err error
	if k.file, err = p.f.create(packed, k.name); err != nil {
		return nil, err
	}
	if err := p.f.sync(packed); err != nil {
		return nil, errors.Join(err, k.file.Close())
	}
	return k, nil
}

// durable returns once what was written before it is on the disk. One sync is for all
// who came before it began, and one look whether there still leads to the file.
func (k *pack) durable(there func(*pack) error) error {
	k.mu.Lock()
	s, mine := k.next, k.next == nil
	if mine {
		s = &syncing{before: k.under, done: make(chan struct{})}
		k.next = s
	}
	k.mu.Unlock()
	if !mine {
		<-s.done
		return s.err
	}
	if s.before != nil {
		<-s.before.done
		s.before = nil
	}
	k.mu.Lock()
	k.next, k.under, s.err = nil, s, k.err
	k.mu.Unlock()
	if s.err == nil {
		s.err = syncData(k.file)
	}
	if s.err == nil {
		s.err = there(k)
	}
	k.mu.Lock()
	k.err = s.err
	k.mu.Unlock()
	close(s.done)
	return s.err
}

// stillThere says no when the folder was taken away, or the file from it.
func (p *packs) stillThere(k *pack) error {
	own, err := k.file.Stat()
	if err != nil {
		return err
	}
	info, err := p.f.root.Stat(packed + "/" + k.name)
	if err == nil && !os.SameFile(own, info) {
		err = fs.ErrNotExist
	}
	return err
}

// look finds a body in the file where its name says that it lies.
func look(file *os.File, text string) (at, size int64, err error) {
	name, where, at, ok := parsePlace(text)
	b := make([]byte, headSize)
	if ok {
		_, err = file.ReadAt(b, at)
	}
	is, size, _, ok := readHead(b, path.Base(where), at)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return 0, 0, err
	case !ok || is != name:
		return 0, 0, fs.ErrNotExist
	}
	return at, size, nil
}

// packedBody is one that is being read.
type packedBody struct {
	io.Reader
	file *os.File
}

func (b packedBody) Close() error { return b.file.Close() }

func (p *packs) open(text string) (io.ReadCloser, error) {
	_, where, _, ok := parsePlace(text)
	if !ok {
		return nil, fs.ErrNotExist
	}
	file, err := p.f.root.Open(where)
	if err != nil {
		return nil, err
	}
	at, size, err := look(file, text)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return packedBody{io.NewSectionReader(file, at+headSize, size), file}, nil
}

// remove makes holes of bodies, one of all that lie beside each other: each change of a
// file costs whoever syncs one at that moment. Where holes cannot be made any more it is zeros.
func (p *packs) remove(texts []string) error {
	of := func(text string) string { _, where, _, _ := parsePlace(text); return where }
	slices.SortFunc(texts, func(a, b string) int { return cmp.Compare(of(a), of(b)) })
	var errs []error
	for len(texts) > 0 {
		n := 1
		for n < len(texts) && of(texts[n]) == of(texts[0]) {
			n++
		}
		errs = append(errs, p.clear(texts[:n]))
		texts = texts[n:]
	}
	return errors.Join(errs...)
}

// clear is remove of bodies of one file.
func (p *packs) clear(texts []string) (err error) {
	_, where, _, ok := parsePlace(texts[0])
	if !ok {
		return nil
	}
	file, err := p.f.root.OpenFile(where, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	type part struct{ at, end int64 }
	var parts []part
	for _, text := range texts {
		p.forget(text)
		at, size, err := look(file, text)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			parts = append(parts, part{at, at + span(size)})
		}
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.at, b.at) })
	for i := 0; i < len(parts); {
		hole := parts[i]
		for i++; i < len(parts) && parts[i].at == hole.end; i++ {
			hole.end = parts[i].end
		}
		if punch(file, hole.at, hole.end-hole.at) != nil {
			if _, err := file.WriteAt(make([]byte, hole.end-hole.at), hole.at); err != nil {
				return err
			}
		}
	}
	return nil
}

// forget has what was put be put again.
func (p *packs) forget(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name, _, _, _ := parsePlace(text)
	if p.now != nil && p.now.has[name].there == text {
		delete(p.now.has, name)
	}
}

// list calls visit with each body of a file, and reports whether there is none.
func (p *packs) list(ctx context.Context, name string, visit func(name string, put time.Time) error) (empty bool, err error) {
	file, err := p.f.root.Open(name)
	if err != nil {
		return false, err
	}
	defer file.Close()
	empty = true
	b := make([]byte, headSize)
	for at := int64(0); ; {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		at, err = nextData(file, at)
		if errors.Is(err, io.EOF) {
			return empty, nil
		}
		if err != nil {
			return false, err
		}
		at = at / block * block
		n, err := file.ReadAt(b, at)
		if n == 0 && err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		is, size, put, ok := readHead(b[:n], path.Base(name), at)
		if !ok { // the rest of what was cut off
			at += block
			continue
		}
		empty = false
		if err := visit(place(is, path.Base(name), at), put); err != nil {
			return false, err
		}
		at += span(size)
	}
}
