"""The conditioning of a request: a prompt, a melody, the end of a file to continue."""
