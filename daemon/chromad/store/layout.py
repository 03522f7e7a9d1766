"""Names of our own files in the data directory."""

# Takes room that is set free when the disk is full, see `guard`.
BALLAST = ".chromad-ballast"
