"""A node of the tests' cluster: what a kubelet does, with namespaces of this host."""
