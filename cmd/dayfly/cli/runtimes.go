package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

func runtimesCommand() *cobra.Command {
	var flags common
	list := func(cmd *cobra.Command, _ []string) error {
		s, err := flags.open(cmd)
		if err != nil {
			return err
		}
		roots, err := s.client.Runtimes(s.ctx)
		if err != nil {
			return err
		}
		return s.printRuntimes(roots)
	}
	cmd := &cobra.Command{
		Use:   "runtimes",
		Short: "List the runtimes' root file systems, or rebuild one",
		Args:  arguments(),
		RunE:  list,
	}
	flags.register(cmd)
	sub := &cobra.Command{Use: "list", Short: "List the runtimes' root file systems", Args: arguments(), RunE: list}
	flags.register(sub)
	cmd.AddCommand(sub, rebuildCommand())
	return cmd
}

func (s *session) printRuntimes(roots []wire.RuntimeRoot) error {
	if s.json {
		if roots == nil {
			roots = []wire.RuntimeRoot{}
		}
		return s.printJSON(map[string]any{"roots": roots})
	}
	rows := [][]string{{"ROOT", "RUNTIMES", "ARCH", "RECIPE", "DIGEST", "SIZE", "BUILT", "FROM"}}
	for _, r := range roots {
		size, built := "-", "when needed"
		if r.Digest != "" {
			size, built = humanBytes(r.Bytes), humanAge(r.BuiltAt, time.Now())
		}
		rows = append(rows, []string{
			r.Name, orDash(strings.Join(r.Runtimes, ",")), r.Arch, shortDigest(r.Recipe), orDash(shortDigest(r.Digest)),
			size, built, orDash(string(r.Source)),
		})
	}
	return writeTable(s.out, rows)
}

// shortDigest is enough of a digest to tell two apart.
func shortDigest(d wire.Digest) string { return string(d[:min(12, len(d))]) }

func rebuildCommand() *cobra.Command {
	var flags common
	var archive string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "rebuild NAME",
		Short: "Make a runtime's root file system anew",
		Long: `Rebuild makes the root file system of a runtime anew, with the newest packages,
and has nodes use it for new containers. Instances that run keep the one they have.
With --from-image it is made of an image archive (docker save, or an OCI layout):
the image must hold what the runtime needs, at the same places.`,
		Example: "  dayfly runtimes rebuild python\n  dayfly runtimes rebuild node --from-image node.tar",
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			return s.rebuild(args[0], archive, verbose)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&archive, "from-image", "", "make it of this image archive, a `file`, and not of packages")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show what the build printed")
	return cmd
}

func (s *session) rebuild(name, archive string, verbose bool) error {
	var source io.ReadSeeker
	if archive != "" {
		file, err := os.Open(archive)
		if err != nil {
			return wire.Errorf(wire.CodeInvalid, "cannot read the image archive: %s", err)
		}
		defer func() { _ = file.Close() }()
		source = file
	}
	rebuilt, err := s.client.RebuildRuntime(s.ctx, name, source)
	if err != nil {
		return noteMissing(err, "what there is: "+s.suggest("runtimes"))
	}
	return s.printRebuilt(rebuilt, verbose)
}

func (s *session) printRebuilt(r client.Rebuilt, verbose bool) error {
	if verbose && r.Log != "" {
		if _, err := fmt.Fprintln(s.errOut, strings.TrimRight(r.Log, "\n")); err != nil {
			return err
		}
	}
	if s.json {
		return s.printJSON(r)
	}
	return s.printRuntimes([]wire.RuntimeRoot{r.Root})
}
