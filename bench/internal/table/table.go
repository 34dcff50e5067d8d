// Package table prints figures in columns.
package table

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Table is a title, what its columns are, and rows of as many cells.
type Table struct {
	Title   string
	Columns []string
	rows    [][]string
}

// Row adds a row.
func (t *Table) Row(cells ...string) { t.rows = append(t.rows, cells) }

// Print writes the table as text that is also Markdown.
func (t *Table) Print(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "\n%s\n\n", t.Title); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 1, ' ', tabwriter.Debug)
	line := func(cells []string) {
		fmt.Fprintf(tw, "| %s\t\n", strings.Join(cells, "\t "))
	}
	line(t.Columns)
	rule := make([]string, len(t.Columns))
	for i := range rule {
		rule[i] = "---"
	}
	line(rule)
	for _, cells := range t.rows {
		line(cells)
	}
	return tw.Flush()
}

// Micros shows a duration in microseconds.
func Micros(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }

// Millis shows a duration in milliseconds, with a decimal below ten.
func Millis(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
}

// Rate shows a number per second.
func Rate(perSecond float64) string { return fmt.Sprintf("%.0f", perSecond) }

// Ratio shows a ratio; zero is none.
func Ratio(r float64) string {
	if r == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", r)
}

// Bound is what a figure must reach.
type Bound struct {
	// Limit is the most that a figure may be, or with AtLeast the least.
	Limit   float64
	AtLeast bool
	// Unit follows the limit in the table.
	Unit string
}

// Show says what the bound is and whether the figure keeps it; two empty cells
// for no bound.
func (b *Bound) Show(figure float64) (must, kept string) {
	if b == nil {
		return "", ""
	}
	sign, ok := "≤", figure <= b.Limit
	if b.AtLeast {
		sign, ok = "≥", figure >= b.Limit
	}
	kept = "no"
	if ok {
		kept = "yes"
	}
	return fmt.Sprintf("%s %.4g%s", sign, b.Limit, b.Unit), kept
}
