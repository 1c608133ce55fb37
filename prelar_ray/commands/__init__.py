"""The command line: one module per command, shared code in `cli`."""
