"""A module a noun: what can be asked of the API about it."""
