"""Training objectives, one file each; what all of them share is in :mod:`.objective`."""
