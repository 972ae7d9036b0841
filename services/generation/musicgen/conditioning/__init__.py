"""What a piece is conditioned on: text, a melody, the end of another piece."""
