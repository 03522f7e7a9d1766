"""Backups: taking a snapshot, listing what there is, putting one back."""
