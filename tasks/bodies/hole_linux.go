package bodies

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// punch makes a hole of a part of a file: it reads as zeros and takes no room.
func punch(file *os.File, at, size int64) error {
	return unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, size)
}

// syncData has a file's content on the disk, and what is needed to find it.
func syncData(file *os.File) error {
	return unix.Fdatasync(int(file.Fd()))
}

// nextData is where the next part begins that is no hole; io.EOF when all from there is.
func nextData(file *os.File, at int64) (int64, error) {
	at, err := file.Seek(at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, io.EOF
	}
	return at, err
}

// writeBoth writes two parts one behind the other, in one call where the disk has room.
func writeBoth(file *os.File, first, second []byte, at int64) (n int, err error) {
	if len(first) > 0 {
		n, _ = unix.Pwritev(int(file.Fd()), [][]byte{first, second}, at) // an error comes again
		n = max(0, n)
	}
	return writeRest(file, first, second, at, n)
}
