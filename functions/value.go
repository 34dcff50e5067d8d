package functions

import (
	"slices"

	"github.com/goccy/go-yaml/ast"
)

// value is one value of a manifest, with the path of its key and its line for
// errors: "output.store".
type value struct {
	path string
	line int
	node ast.Node
	*problems
}

// reject reports a problem with the value, led by its path.
func (v value) reject(format string, args ...any) {
	v.add(v.line, v.path+": "+format, args...)
}

// text returns what was written as a string.
func (v value) text() (string, bool) {
	switch node := v.node.(type) {
	case *ast.StringNode:
		return node.Value, true
	case *ast.LiteralNode:
		return node.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		written := v.node.GetToken().Value
		v.reject("%s is %s, text is needed; write %s", written, kindOf(v.node), shown(written))
	default:
		v.reject("%s stands where text is needed", kindOf(v.node))
	}
	return "", false
}

// quantity returns a number or text as it was written.
func (v value) quantity() (string, bool) {
	switch node := v.node.(type) {
	case *ast.StringNode:
		return node.Value, true
	case *ast.IntegerNode, *ast.FloatNode:
		return v.node.GetToken().Value, true
	}
	v.reject("%s stands where a quantity is needed", kindOf(v.node))
	return "", false
}

// boolean returns true or false.
func (v value) boolean() (is, ok bool) {
	node, ok := v.node.(*ast.BoolNode)
	if !ok {
		v.reject("%s stands where true or false is needed", kindOf(v.node))
		return false, false
	}
	return node.Value, true
}

// list returns the items of a list.
func (v value) list() ([]value, bool) {
	node, ok := v.node.(*ast.SequenceNode)
	if !ok {
		v.reject("%s stands where a list is needed", kindOf(v.node))
		return nil, false
	}
	var items []value
	for _, item := range node.Values {
		items = append(items, v.within(v.path, item))
	}
	return items, true
}

// entry is a key of a mapping and its value.
type entry struct {
	key string
	value
}

// entries returns the keys and values of a mapping in the order of the file.
// Keys that are no text or come twice are reported and left out.
func (v value) entries() ([]entry, bool) {
	node, ok := v.node.(*ast.MappingNode)
	if !ok {
		v.reject("%s stands where keys and values are needed", kindOf(v.node))
		return nil, false
	}
	var all []entry
	seen := map[string]int{}
	for _, pair := range node.Values {
		line := lineOf(pair.Key)
		name, isText := pair.Key.(*ast.StringNode)
		if !isText {
			v.add(line, "key %s%s is not text; put it in quotes", pair.Key.GetToken().Value, v.place())
			continue
		}
		if first, twice := seen[name.Value]; twice {
			v.add(line, "key %s%s stands twice, first on line %d; keep one", shown(name.Value), v.place(), first)
			continue
		}
		seen[name.Value] = line
		path := name.Value
		if v.path != "" {
			path = v.path + "." + path
		}
		child := v.within(path, pair.Value)
		if !isScalar(pair.Value) {
			child.line = line // a mapping's own position is that of its first colon
		}
		all = append(all, entry{name.Value, child})
	}
	return all, true
}

// fields reads a mapping whose keys are known, each with its reader.
func (v value) fields(known []field) {
	if entries, ok := v.entries(); ok {
		v.readFields(entries, known)
	}
}

// readFields gives each entry to the reader of its key and reports the others.
func (v value) readFields(entries []entry, known []field) {
	for _, e := range entries {
		i := slices.IndexFunc(known, func(f field) bool { return f.key == e.key })
		if i >= 0 {
			known[i].read(e.value)
			continue
		}
		v.add(e.line, "unknown key %s%s; %s", shown(e.key), v.place(), suggestion(e.key, keysOf(known)))
	}
}

// field is a key that a mapping may have.
type field struct {
	key  string
	read func(value)
}

func keysOf(fields []field) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	return keys
}

// place says in which mapping a key stands, unless in the outermost.
func (v value) place() string {
	if v.path == "" {
		return ""
	}
	return " in " + v.path
}

// within returns a value that belongs to v; its line is v's when it has none.
func (v value) within(path string, node ast.Node) value {
	line := lineOf(node)
	if line == 0 {
		line = v.line
	}
	return value{path: path, line: line, node: node, problems: v.problems}
}

func isScalar(node ast.Node) bool {
	switch node.Type() {
	case ast.MappingType, ast.MappingValueType, ast.SequenceType, ast.NullType, ast.LiteralType:
		return false
	}
	return true
}
