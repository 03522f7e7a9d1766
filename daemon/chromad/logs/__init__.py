"""What goes to the journal: lines and events."""
