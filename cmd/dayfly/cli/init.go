package cli

import (
	"bufio"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
)

// templates holds a folder for each runtime; their files end in templateSuffix, so that
// no tool takes them for what they will be.
//
//go:embed all:templates
var templates embed.FS

const templateSuffix = ".tmpl"

// maxName is how long a name may be, in bytes.
const maxName = 63

// testCommands run a template's test, by runtime.
var testCommands = map[string]string{
	functions.RuntimePython: "python3 -m unittest", functions.RuntimeNode: "node --test", functions.RuntimeGo: "go test ./greeting",
	functions.RuntimeProvided: "sh test.sh", functions.RuntimeImage: "go test .",
}

func initCommand() *cobra.Command {
	var flags common
	var p project
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Begin a function: code, manifest and a test",
		Long: `Init writes a small function that works, its dayfly.yaml, a test and a .dayflyignore
into a folder, by default the current one. It never changes a file that is there. What
the flags do not say it asks, if somebody is there to answer.`,
		Example: "  dayfly init hello\n  dayfly init --runtime node --name resize .",
		Args:    arguments("[DIR]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if p.Dir = "."; len(args) == 1 {
				p.Dir = args[0]
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			if err := s.choose(cmd, &p); err != nil {
				return err
			}
			return s.begin(p)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&p.Runtime, "runtime", "", strings.Join(functions.Runtimes(), ", "))
	cmd.Flags().StringVar(&p.Name, "name", "", "the function's name; by default that of the folder")
	return cmd
}

// project is a function that begins.
type project struct {
	Name    string   `json:"name"`
	Runtime string   `json:"runtime"`
	Dir     string   `json:"dir"`
	Files   []string `json:"files"`
}

// choose fills in what the flags do not say: by asking, or as most would have it.
func (s *session) choose(cmd *cobra.Command, p *project) error {
	ask := &asker{s: s, in: bufio.NewReader(io.LimitReader(s.in, 4<<10)), silent: s.json || !interactive(s.in)}
	if p.Name == "" {
		p.Name = ask.question("Name of the function", folderName(p.Dir))
	}
	if !wire.ValidName(p.Name) {
		return usagef(cmd, "%q is not a name for a function; use lower-case letters, digits and inner hyphens, at most 63, with --name", p.Name)
	}
	known := functions.Runtimes()
	if p.Runtime == "" {
		p.Runtime = ask.question("Runtime ("+strings.Join(known, ", ")+")", functions.RuntimePython)
	}
	if _, ok := testCommands[p.Runtime]; !ok {
		if near := functions.Nearest(p.Runtime, known); near != "" {
			return usagef(cmd, "%q is not a runtime; did you mean %s?", p.Runtime, near)
		}
		return usagef(cmd, "%q is not a runtime; use %s", p.Runtime, strings.Join(known, ", "))
	}
	return ask.err
}

// asker asks a person, who may take what is proposed.
type asker struct {
	s      *session
	in     *bufio.Reader
	silent bool
	err    error
}

func (a *asker) question(text, proposal string) string {
	if a.silent || a.err != nil {
		return proposal
	}
	fmt.Fprintf(a.s.errOut, "%s [%s]: ", text, proposal)
	answer, err := a.in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		a.err = fmt.Errorf("read the answer: %w", err)
	}
	if answer = strings.TrimSpace(answer); answer != "" {
		return answer
	}
	return proposal
}

// folderName makes the name of a folder one of a function.
func folderName(dir string) string {
	full, err := filepath.Abs(dir)
	if err != nil {
		full = dir
	}
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, strings.ToLower(filepath.Base(full)))
	name = strings.Trim(name[:min(len(name), maxName)], "-")
	if name == "" {
		return "function"
	}
	return name
}

// begin writes the files of a project and says what to do next.
func (s *session) begin(p project) error {
	contents, err := p.render(s.client.URL() + "/v1/manifest.schema.json")
	if err != nil {
		return err
	}
	if err := p.write(contents); err != nil {
		return err
	}
	if s.json {
		return s.printJSON(p)
	}
	fmt.Fprintf(s.out, "%s is a %s function in %s\n\n", paint(s.out, bold, p.Name), p.Runtime, p.Dir)
	for _, name := range p.Files {
		fmt.Fprintln(s.out, "  "+name)
	}
	enter := ""
	if p.Dir != "." {
		enter = "cd " + shellWord(p.Dir) + " && "
	}
	fmt.Fprintln(s.out)
	return writeTable(s.out, [][]string{
		{"test it:", enter + testCommands[p.Runtime]},
		{"deploy it:", s.suggest("deploy %s", shellWord(p.Dir))},
		{"work on it:", s.suggest("dev %s", shellWord(p.Dir))},
		{"call it:", s.suggest(`invoke %s --data '{"name": "you"}'`, p.Name)},
	})
}

// shellWord quotes what a shell would take apart.
func shellWord(text string) string {
	if strings.IndexFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("./_-", r)
	}) < 0 && text != "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// render makes the contents of the project's files, by their paths, and lists them.
func (p *project) render(schema string) (map[string][]byte, error) {
	contents := map[string][]byte{}
	root := path.Join("templates", p.Runtime)
	err := fs.WalkDir(templates, root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		parsed, err := template.ParseFS(templates, file)
		if err != nil {
			return err
		}
		var text strings.Builder
		if err := parsed.Execute(&text, map[string]string{"Name": p.Name, "Schema": schema}); err != nil {
			return err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(file, root+"/"), templateSuffix)
		contents[name] = []byte(text.String())
		p.Files = append(p.Files, name)
		return nil
	})
	return contents, err
}

// write puts the files into the folder: all, or none when one of them is there.
func (p *project) write(contents map[string][]byte) error {
	if err := os.MkdirAll(p.Dir, 0o755); err != nil { //nolint:gosec // it is the user's own project
		return wire.Errorf(wire.CodeInvalid, "cannot make the folder: %s", err)
	}
	root, err := os.OpenRoot(p.Dir)
	if err != nil {
		return wire.Errorf(wire.CodeInvalid, "cannot write to the folder: %s", err)
	}
	defer root.Close()
	for _, name := range p.Files {
		if _, err := root.Lstat(name); err == nil {
			return withHint(wire.Errorf(wire.CodeInvalid, "%s is there already; nothing was written", filepath.Join(p.Dir, name)),
				"begin in a new folder: dayfly init NAME")
		}
	}
	for _, name := range p.Files {
		if err := writeNew(root, name, contents[name]); err != nil {
			return wire.Errorf(wire.CodeInvalid, "cannot write %s: %s", filepath.Join(p.Dir, name), err)
		}
	}
	return nil
}

// writeNew writes a file that must not be there. What begins as a script may be run.
func writeNew(root *os.Root, name string, content []byte) error {
	if folder := path.Dir(name); folder != "." {
		if err := root.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	mode := fs.FileMode(0o644)
	if strings.HasPrefix(string(content), "#!") {
		mode = 0o755
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Close())
}
