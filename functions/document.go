package functions

import (
	"bytes"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// maxManifestBytes bounds the manifest; the environment has a bound of its
	// own below it.
	maxManifestBytes = 64 << 10
	// maxManifestTokens bounds the work of the parser, which grows with the
	// square of it. The fullest manifest that means anything has about 500.
	maxManifestTokens = 2000
)

// readDocument returns the one mapping that a manifest consists of, or nil when
// p says why there is none.
func readDocument(data []byte, p *problems) *ast.MappingNode {
	if !checkText(data, p) {
		return nil
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // some editors on Windows
	tokens := lexer.Tokenize(string(data))
	if !checkTokens(tokens, p) {
		return nil
	}
	// Duplicate keys are ours to report, with the others and with both lines.
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		addSyntaxError(err, p)
		return nil
	}
	return onlyMapping(file, p)
}

// checkText refuses what is no text, too long, or empty.
func checkText(data []byte, p *problems) bool {
	switch {
	case len(data) > maxManifestBytes:
		p.add(1, "the file has %d bytes; at most %d are allowed", len(data), maxManifestBytes)
	case !utf8.Valid(data):
		p.add(lineOfInvalidUTF8(data), "the file is not UTF-8 text; save it as UTF-8")
	case bytes.IndexByte(data, 0) >= 0:
		p.add(1+bytes.Count(data[:bytes.IndexByte(data, 0)], []byte("\n")), "the file holds a NUL byte; save it as plain text")
	default:
		return true
	}
	return false
}

func lineOfInvalidUTF8(data []byte) int {
	line := 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 {
			break
		}
		if r == '\n' {
			line++
		}
		data = data[size:]
	}
	return line
}

// checkTokens refuses the parts of YAML that a manifest has no use for, which
// also rules out anchor bombs, and more tokens than the parser should see.
func checkTokens(tokens token.Tokens, p *problems) bool {
	count := 0
	for _, t := range tokens {
		line := t.Position.Line
		switch t.Type {
		case token.CommentType:
			continue
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			p.add(line, "anchors, aliases and merge keys (&, *, <<) are not supported; write the value out, or quote it")
			return false
		case token.TagType, token.DirectiveType, token.MappingKeyType:
			p.add(line, "YAML tags, directives and complex keys (!, %%, ?) are not supported; remove this one, or quote it")
			return false
		case token.DocumentHeaderType:
			if count > 0 {
				p.add(line, "a second YAML document begins here; a manifest is one document")
				return false
			}
		}
		if count++; count > maxManifestTokens {
			p.add(line, "the file holds more than %d keys, values and signs; no manifest needs that", maxManifestTokens)
			return false
		}
	}
	return true
}

// addSyntaxError reports what the parser said without its drawing of the source.
func addSyntaxError(err error, p *problems) {
	line, message := 1, err.Error()
	if syntax, ok := errors.AsType[*yaml.SyntaxError](err); ok {
		message = syntax.Message
		if syntax.Token != nil && syntax.Token.Position != nil {
			line = syntax.Token.Position.Line
		}
	}
	message, _, _ = strings.Cut(message, "\n")
	p.add(line, "this is not YAML: %s", strings.ToValidUTF8(message, "?"))
}

// onlyMapping returns the single document of a file, which must be a mapping.
func onlyMapping(file *ast.File, p *problems) *ast.MappingNode {
	var bodies []ast.Node
	for _, document := range file.Docs {
		if document.Body != nil && document.Body.Type() != ast.CommentType {
			bodies = append(bodies, document.Body)
		}
	}
	const example = "it needs at least a name, a runtime and, for python and node, a handler"
	if len(bodies) == 0 {
		p.add(1, "the file is empty; %s", example)
		return nil
	}
	if len(bodies) > 1 {
		p.add(lineOf(bodies[1]), "a second YAML document begins here; a manifest is one document")
		return nil
	}
	mapping, ok := bodies[0].(*ast.MappingNode)
	if !ok {
		p.add(lineOf(bodies[0]), "the file holds %s where keys and values belong; %s", kindOf(bodies[0]), example)
		return nil
	}
	return mapping
}

// lineOf returns the line where a node begins, or 0 when it stands nowhere.
func lineOf(node ast.Node) int {
	if t := node.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// kindOf names a node's type for people.
func kindOf(node ast.Node) string {
	switch node.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.NullType:
		return "nothing"
	case ast.BoolType:
		return "true or false"
	case ast.IntegerType, ast.FloatType, ast.InfinityType, ast.NanType:
		return "a number"
	}
	return "text"
}
