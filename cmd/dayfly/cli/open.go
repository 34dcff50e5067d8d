package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func openCommand() *cobra.Command {
	var flags common
	var show bool
	cmd := &cobra.Command{
		Use:   "open REF",
		Short: "Open a function's URL in the browser, or print it",
		Long: `Open shows a function's URL in the browser: the one that BROWSER names, else the
desktop's. Without a terminal or a browser it prints the URL.`,
		Example: "  dayfly open thumbnail\n  curl \"$(dayfly open thumbnail)\"",
		Args:    arguments("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := refArgument(cmd, args[0])
			if err != nil {
				return err
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			return s.browse(ref, show)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&show, "print", false, "print the URL, whatever there is to open it")
	return cmd
}

func (s *session) browse(ref wire.Ref, show bool) error {
	if _, err := s.client.Function(s.ctx, ref.String()); err != nil {
		return s.missing(err, ref)
	}
	url := s.client.FunctionURL(ref)
	if s.json {
		return s.printJSON(map[string]string{"url": url})
	}
	if _, err := fmt.Fprintln(s.out, url); err != nil || show || !isTerminal(s.out) || inCI() {
		return err
	}
	program, err := browser()
	if err != nil {
		return nil // it is printed
	}
	//nolint:gosec // it is the user's own browser
	if out, err := exec.CommandContext(s.ctx, program, url).CombinedOutput(); err != nil {
		fmt.Fprintf(s.errOut, "%s does not open it: %s %s\n", program, err, out)
	}
	return nil
}

// browser finds the program that opens URLs.
func browser() (string, error) {
	if program := os.Getenv("BROWSER"); program != "" {
		return exec.LookPath(program)
	}
	switch {
	case runtime.GOOS == "darwin":
		return exec.LookPath("open")
	case os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "":
		return "", errors.New("there is no desktop")
	}
	return exec.LookPath("xdg-open")
}
