package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

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
	var d deployment
	cmd := &cobra.Command{
		Use:   "deploy SOURCE",
		Short: "Deploy a function",
		Long: `Deploy packs a function with a dayfly.yaml, uploads it, waits until it is built,
starts an instance of it, and makes it the live version of the function that the
manifest names. A version that does not start never becomes live.

SOURCE is one of

  DIR                       a folder
  FILE                      a .zip or .tar.gz file
  -                         either of them on stdin
  git+URL[//DIR][#REF]      a git repository, fetched with your own git; also
                            https://….git, ssh://… and git@HOST:PATH

A file ` + bundle.IgnoreName + ` in the folder lists what is left out, as .gitignore does. An upload
that was broken off goes on where it was the next time.`,
		Example: `  dayfly deploy ./thumbnail
  dayfly deploy . --namespace team-a -o json
  dayfly deploy git+https://example.com/team/functions.git//thumbnail#v1.2
  git archive --format=tar.gz HEAD | dayfly deploy -`,
		Args: arguments("SOURCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !wire.ValidName(d.namespace) {
				return usagef(cmd, "%q is not a namespace; use lower-case letters, digits and inner hyphens, at most 63", d.namespace)
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			return s.deploy(args[0], d)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&d.namespace, "namespace", wire.DefaultNamespace, "the namespace to deploy into")
	cmd.Flags().BoolVar(&d.noLive, "no-live", false, "make the version, but leave the live one as it is")
	cmd.Flags().BoolVar(&d.vendor, "vendor", false, "use the dependencies that are in the folder, and fetch none")
	cmd.Flags().BoolVarP(&d.verbose, "verbose", "v", false, "show what the build prints (default: on a terminal and in CI)")
	return cmd
}

// deployment is what a deploy is asked for.
type deployment struct {
	namespace               string
	noLive, vendor, verbose bool
}

func (s *session) deploy(source string, d deployment) (err error) {
	from, err := s.openSource(source)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := from.close(); err == nil {
			err = closeErr
		}
	}()
	if err := checkManifest(from); err != nil {
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
	summary, err := bundle.Pack(from.dir, file)
	if err != nil {
		return from.tell(err)
	}
	done, err := s.upload(file, d)
	if err != nil {
		return explainDeploy(err)
	}
	if s.json {
		return s.printJSON(done)
	}
	return s.printDeployment(done, summary)
}

// explainDeploy adds what became of the version when its first instance failed.
func explainDeploy(err error) error {
	if e, ok := errors.AsType[*wire.Error](err); ok && e.Code.OfFunction() {
		return withHint(err, "nothing changed for callers: what was live before still is; mend the function and deploy again")
	}
	return err
}

// checkManifest reports what is wrong with the manifest before anything is sent.
func checkManifest(from folder) error {
	if err := bundle.RequireManifest(from.dir); err != nil {
		return withHint(from.tell(err), "begin a function: dayfly init NAME")
	}
	file, err := os.Open(filepath.Join(from.dir, functions.ManifestName))
	if err != nil {
		return from.tell(wire.Errorf(wire.CodeInvalid, "cannot read the manifest: %s", err))
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxManifest+1))
	if err != nil {
		return from.tell(wire.Errorf(wire.CodeInvalid, "cannot read the manifest: %s", err))
	}
	if len(data) > maxManifest {
		return from.tell(wire.Errorf(wire.CodeTooLarge, "%s has more than %d bytes", file.Name(), maxManifest))
	}
	if _, err := functions.ParseManifest(data); err != nil {
		name := file.Name()
		if from.made != "" {
			name = functions.ManifestName + " in " + from.shown
		}
		return withHint(err, "edit "+name+" and deploy again")
	}
	return nil
}

// upload sends the bundle; a person sees how far it is and what the build prints.
func (s *session) upload(file *os.File, d deployment) (client.Deployment, error) {
	shown := newProgress(s.errOut, !s.json && decorated(s.errOut))
	defer shown.close()
	options := []client.DeployOption{}
	if !s.json {
		options = append(options, client.WithProgress(shown.upload))
	}
	if d.verbose || !s.json && (isTerminal(s.errOut) || inCI()) {
		options = append(options, client.WithBuildLog(shown))
	}
	if d.noLive {
		options = append(options, client.WithoutLive())
	}
	if d.vendor {
		options = append(options, client.WithVendored())
	}
	return s.client.Deploy(s.ctx, d.namespace, file, options...)
}

func (s *session) printDeployment(d client.Deployment, summary bundle.Summary) error {
	name := d.Function.FunctionID.String()
	number := strconv.Itoa(d.Version.Number)
	version, built := number, "built"
	if d.Live {
		version += " (" + wire.LiveAlias + ")"
	} else {
		version += " (not " + wire.LiveAlias + ")"
	}
	if d.Cached {
		built = "built before"
	}
	rows := [][]string{
		{"function", name},
		{"version", version},
	}
	if d.Note != "" {
		rows = append(rows, []string{"note", d.Note})
	}
	rows = append(rows, [][]string{
		{"digest", "sha256:" + string(d.Version.Code)},
		{"size", fmt.Sprintf("%s in %s, %s %s and packed",
			humanBytes(summary.Bytes), counted(summary.Files, "file"), humanBytes(d.Version.CodeBytes), built)},
		{"URL", d.URL},
		{""},
	}...)
	if d.Live {
		rows = append(rows, []string{"try it:", s.suggest("invoke %s --data '{}'", name)})
	} else {
		rows = append(rows,
			[]string{"try it:", s.suggest("invoke %s:%s --data '{}'", name, number)},
			[]string{"make it live:", s.suggest("alias set %s %s --version %s", name, wire.LiveAlias, number)})
	}
	return writeTable(s.out, rows)
}

// counted writes a number of things: 1 file, 2 files.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}
