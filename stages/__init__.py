"""What each subcommand does: one file per stage, each a plain generator or function."""
