"""The `commonart` command: one small file per subcommand, shared options, and errors as sentences."""
