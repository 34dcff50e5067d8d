// Package wire is the vocabulary that every Dayfly process shares: identifiers,
// references, messages, error codes, and the name of every NATS subject,
// stream and bucket and of every S3 key. It imports nothing but the standard
// library, and nothing here does I/O.
package wire
