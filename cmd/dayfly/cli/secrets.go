package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/functions"
	"github.com/dayfly-run/dayfly/wire"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func secretsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secrets",
		Short: "Keep values that nobody sees but the function",
		Long: `Secrets keeps passwords, tokens and keys of a function. A version gets those that
its dayfly.yaml names under secrets: each as a variable and as the file
/run/secrets/NAME. Files of instances that run are replaced within a second after a
secret is set again; variables stay what they were when the instance started.

Values are sealed before they are stored, and no command or answer shows them.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(secretsSet(), secretsUnset(), secretsList(), secretsRotate())
	return cmd
}

func secretsSet() *cobra.Command {
	var file string
	cmd := settingsCommand("set REF NAME", "Set a secret", []string{"REF", "NAME", "[VALUE]"},
		func(s *session, cmd *cobra.Command, id wire.FunctionID, args []string) error {
			if name, _, given := strings.Cut(args[0], "="); given || len(args) > 1 {
				return usagef(cmd, "a secret's value does not belong on the command line, where others see it; run `%s` and type it, or pipe it in",
					s.suggest("secrets set %s %s", id, name))
			}
			value, err := s.secretValue(cmd, args[0], file)
			if err != nil {
				return err
			}
			info, err := s.client.SetSecret(s.ctx, id, args[0], value)
			if err != nil {
				return err
			}
			if s.json {
				return s.printJSON(info)
			}
			_, err = fmt.Fprintf(s.out, "set %s of %s\n", info.Name, id)
			return err
		})
	cmd.Long = `Set stores a secret of a function, in the place of an earlier value. The value is
asked for without showing it, or read from stdin, where a newline at its end does
not count, or from a file, which counts whole. The function need not be deployed.`
	cmd.Example = "  dayfly secrets set thumbnail API_TOKEN\n  pass show api | dayfly secrets set thumbnail API_TOKEN\n  dayfly secrets set thumbnail TLS_KEY --from-file key.pem"
	cmd.Flags().StringVar(&file, "from-file", "", "read the value from this `file`, as it is")
	return cmd
}

// secretValue reads a value from a file, from a person, or from stdin.
func (s *session) secretValue(cmd *cobra.Command, name, file string) (functions.Secret, error) {
	if file != "" {
		opened, err := os.Open(file)
		if err != nil {
			return functions.Secret{}, wire.Errorf(wire.CodeInvalid, "cannot read the secret's value: %s", err)
		}
		defer func() { _ = opened.Close() }()
		return readSecret(opened)
	}
	if !isTerminal(s.in) {
		value, err := readSecret(s.in)
		text, newline := strings.CutSuffix(value.Reveal(), "\n")
		if newline {
			text = strings.TrimSuffix(text, "\r")
		}
		return functions.NewSecret(text), err
	}
	if !interactive(s.in) {
		return functions.Secret{}, usagef(cmd, "nobody is there to ask for the value; pipe it in, or use --from-file")
	}
	return s.askSecret(name)
}

// askSecret has a person type a value that the terminal does not show.
func (s *session) askSecret(name string) (functions.Secret, error) {
	terminal, ok := s.in.(interface{ Fd() uintptr })
	if !ok {
		return functions.Secret{}, errors.New("stdin is no terminal")
	}
	fd := int(terminal.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return functions.Secret{}, fmt.Errorf("ask for the value: %w", err)
	}
	if _, err := fmt.Fprintf(s.errOut, "Value of %s (not shown): ", name); err != nil {
		return functions.Secret{}, err
	}
	type typed struct {
		value []byte
		err   error
	}
	done := make(chan typed, 1)
	go func() { // nothing ends the reading of a terminal
		value, err := term.ReadPassword(fd)
		done <- typed{value, err}
	}()
	select {
	case got := <-done:
		_, newline := fmt.Fprintln(s.errOut)
		if errors.Is(got.err, io.EOF) {
			got.err = wire.Errorf(wire.CodeInvalid, "no value was given; nothing is set")
		}
		return functions.NewSecret(string(got.value)), errors.Join(got.err, newline)
	case <-s.ctx.Done(): // the terminal shows again what is typed
		return functions.Secret{}, errors.Join(context.Cause(s.ctx), term.Restore(fd, state))
	}
}

// readSecret reads a value of bounded size.
func readSecret(r io.Reader) (functions.Secret, error) {
	data, err := io.ReadAll(io.LimitReader(r, functions.MaxSecretBytes+3)) // a newline may follow
	if err != nil {
		return functions.Secret{}, wire.Errorf(wire.CodeInvalid, "cannot read the secret's value: %s", err)
	}
	if len(data) > functions.MaxSecretBytes+2 {
		return functions.Secret{}, wire.Errorf(wire.CodeTooLarge, "the secret's value has more than %d bytes", functions.MaxSecretBytes)
	}
	return functions.NewSecret(string(data)), nil
}

func secretsUnset() *cobra.Command {
	return settingsCommand("unset REF NAME…", "Remove secrets", []string{"REF", "NAME", "[NAME…]"},
		func(s *session, _ *cobra.Command, id wire.FunctionID, args []string) error {
			for _, name := range args {
				if err := s.client.UnsetSecret(s.ctx, id, name); err != nil {
					return noteMissing(err, "what there is: "+s.suggest("secrets list %s", id))
				}
				if !s.json {
					if _, err := fmt.Fprintf(s.out, "removed %s of %s\n", name, id); err != nil {
						return err
					}
				}
			}
			return nil
		})
}

func secretsList() *cobra.Command {
	return settingsCommand("list REF", "List the names of secrets", []string{"REF"},
		func(s *session, _ *cobra.Command, id wire.FunctionID, _ []string) error {
			list, err := s.client.Secrets(s.ctx, id)
			if err != nil {
				return err
			}
			if s.json {
				if list == nil {
					list = []functions.SecretInfo{}
				}
				return s.printJSON(map[string]any{"secrets": list})
			}
			if len(list) == 0 {
				_, err := fmt.Fprintf(s.errOut, "%s has no secrets. Set one: %s\n", id, s.suggest("secrets set %s NAME", id))
				return err
			}
			rows := [][]string{{"NAME", "SET"}}
			for _, info := range list {
				rows = append(rows, []string{info.Name, humanAge(info.UpdatedAt, time.Now())})
			}
			return writeTable(s.out, rows)
		})
}

func secretsRotate() *cobra.Command {
	var flags common
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Seal all secrets anew",
		Long: `Rotate seals every secret anew, with new keys that are sealed with the first key of
the server's --secrets-key file. Values stay, and functions notice nothing. A
rotation that was broken off is done by the next.

To change the file's key: add the new key as the second line of the file of every
gateway and invoker and restart them; make it the first line and restart them;
rotate; then remove the old key.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			count, err := s.client.RotateSecrets(s.ctx)
			if err != nil {
				return err
			}
			if s.json {
				return s.printJSON(map[string]int{"secrets": count})
			}
			_, err = fmt.Fprintf(s.out, "sealed %s anew\n", counted(count, "secret"))
			return err
		},
	}
	flags.register(cmd)
	return cmd
}
