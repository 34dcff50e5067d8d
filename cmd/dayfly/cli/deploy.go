package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/functions/bundle"
	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

// maxManifest bounds how much of a manifest is read, in bytes: far more than
// anybody writes.
const maxManifest = 1 << 20

func deployCommand() *cobra.Command {
	var flags common
	var namespace string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "deploy DIR",
		Short: "Deploy the function in a folder",
		Long: `Deploy packs a folder with a dayfly.yaml, uploads it, waits until it is built,
and makes it the live version of the function that the manifest names.`,
		Example: "  dayfly deploy ./thumbnail\n  dayfly deploy . --namespace team-a -o json",
		Args:    arguments("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !wire.ValidName(namespace) {
				return usagef(cmd, "%q is not a namespace; use lower-case letters, digits and inner hyphens, at most 63", namespace)
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			return s.deploy(args[0], namespace, verbose)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&namespace, "namespace", wire.DefaultNamespace, "the namespace to deploy into")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show what the build printed")
	return cmd
}

func (s *session) deploy(dir, namespace string, verbose bool) (err error) {
	if err := checkManifest(dir); err != nil {
		return err
	}
	file, err := os.CreateTemp("", "dayfly-bundle-*.tar.gz")
	if err != nil {
		return fmt.Errorf("make room for the bundle: %w", err)
	}
	defer func() {
		// The bundle was only read since; nothing can be lost by closing it.
		_ = file.Close()
		if removeErr := os.Remove(file.Name()); err == nil && removeErr != nil {
			err = fmt.Errorf("remove the temporary bundle: %w", removeErr)
		}
	}()
	summary, err := bundle.Pack(dir, file)
	if err != nil {
		return err
	}
	deployment, err := s.upload(file, namespace)
	if err != nil {
		return err
	}
	if verbose && deployment.BuildLog != "" {
		if _, err := fmt.Fprintln(s.errOut, strings.TrimRight(deployment.BuildLog, "\n")); err != nil {
			return err
		}
	}
	if s.json {
		return s.printJSON(deployment)
	}
	return s.printDeployment(deployment, summary)
}

// checkManifest reports what is wrong with the manifest before anything is sent.
func checkManifest(dir string) error {
	if err := bundle.RequireManifest(dir); err != nil {
		return err
	}
	file, err := os.Open(filepath.Join(dir, functions.ManifestName))
	if err != nil {
		return wire.Errorf(wire.CodeInvalid, "cannot read the manifest: %s", err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxManifest+1))
	if err != nil {
		return wire.Errorf(wire.CodeInvalid, "cannot read the manifest: %s", err)
	}
	if len(data) > maxManifest {
		return wire.Errorf(wire.CodeTooLarge, "%s has more than %d bytes", file.Name(), maxManifest)
	}
	if _, err := functions.ParseManifest(data); err != nil {
		return withHint(err, "edit "+file.Name()+" and deploy again")
	}
	return nil
}

// upload sends the bundle; a person sees how far it is.
func (s *session) upload(file *os.File, namespace string) (client.Deployment, error) {
	if s.json || !decorated(s.errOut) || os.Getenv("CI") != "" {
		return s.client.Deploy(s.ctx, namespace, file)
	}
	shown := newProgress(file, s.errOut)
	defer shown.close()
	return s.client.Deploy(s.ctx, namespace, shown)
}

func (s *session) printDeployment(d client.Deployment, summary bundle.Summary) error {
	name := d.Function.FunctionID.String()
	version := strconv.Itoa(d.Version.Number)
	if d.Function.Aliases[wire.LiveAlias].Version == d.Version.Number {
		version += " (" + wire.LiveAlias + ")"
	}
	return writeTable(s.out, [][]string{
		{"function", name},
		{"version", version},
		{"digest", "sha256:" + string(d.Version.Code)},
		{"size", fmt.Sprintf("%s in %s, %s built and packed",
			humanBytes(summary.Bytes), counted(summary.Files, "file"), humanBytes(d.Version.CodeBytes))},
		{"URL", d.URL},
		{""},
		{"try it:", s.suggest("invoke %s --data '{}'", name)},
	})
}

// counted writes a number of things: 1 file, 2 files.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}
