// Package sample turns measurements into the few figures that a table shows.
package sample

import (
	"cmp"
	"math"
	"slices"
)

// Quantile returns the value below which a share q (0 to 1) of the values lies,
// by nearest rank, or 0 for no values. The values need not be sorted.
func Quantile[T cmp.Ordered](values []T, q float64) T {
	if len(values) == 0 {
		var none T
		return none
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// Median returns the middle value: the mean of the two in the middle when their
// number is even, or 0 for no values.
func Median[T ~int64 | ~float64](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
