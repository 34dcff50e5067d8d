package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// isTerminal reports whether a stream is one that a person looks at.
func isTerminal(stream any) bool {
	file, ok := stream.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(file.Fd()))
}

// decorated reports whether colours and moving bars are welcome on a stream;
// see https://no-color.org.
func decorated(stream any) bool {
	return isTerminal(stream) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// Colours, as terminal escape parameters.
const (
	red = "31"
	dim = "2"
)

// paint colours text if w is a terminal that wants it.
func paint(w io.Writer, colour, text string) string {
	if !decorated(w) {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// writeTable writes rows in aligned columns; the first row is the heading.
func writeTable(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(t, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}

// rawWriter passes bytes on and remembers how they ended.
type rawWriter struct {
	w    io.Writer
	last byte
}

func (r *rawWriter) Write(p []byte) (int, error) {
	if len(p) > 0 {
		r.last = p[len(p)-1]
	}
	return r.w.Write(p)
}

// copyRaw copies a result as it is. On a terminal it ends the last line, so that
// the prompt stands on one of its own; anywhere else the bytes stay untouched.
func copyRaw(w io.Writer, r io.Reader) error {
	raw := &rawWriter{w: w}
	if _, err := io.Copy(raw, r); err != nil {
		return err
	}
	if isTerminal(w) && raw.last != '\n' {
		_, err := io.WriteString(w, "\n")
		return err
	}
	return nil
}

// humanBytes writes a size with a binary unit: 512 B, 1.5 KiB, 250 MiB.
func humanBytes(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		value /= 1 << 10
		// From here on it would be written as 1024.
		if value < 1023.5 {
			break
		}
	}
	digits := 1
	if value >= 9.95 {
		digits = 0
	}
	return strings.TrimSuffix(strconv.FormatFloat(value, 'f', digits, 64), ".0") + " " + unit
}

// humanDuration writes a duration with about three digits: 850µs, 12.3ms, 1.25s,
// 2m5s.
func humanDuration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// humanAge writes how long ago a moment was. Clocks differ between machines, so
// one in the future counts as now.
func humanAge(at, now time.Time) string {
	if at.IsZero() {
		return "never"
	}
	switch d := now.Sub(at); {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", d/time.Hour)
	default:
		return fmt.Sprintf("%dd ago", d/(24*time.Hour))
	}
}
