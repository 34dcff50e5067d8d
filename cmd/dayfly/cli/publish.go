package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly-run/dayfly/sdk/client"
	"github.com/dayfly-run/dayfly/wire"
)

func publishCommand() *cobra.Command {
	var flags common
	var event eventFlags
	var message client.Message
	cmd := &cobra.Command{
		Use:   "publish SUBJECT",
		Short: "Publish a message for queue triggers",
		Long: `Publish puts a message on a NATS subject, for the functions whose queue triggers
listen to it, and returns once it is on disk. It fails when nobody wants it.

CloudEvents 1.0 are told by their content type: application/cloudevents+json for
one, application/cloudevents-batch+json for a list.`,
		Example: `  dayfly publish orders.created --data '{"id": 7}'
  dayfly publish orders.created --data @order.json --key customer-7
  dayfly publish orders.created --data @event.json --content-type application/cloudevents+json`,
		Args: arguments("SUBJECT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !wire.ValidSubject(args[0]) {
				return usagef(cmd, "%q is not a subject to publish on; write words with dots between them, as in orders.created", args[0])
			}
			s, err := flags.open(cmd)
			if err != nil {
				return err
			}
			if message.Data, err = event.readRaw(cmd); err != nil {
				return err
			}
			return s.publish(args[0], message)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVarP(&event.data, "data", "d", "", "the message: text, @file, or - for stdin")
	cmd.Flags().StringVar(&message.ContentType, "content-type", "", "what the message is")
	cmd.Flags().StringVar(&message.Key, "key", "", "what the message must not overtake, for triggers that are ordered; by default its subject")
	cmd.Flags().StringVar(&message.Once, "idempotency-key", "", "drops a repeat of the message with the same key")
	return cmd
}

func (s *session) publish(subject string, m client.Message) error {
	accepted, err := s.client.Publish(s.ctx, subject, m)
	if wire.HasCode(err, wire.CodeNotFound) {
		return withHint(err, "what there is: "+s.suggest("list"))
	}
	if err != nil {
		return err
	}
	if s.json {
		_, err = fmt.Fprintf(s.out, "{\"accepted\": %d}\n", accepted)
		return err
	}
	messages := "messages"
	if accepted == 1 {
		messages = "message"
	}
	_, err = fmt.Fprintf(s.errOut, "published %d %s on %s\n", accepted, messages, subject)
	return err
}
