package cli

import (
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress is a bundle that shows how much of it was read, and, once that is
// all, that the build runs. What it draws is gone when it is closed. The reader
// is used by one goroutine at a time.
type progress struct {
	io.ReadSeeker
	w        io.Writer
	size     int64
	position int64
	bar      *progressbar.ProgressBar
}

// redrawEvery bounds how often the bar is drawn.
const redrawEvery = 100 * time.Millisecond

func newProgress(r io.ReadSeeker, w io.Writer) *progress { return &progress{ReadSeeker: r, w: w} }

// Seek keeps count of the position; going to the end tells the size.
func (p *progress) Seek(offset int64, whence int) (int64, error) {
	position, err := p.ReadSeeker.Seek(offset, whence)
	p.position = position
	if whence == io.SeekEnd && offset == 0 {
		p.size = position
	}
	return position, err
}

// Read draws the bar as the bundle leaves.
func (p *progress) Read(buffer []byte) (int, error) {
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(p.size, p.options("uploading", progressbar.OptionShowBytes(true),
			progressbar.OptionUseIECUnits(true), progressbar.OptionSetPredictTime(false))...)
	}
	n, err := p.ReadSeeker.Read(buffer)
	p.position += int64(n)
	// A bar that cannot be drawn is no reason to stop the upload.
	_ = p.bar.Set64(p.position)
	if n > 0 && p.position == p.size {
		p.bar = progressbar.NewOptions64(-1, p.options("building", progressbar.OptionSpinnerType(14))...)
	}
	return n, err
}

func (p *progress) options(what string, more ...progressbar.Option) []progressbar.Option {
	return append([]progressbar.Option{
		progressbar.OptionSetWriter(p.w),
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetWidth(30),
		progressbar.OptionThrottle(redrawEvery),
		progressbar.OptionSetElapsedTime(true),
		progressbar.OptionClearOnFinish(),
		// Drawn before the library's own goroutine runs, which reads what the
		// first drawing writes.
		progressbar.OptionSetRenderBlankState(true),
	}, more...)
}

// close removes what was drawn.
func (p *progress) close() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
