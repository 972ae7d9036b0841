"""Takes on disk: made, labelled, kept with their inputs, and held against the rows."""
