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

// coloured reports whether colours are welcome on a stream: on terminals, but not in
// CI; CLICOLOR_FORCE wants them anywhere, and NO_COLOR nowhere. See
// https://no-color.org and https://bixense.com/clicolors.
func coloured(stream any) bool {
	if os.Getenv("NO_COLOR") != "" {
		return false
	}
	if force := os.Getenv("CLICOLOR_FORCE"); force != "" && force != "0" {
		return true
	}
	return animated(stream)
}

// animated reports whether what moves is welcome on a stream: bars and screens that
// are drawn again.
func animated(stream any) bool { return isTerminal(stream) && os.Getenv("TERM") != "dumb" && !inCI() }

// decorated reports whether a stream takes both colours and what moves.
func decorated(stream any) bool { return animated(stream) && coloured(stream) }

// interactive reports whether somebody is there to answer a question.
func interactive(in any) bool { return isTerminal(in) && !inCI() }

// inCI reports whether a CI system runs this; all known ones set the variable.
func inCI() bool {
	ci := os.Getenv("CI")
	return ci != "" && ci != "0" && ci != "false"
}

// Colours, as terminal escape parameters.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
	bold   = "1"
)

// paint colours text if colours are welcome on w.
func paint(w io.Writer, colour, text string) string {
	if !coloured(w) {
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
