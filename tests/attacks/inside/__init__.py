"""The part of the attack suite that runs on the host, as root, with nothing but Python: it plays the service user as well."""
