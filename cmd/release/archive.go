package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"
)

// archive packs files under these names. The same files make the same bytes: their owners,
// times and order are the archive's own.
func archive(to string, files map[string]string, at time.Time) (err error) {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(out)
	pack := tar.NewWriter(zip)
	defer func() { err = errors.Join(err, pack.Close(), zip.Close(), out.Close()) }()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		b, err := os.ReadFile(files[name])
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if name == "sluice" {
			mode = 0o755
		}
		err = pack.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(b)), ModTime: at, Format: tar.FormatUSTAR})
		if err == nil {
			_, err = pack.Write(b)
		}
		if err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
	}
	return nil
}
