package cli

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

const (
	// redrawEvery bounds how often the bar is drawn.
	redrawEvery = 100 * time.Millisecond
	// sayEvery bounds how often a line tells how far an upload is, where no bar is.
	sayEvery = 10 * time.Second
	// worthSaying is the size of a bundle whose upload is told of in lines, in bytes.
	worthSaying = 1 << 20
	// clearLine takes away what stands in the terminal's last line.
	clearLine = "\r\x1b[K"
)

// progress shows how far an upload is and then that the build runs, and below it what
// the build prints. On a terminal that is a bar, which is gone when it is closed;
// anywhere else a few plain lines. It is safe for concurrent use.
type progress struct {
	w     io.Writer
	drawn bool
	begun time.Time

	mu       sync.Mutex // guards what follows, and w
	bar      *progressbar.ProgressBar
	said     time.Time
	uploaded bool
	line     bytes.Buffer // the beginning of a line of the build's
}

// newProgress makes a progress that draws a bar on w, or writes lines.
func newProgress(w io.Writer, drawn bool) *progress {
	now := time.Now()
	return &progress{w: w, drawn: drawn, begun: now, said: now}
}

// upload tells how many bytes of a bundle the server has.
func (p *progress) upload(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.uploaded {
		return
	}
	p.uploaded = done == total
	if !p.drawn {
		p.say(done, total)
		return
	}
	if p.bar == nil {
		p.bar = p.newBar(total, "uploading", progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true),
			progressbar.OptionShowTotalBytes(true), progressbar.OptionSetPredictTime(true))
	}
	// A bar that cannot be drawn is no reason to stop the upload.
	_ = p.bar.Set64(done)
	if p.uploaded {
		_ = p.bar.Finish()
		p.bar = p.newBar(-1, "building", progressbar.OptionSpinnerType(14))
	}
}

// say writes a line now and then. The caller holds mu.
func (p *progress) say(done, total int64) {
	now := time.Now()
	if total < worthSaying || !p.uploaded && now.Sub(p.said) < sayEvery {
		return
	}
	p.said = now
	took := max(now.Sub(p.begun), time.Millisecond)
	rate := humanBytes(int64(float64(done)/took.Seconds())) + "/s"
	if p.uploaded {
		_, _ = fmt.Fprintf(p.w, "uploaded %s in %s (%s)\n", humanBytes(total), humanDuration(took), rate)
		return
	}
	left := "a while"
	if done > 0 {
		left = humanDuration(time.Duration(float64(took) * float64(total-done) / float64(done)))
	}
	_, _ = fmt.Fprintf(p.w, "uploading: %s of %s (%s), %s left\n", humanBytes(done), humanBytes(total), rate, left)
}

func (p *progress) newBar(total int64, what string, more ...progressbar.Option) *progressbar.ProgressBar {
	return progressbar.NewOptions64(total, append([]progressbar.Option{
		progressbar.OptionSetWriter(p.w),
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetWidth(30),
		progressbar.OptionThrottle(redrawEvery),
		progressbar.OptionSetElapsedTime(true),
		progressbar.OptionClearOnFinish(),
		// Drawn before the library's own goroutine runs, which reads what the
		// first drawing writes.
		progressbar.OptionSetRenderBlankState(true),
	}, more...)...)
}

// Write writes whole lines of what a build prints, above the bar.
func (p *progress) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line.Write(data)
	end := bytes.LastIndexByte(p.line.Bytes(), '\n') + 1
	if end == 0 {
		return len(data), nil
	}
	if err := p.print(p.line.Next(end)); err != nil {
		return 0, err
	}
	return len(data), nil
}

// print writes at once, so that nothing is drawn in between. The caller holds mu.
func (p *progress) print(lines []byte) error {
	if p.bar != nil {
		lines = append([]byte(clearLine), lines...)
	}
	_, err := p.w.Write(lines)
	return err
}

// close removes what was drawn, and ends a line that the build left open.
func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Finish()
	}
	if p.line.Len() > 0 {
		_ = p.print(append(p.line.Bytes(), '\n')) // nobody may look at it any more
		p.line.Reset()
	}
}
