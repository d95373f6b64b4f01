"""``fiot extras predict``: the predictions of a serving service for the rows of a file. Only the command line imports it."""
