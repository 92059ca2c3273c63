"""One module a figure, or a few that share their set-up. Each has `run(bench)`, which adds rows to the report."""
