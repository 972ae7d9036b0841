"""Writers of files that a DAW reads; they know no job and no row."""
