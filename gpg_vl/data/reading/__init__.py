"""From files and hub data sets to rows as they stand there."""
