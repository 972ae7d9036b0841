"""Takes: made, described, stored with their inputs, and compared with the rows."""
