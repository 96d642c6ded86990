"""The same work done with other frameworks. Each script runs in an environment of its own and prints JSON."""
