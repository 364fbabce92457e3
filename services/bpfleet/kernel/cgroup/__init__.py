"""cgroup v2: the tree and the text of its files."""
