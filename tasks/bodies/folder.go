package bodies

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"
)

// folder is a backend of files, for this user alone. What is not long lies in a file
// with others, see [packs]. A longer body's file is written under another name, synced,
// renamed, and its folder synced: after that it survives a loss of power. Several
// processes may share a folder.
type folder struct {
	dir  string
	root *os.Root // nothing outside of it is reached, whatever a name says
	// synced are the folders that this process has seen on the disk, with all above them.
	synced sync.Map
	packs  packs
	holes  bool // packs are put into
}

// unfinished is the folder of files that are being written.
const unfinished = "unfinished"

func openFolder(dir string) (*folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f := &folder{dir: dir, root: root}
	f.packs.f = f
	if err := errors.Join(syncDir(path.Dir(dir)), f.ensure(unfinished)); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if f.holes, err = f.makesHoles(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return f, nil
}

// makesHoles tries whether a part of a file can be given back to the disk.
func (f *folder) makesHoles() (bool, error) {
	name := unfinished + "/" + rand.Text()
	file, err := f.create(unfinished, path.Base(name))
	if err != nil {
		return false, err
	}
	_, err = file.Write(make([]byte, 2*block))
	can := err == nil && punch(file, 0, block) == nil
	return can, errors.Join(err, file.Close(), f.root.Remove(name))
}

func (f *folder) close() {
	f.packs.close()
	_ = f.root.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *folder) sync(dir string) error {
	d, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ensure makes a folder and has it on the disk, as well as those above it: another
// process may have made it and not have come so far.
func (f *folder) ensure(dir string) error {
	if _, ok := f.synced.Load(dir); ok || dir == "." {
		return nil
	}
	above := path.Dir(dir)
	if err := f.ensure(above); err != nil {
		return err
	}
	if err := f.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := f.sync(above); err != nil {
		return err
	}
	f.synced.Store(dir, true)
	return nil
}

// forget has ensure look again.
func (f *folder) forget(dir string) {
	for ; dir != "."; dir = path.Dir(dir) {
		f.synced.Delete(dir)
	}
}

// shares reports whether a body lies in a file with others.
func (f *folder) shares(size int64) bool { return f.holes && size <= packedMost }

func (f *folder) put(ctx context.Context, name, sum string, size int64, body io.ReadSeeker) (string, error) {
	if !f.shares(size) {
		return name, f.putAlone(ctx, name, size, body)
	}
	there, err := f.packs.put(ctx, []item{{name, sum, size, body}})
	if err != nil {
		return "", err
	}
	return there[0], nil
}

// putAlone puts a body into a file of its own.
func (f *folder) putAlone(ctx context.Context, name string, size int64, body io.ReadSeeker) error {
	temporary := unfinished + "/" + rand.Text()
	if err := f.write(ctx, temporary, size, body); err != nil {
		_ = f.root.Remove(temporary)
		return err
	}
	dir := path.Dir(name)
	for try := 0; ; try++ {
		err := f.ensure(dir)
		if err == nil {
			err = f.root.Rename(temporary, name)
		}
		if err == nil {
			return f.sync(dir)
		}
		if try == 3 || !errors.Is(err, fs.ErrNotExist) {
			_ = f.root.Remove(temporary)
			return err
		}
		f.forget(dir) // a sweep has found it empty, and removed it
	}
}

// create makes a file of a folder, which may have been removed meanwhile.
func (f *folder) create(dir, name string) (*os.File, error) {
	for try := 0; ; try++ {
		err := f.ensure(dir)
		if err != nil {
			return nil, err
		}
		file, err := f.root.OpenFile(dir+"/"+name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if try > 0 || !errors.Is(err, fs.ErrNotExist) {
			return file, err
		}
		f.forget(dir)
	}
}

func (f *folder) write(ctx context.Context, name string, size int64, body io.Reader) error {
	file, err := f.create(path.Dir(name), path.Base(name))
	if err != nil {
		return err
	}
	n, err := io.Copy(file, body)
	switch {
	case err != nil:
	case n != size:
		err = fmt.Errorf("%d bytes in place of %d", n, size)
	case ctx.Err() != nil:
		err = ctx.Err()
	default:
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func (f *folder) open(_ context.Context, name string) (io.ReadCloser, error) {
	if strings.Contains(name, "@") {
		return f.packs.open(name)
	}
	return f.root.Open(name)
}

func (f *folder) remove(_ context.Context, list []string) error {
	var errs []error
	var beside []string
	for _, name := range list {
		if strings.Contains(name, "@") {
			beside = append(beside, name)
		} else if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, f.packs.remove(beside))...)
}

// emptyAfter is how long a folder has had no change before it goes when it is empty.
const emptyAfter = 24 * time.Hour

func (f *folder) list(ctx context.Context, visit func(name string, changed time.Time) error) error {
	return f.walk(ctx, ".", visit)
}

func (f *folder) walk(ctx context.Context, dir string, visit func(name string, changed time.Time) error) error {
	d, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(500)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := f.entry(ctx, dir, e, visit); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
}

// entry lists what is in an entry of a folder, and removes what has been empty for long.
func (f *folder) entry(ctx context.Context, dir string, e fs.DirEntry, visit func(name string, changed time.Time) error) error {
	info, err := e.Info()
	if err != nil {
		return nil // it has gone
	}
	name, old := path.Join(dir, e.Name()), time.Since(info.ModTime()) > emptyAfter
	switch {
	case e.Type().IsRegular() && dir == packed:
		empty, err := f.packs.list(ctx, name, visit)
		if empty && old {
			return f.root.Remove(name)
		}
		return err
	case e.Type().IsRegular():
		return visit(name, info.ModTime())
	case e.IsDir():
		if err := f.walk(ctx, name, visit); err != nil {
			return err
		}
		if old && name != unfinished && name != packed {
			_ = f.root.Remove(name) // fails unless it is empty
		}
	}
	return nil
}
