package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"testing"

	dayfly "github.com/dayfly-run/dayfly/sdk/go"
)

func request(t *testing.T, query string, width, height int) dayfly.HTTPRequest {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range img.Pix {
		img.Pix[i] = 200
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		t.Fatal(err)
	}
	return dayfly.HTTPRequest{RawQueryString: query, Body: base64.StdEncoding.EncodeToString(out.Bytes()), IsBase64Encoded: true}
}

func TestHandle(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DAYFLY_OUTPUT_DIR", dir)
	for _, c := range []struct {
		query                                string
		width, height, wantWidth, wantHeight int
	}{
		{"", 400, 200, 128, 64}, {"width=10", 333, 7, 10, 1}, {"width=64", 20, 30, 20, 30},
	} {
		out, err := handle(context.Background(), request(t, c.query, c.width, c.height))
		if err != nil || out.StatusCode != 200 || out.Headers["content-type"] != "image/png" {
			t.Fatalf("%q: got %d %v %v", c.query, out.StatusCode, out.Headers, err)
		}
		content, err := base64.StdEncoding.DecodeString(out.Body)
		if err != nil {
			t.Fatal(err)
		}
		small, err := png.Decode(bytes.NewReader(content))
		if err != nil || small.Bounds().Dx() != c.wantWidth || small.Bounds().Dy() != c.wantHeight {
			t.Errorf("%q: got %v, %v", c.query, small.Bounds(), err)
		}
		if got := color.RGBAModel.Convert(small.At(0, 0)); got.(color.RGBA).A != 200 {
			t.Errorf("%q: the colour is %v", c.query, got)
		}
		if stored, err := os.ReadFile(filepath.Join(dir, "thumbnail.png")); err != nil || !bytes.Equal(stored, content) {
			t.Errorf("%q: stored %d bytes, %v", c.query, len(stored), err)
		}
	}
}

func TestHandleRefuses(t *testing.T) {
	for _, in := range []dayfly.HTTPRequest{{Body: "no image"}, {}, request(t, "width=0", 1, 1), request(t, "width=x", 1, 1)} {
		if out, err := handle(context.Background(), in); err != nil || out.StatusCode != 400 {
			t.Errorf("got %+v, %v", out, err)
		}
	}
}
