module example.com/thumbnail

go 1.24

require github.com/dayfly-run/dayfly v0.0.0
