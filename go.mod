module github.com/dayfly-run/dayfly

go 1.26
