//go:build !linux

package bodies

import (
	"errors"
	"io"
	"os"
)

// Holes are not made here, so each body has a file of its own.
func punch(*os.File, int64, int64) error { return errors.ErrUnsupported }

func syncData(file *os.File) error { return file.Sync() }

func nextData(file *os.File, at int64) (int64, error) {
	info, err := file.Stat()
	if err == nil && at >= info.Size() {
		err = io.EOF
	}
	return at, err
}

func writeBoth(file *os.File, first, second []byte, at int64) (int, error) {
	return writeRest(file, first, second, at, 0)
}
