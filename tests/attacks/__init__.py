"""What a service user who has been broken into can do to root: attacks on each of root's verbs and playbooks, on a booted host."""
