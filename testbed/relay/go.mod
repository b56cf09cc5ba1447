module evenkeel.dev/testbed/relay

go 1.26.0
