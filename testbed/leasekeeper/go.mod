module evenkeel.dev/testbed/leasekeeper

go 1.26.0
