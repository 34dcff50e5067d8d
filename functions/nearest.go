package functions

import "strings"

// maxNearestBytes bounds the words that nearest compares; no key is longer.
const maxNearestBytes = 40

// Nearest returns the one of the known words that a misspelt one was probably meant
// to be, or "" when none is close. Case, hyphens and underscores do not count.
func Nearest(word string, known []string) string { return nearest(word, known) }

// nearest returns the known word that a misspelt one was probably meant to be,
// or "" when none is close.
func nearest(word string, known []string) string {
	if len(word) > maxNearestBytes {
		return ""
	}
	plain := plainWord(word)
	best, bestDistance := "", 2+len(plain)/4
	for _, candidate := range known {
		distance := editDistance(plain, plainWord(candidate))
		if isStem(plain, plainWord(candidate)) {
			distance = min(distance, 1) // mem for memory, timeoutSeconds for timeout
		}
		if distance < bestDistance {
			best, bestDistance = candidate, distance
		}
	}
	return best
}

// plainWord drops what people vary when they guess a spelling.
func plainWord(word string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(word))
}

// isStem reports whether one word begins with the other, and so visibly.
func isStem(a, b string) bool {
	return min(len(a), len(b)) >= 3 && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a))
}

// editDistance counts the bytes to insert, delete, replace or swap with their
// neighbour that turn a into b.
func editDistance(a, b string) int {
	// Three rows of the table are enough: a swap looks back two.
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := above[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, above[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}
