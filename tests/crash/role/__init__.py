"""The steps of the playbooks: each one that changes a host is cut off, and the same play has to go through afterwards."""
