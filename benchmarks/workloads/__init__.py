"""What is measured of CMF, one module a subject. Each part that needs one runs as a process of its own."""
