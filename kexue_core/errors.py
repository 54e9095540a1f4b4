"""One tree of errors. Each says in one line what is wrong and what to do next.

The command line prints ``str(error)`` and exits with ``exit_code``: 1 for a mistake that the user
can mend, 3 for the network, 4 where bytes were not what they should be (2 is click's, for usage).
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccessError",
    "AmbiguousNameError",
    "ChecksumMismatch",
    "ConfigError",
    "DataError",
    "InvalidReferenceError",
    "InvalidSpecError",
    "KexueError",
    "NetworkError",
    "NonFiniteLossError",
    "NotFoundError",
    "OfflineError",
    "PluginError",
    "RegistryError",
    "StorageError",
    "TrainingError",
    "UnsupportedError",
    "VerificationError",
    "WeightsFormatError",
]


class KexueError(Exception):
    """Base of every error that kexue raises on purpose.

    Args:
        message: What is wrong, naming the file, key or name in question.
        hint: The next action, as a command where there is one.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class InvalidReferenceError(KexueError):
    """A reference that the grammar of :mod:`kexue_core.names` does not admit."""


class NotFoundError(KexueError):
    """A name that nothing installed and no registry knows."""


class AccessError(KexueError):
    """A repository that wants a login, or terms accepted by hand. The hint says where."""


class AmbiguousNameError(KexueError):
    """A name that several distributions declare; the qualified forms are in the hint."""


class InvalidSpecError(KexueError):
    """A spec whose fields do not hold together. Raised while a plugin declares it."""


class PluginError(KexueError):
    """A plugin that is missing, or broken in a way that stops what was asked for."""


class RegistryError(KexueError):
    """A registry file that cannot be read at all (a bad entry alone is a warning)."""


class ConfigError(KexueError):
    """A configuration with unknown keys, or values that a model or recipe refuses."""


class UnsupportedError(KexueError):
    """A verb asked of weights whose model does not declare the capability."""


class DataError(KexueError):
    """Input data that is missing, empty or broken. Names the file."""


class TrainingError(KexueError):
    """Training that cannot start, go on or resume."""


class NonFiniteLossError(TrainingError):
    """A loss became NaN or infinite. Names the step and the last good checkpoint."""


class NetworkError(KexueError):
    """A source could not be reached, or broke off more often than is worth repeating."""

    exit_code = 3


class OfflineError(NetworkError):
    """The network is needed and switched off (``HF_HUB_OFFLINE=1``)."""


class StorageError(KexueError):
    """A full disk, or a place that cannot be written or cleared. What was there is intact."""


class VerificationError(KexueError):
    """Bytes that are not what they should be. Nothing of them was used."""

    exit_code = 4


class ChecksumMismatch(VerificationError):  # noqa: N818 - the name the field uses
    """A file whose sha256 or size differs from the registry's. Names both."""


class WeightsFormatError(VerificationError):
    """A folder of weights that is malformed, or does not fit its model."""
