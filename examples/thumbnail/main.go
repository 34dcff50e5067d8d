// Command thumbnail makes small images out of large ones. Send it a PNG, JPEG
// or GIF; ?width= says how wide the answer is, 128 pixels if not given.
package main

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	_ "image/gif"
	"image/jpeg"
	"image/png"
	"strconv"

	dayfly "github.com/dayfly-run/dayfly/sdk/go"
)

const (
	defaultWidth = 128
	maxWidth     = 1024
	// maxPixels bounds what an image takes in memory, at 8 bytes a pixel.
	maxPixels = 16_000_000
)

func main() { dayfly.Start(handle) }

func handle(ctx context.Context, in dayfly.HTTPRequest) (dayfly.HTTPResponse, error) {
	width := defaultWidth
	if text := in.Query().Get("width"); text != "" {
		var err error
		if width, err = strconv.Atoi(text); err != nil || width < 1 || width > maxWidth {
			return dayfly.Text(400, fmt.Sprintf("width must be a number from 1 to %d\n", maxWidth)), nil
		}
	}
	body, err := in.BodyBytes()
	if err != nil {
		return dayfly.HTTPResponse{}, err
	}
	config, kind, err := image.DecodeConfig(bytes.NewReader(body))
	if err != nil {
		return dayfly.Text(400, "send a PNG, JPEG or GIF image as the request's body\n"), nil
	}
	if config.Width <= 0 || config.Height <= 0 || config.Width > maxPixels/config.Height {
		return dayfly.Text(413, fmt.Sprintf("the image has more than %d pixels\n", maxPixels)), nil
	}
	source, _, err := image.Decode(bytes.NewReader(body))
	if err != nil {
		return dayfly.Text(400, fmt.Sprintf("the image is damaged: %v\n", err)), nil
	}
	small := shrink(source, width)
	fmt.Printf("%s of %dx%d to %dx%d\n", kind, config.Width, config.Height, small.Rect.Dx(), small.Rect.Dy())

	content, mediaType, name, err := encode(small, kind)
	if err != nil {
		return dayfly.HTTPResponse{}, err
	}
	if err := dayfly.Put(ctx, name, bytes.NewReader(content)); err != nil {
		return dayfly.HTTPResponse{}, err
	}
	return dayfly.Bytes(200, mediaType, content), nil
}

// encode keeps JPEG as JPEG; anything else becomes PNG.
func encode(img image.Image, kind string) (content []byte, mediaType, name string, err error) {
	var out bytes.Buffer
	if kind == "jpeg" {
		err = jpeg.Encode(&out, img, &jpeg.Options{Quality: 85})
		return out.Bytes(), "image/jpeg", "thumbnail.jpg", err
	}
	err = png.Encode(&out, img)
	return out.Bytes(), "image/png", "thumbnail.png", err
}

// shrink returns source at the given width. Every pixel is the mean of those it
// stands for. An image that is small already keeps its size.
func shrink(source image.Image, width int) *image.RGBA {
	full := image.NewRGBA(image.Rect(0, 0, source.Bounds().Dx(), source.Bounds().Dy()))
	draw.Draw(full, full.Rect, source, source.Bounds().Min, draw.Src)
	w, h := full.Rect.Dx(), full.Rect.Dy()
	if width >= w {
		return full
	}
	height := max(1, h*width/w)
	small := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			area := image.Rect(x*w/width, y*h/height, (x+1)*w/width, (y+1)*h/height)
			small.SetRGBA(x, y, mean(full, area))
		}
	}
	return small
}

// mean returns the average colour of an area, which is never empty.
func mean(img *image.RGBA, area image.Rectangle) color.RGBA {
	var sum [4]int
	for y := area.Min.Y; y < area.Max.Y; y++ {
		row := img.Pix[img.PixOffset(area.Min.X, y):img.PixOffset(area.Max.X, y)]
		for i, value := range row {
			sum[i%4] += int(value)
		}
	}
	n := area.Dx() * area.Dy()
	return color.RGBA{uint8(sum[0] / n), uint8(sum[1] / n), uint8(sum[2] / n), uint8(sum[3] / n)}
}
