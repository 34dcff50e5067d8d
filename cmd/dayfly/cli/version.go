package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
)

func versionCommand(version string) *cobra.Command {
	output := formatTable
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output == formatJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"version": version})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "dayfly "+version)
			return err
		},
	}
	cmd.Flags().VarP(&output, "output", "o", "what to print: table or json")
	return cmd
}
