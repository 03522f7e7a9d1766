"""Why there is no connection: a fact and a hint."""


class ClientError(Exception):
    """No connection could be made. message: what is wrong. hint: what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}. HINT: {hint}")
        self.message = message
        self.hint = hint


class ConfigurationError(ClientError):
    """The configuration, or a file that it names, is missing or wrong."""


class ServiceDown(ClientError, ConnectionError):
    """Nobody answers, or something that is not Chroma."""


class CertificateUnknown(ClientError, ConnectionError):
    """The service's certificate is not one that `ca_file` vouches for, or is of another host."""


class TokenRefused(ClientError, PermissionError):
    """The service does not accept the token, or wants one."""
