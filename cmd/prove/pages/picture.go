package pages

import (
	"cmp"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// colors is how many a picture keeps: a page has few.
const colors = 48

// shrink makes the pictures of a folder small: a page has few colors, and those that it has most
// stand for the others.
func shrink(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.png"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := shrinkOne(name); err != nil {
			return err
		}
	}
	return nil
}

func shrinkOne(name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	full, err := png.Decode(in)
	if err = cmp.Or(err, in.Close()); err != nil {
		return err
	}
	box, seen := full.Bounds(), map[color.RGBA]int{}
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			seen[color.RGBAModel.Convert(full.At(x, y)).(color.RGBA)]++
		}
	}
	most := slices.SortedFunc(maps.Keys(seen), func(a, b color.RGBA) int { return cmp.Compare(seen[b], seen[a]) })
	var palette color.Palette
	for _, c := range most[:min(len(most), colors)] {
		palette = append(palette, c)
	}
	small := image.NewPaletted(box, palette)
	draw.Draw(small, box, full, box.Min, draw.Src)
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(out, small)
	return cmp.Or(err, out.Close())
}
