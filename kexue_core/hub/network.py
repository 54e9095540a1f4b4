"""The network as kexue sees it: how long to be patient, what is worth another try, typed errors.

Requests go through huggingface_hub's session, which knows proxies, certificates, tokens, endpoints
and offline mode. It is imported here, inside functions, and nowhere earlier.
"""

from __future__ import annotations

import email.utils
import importlib
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from kexue_core.errors import AccessError, KexueError, NetworkError, NotFoundError, OfflineError

__all__ = [
    "Interrupted",
    "Patience",
    "Transient",
    "check_online",
    "classify",
    "endpoint",
    "httpx",
    "same_origin",
    "with_retries",
]

T = TypeVar("T")

#: Statuses of servers that are busy or ill now and may be well in a moment.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a transfer waits for what. Every field has a variable ``KEXUE_<FIELD>``.

    Attributes:
        connect_timeout: Seconds to reach a server.
        stall_timeout: Seconds without a single byte after which a connection is given up.
        min_rate: Bytes a second below which it is given up too; 0 for never.
        rate_window: Seconds over which the rate is taken.
        attempts: Tries in a row that bring nothing, after which the transfer is given up.
        slow_attempts: The same for connections given up as too slow, which do bring something.
        retry_wait: Seconds before the second try; doubled for each further one.
        longest_wait: Seconds that this doubling never exceeds.
        longest_retry_after: Seconds that a server may ask for; beyond, it is an error.
        reply_timeout: Seconds that one question about a repository may take in all.
    """

    connect_timeout: float = 10.0
    stall_timeout: float = 20.0
    min_rate: float = 4096.0
    rate_window: float = 30.0
    attempts: int = 6
    slow_attempts: int = 3
    retry_wait: float = 1.0
    longest_wait: float = 30.0
    longest_retry_after: float = 300.0
    reply_timeout: float = 60.0

    @classmethod
    def from_environment(cls) -> Patience:
        """The defaults, changed by ``KEXUE_STALL_TIMEOUT`` and the like.

        Raises:
            NetworkError: A variable is no number.
        """
        values: dict[str, Any] = {}
        for each in fields(cls):
            name = f"KEXUE_{each.name.upper()}"
            if text := os.environ.get(name):
                try:
                    values[each.name] = int(text) if each.type == "int" else float(text)
                except ValueError:
                    raise NetworkError(
                        f"{name} is {text!r}, no number", hint="Correct or unset it"
                    ) from None
        return cls(**values)


class Interrupted(Exception):  # noqa: N818 - no error: someone asked to stop
    """The user asked to stop (Ctrl-C); raised in the threads that transfer."""


class Transient(Exception):  # noqa: N818 - becomes an error only when patience ends
    """Something that may be over in a moment.

    Attributes:
        retry_after: Seconds that the server asked to wait, or ``None``.
        slow: The connection worked, below the minimum rate.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, slow: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.slow = slow


def endpoint() -> str:
    """Address of the Hub: ``HF_ENDPOINT`` or the public one; no trailing slash."""
    named = os.environ.get("HF_ENDPOINT")
    if named:
        return named.rstrip("/")
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def check_online(what: str) -> None:
    """Refuse to go on in offline mode.

    Raises:
        OfflineError: ``HF_HUB_OFFLINE`` is set.
    """
    from huggingface_hub import constants

    named = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    if named.upper() in ("1", "ON", "YES", "TRUE") or constants.HF_HUB_OFFLINE:
        raise OfflineError(
            f"{what} must be fetched and the network is switched off",
            hint="Unset HF_HUB_OFFLINE, or set KEXUE_MIRROR to a folder that has it",
        )


def httpx() -> Any:
    """The HTTP library under huggingface_hub: httpx for 1.x, httpx2 for 2.x."""
    from huggingface_hub import get_session

    return importlib.import_module(type(get_session()).__module__.partition(".")[0])


def same_origin(one: str, other: str) -> bool:
    """Whether two URLs have the same scheme, host and port: only then may a token go along."""
    a, b = httpx().URL(one), httpx().URL(other)
    ports = {"http": 80, "https": 443}
    return bool(
        (a.scheme, a.host.lower(), a.port or ports.get(a.scheme))
        == (b.scheme, b.host.lower(), b.port or ports.get(b.scheme))
    )


def classify(error: Exception, what: str, *, parsing: bool = False) -> KexueError | Transient:
    """Turn what huggingface_hub and the HTTP library raise into one of ours.

    Args:
        error: What was raised.
        what: What was asked for, as the subject of the message.
        parsing: An answer was taken apart, which fails if it is not the Hub's.

    Returns:
        :class:`Transient` where another try may help, else the error to raise.
    """
    from huggingface_hub import errors as hf

    if isinstance(error, (KexueError, Transient)):
        return error
    if isinstance(error, hf.OfflineModeIsEnabled):
        return OfflineError(
            f"{what} must be fetched and the network is switched off", hint="Unset HF_HUB_OFFLINE"
        )
    if isinstance(error, hf.HfHubHTTPError):
        return classify_status(error.response.status_code, error.response.headers, what)
    library = httpx()
    if isinstance(error, (library.UnsupportedProtocol, library.InvalidURL, library.ProxyError)):
        return NetworkError(
            f"{what} cannot be reached: {_words(error)}",
            hint="Correct HF_ENDPOINT, KEXUE_MIRROR or the proxy variables",
        )
    if isinstance(
        error,
        (
            library.TransportError,
            library.DecodingError,
            library.StreamError,
            ConnectionError,
            TimeoutError,
        ),
    ):
        return Transient(f"{what}: {_words(error)}")
    if isinstance(error, library.TooManyRedirects):
        return NetworkError(f"{what} is redirected in a circle", hint="Try later or a mirror")
    if isinstance(error, RuntimeError) and "closed" in str(error):
        # huggingface_hub closes the session that all threads share when one cannot connect.
        return Transient(f"{what}: {_words(error)}")
    if parsing and isinstance(
        error, (ValueError, TypeError, KeyError, AttributeError, AssertionError)
    ):
        # The answer of a login page, a proxy or a broken server, taken for the Hub's.
        return Transient(f"{what}: the answer is not the Hub's ({_words(error)})")
    raise error


def classify_status(status: int, headers: Mapping[str, str], what: str) -> KexueError | Transient:
    """The meaning of a status code that is no success; arguments as for :func:`classify`."""
    code = headers.get("x-error-code", "")
    if status in _PASSING:
        return Transient(f"{what}: HTTP {status}", retry_after=_retry_after(headers))
    if code == "GatedRepo" or status == 403:
        return AccessError(
            f"{what}: access is restricted (HTTP {status})",
            hint="Accept its terms on its page while logged in, then: hf auth login",
        )
    if status == 401:
        return AccessError(
            f"{what}: does not exist, or is private (HTTP 401)",
            hint="Check the name; if it is private: hf auth login",
        )
    if status in (404, 410):
        missing = {
            "RepoNotFound": ("no such repository", "Check owner and name"),
            "RevisionNotFound": ("no such revision", "Check what follows @, or --revision"),
            "EntryNotFound": ("no such file in the repository", "Tell whoever published it"),
        }.get(code, ("not found", "Check the name"))
        return NotFoundError(f"{what}: {missing[0]} (HTTP {status})", hint=missing[1])
    return NetworkError(f"{what}: HTTP {status}", hint="Try again later, or use a mirror")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of ``Retry-After``, which is a number or a date, or of ``RateLimit``'s ``t=``."""
    value = headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        return max(0.0, date.timestamp() - time.time())
    for field in headers.get("ratelimit", "").split(";"):
        key, _, number = field.strip().partition("=")
        if key == "t" and number.isdigit():
            return float(number)
    return None


def pause(seconds: float, stop: threading.Event) -> None:
    """Wait, but not longer than the user does.

    Raises:
        Interrupted: ``stop`` was set.
    """
    if stop.wait(seconds):
        raise Interrupted


def wait_before(retry: int, reason: Transient, patience: Patience, stop: threading.Event) -> None:
    """Wait before the ``retry``-th further try (from 1), as the server asks or doubling.

    Raises:
        NetworkError: The server asks for longer than we wait.
        Interrupted: ``stop`` was set.
    """
    if reason.retry_after is not None:
        if reason.retry_after > patience.longest_retry_after:
            raise NetworkError(
                f"{reason}, and the server asks to come back in {reason.retry_after:.0f} s",
                hint="Run the same command again then; what is here is kept",
            )
        pause(reason.retry_after, stop)
        return
    wait = min(patience.retry_wait * 2 ** (retry - 1), patience.longest_wait)
    # Jitter: the machines of a cluster that failed together must not come back together.
    pause(wait * random.uniform(0.75, 1.25), stop)


def with_retries(ask: Callable[[], T], what: str, patience: Patience, stop: threading.Event) -> T:
    """Ask a question about a repository until it is answered or patience ends.

    Raises:
        NetworkError: No answer after ``patience.attempts`` tries.
        AccessError, NotFoundError, OfflineError: The answer.
        Interrupted: ``stop`` was set.
    """
    for attempt in range(1, patience.attempts + 1):
        try:
            return _in_time(ask, what, patience.reply_timeout, stop)
        except Interrupted:
            raise
        except Exception as error:
            reason = classify(error, what, parsing=True)
            if isinstance(reason, KexueError):
                raise reason from error
            if attempt == patience.attempts:
                raise gave_up(reason, attempt) from error
        wait_before(attempt, reason, patience, stop)
    raise AssertionError("unreachable")


def gave_up(reason: Transient, attempts: int) -> NetworkError:
    """The error after the last try."""
    return NetworkError(
        f"{reason} ({attempts} tries in a row)" if attempts > 1 else str(reason),
        hint="Check the network, then run the same command again: what is here is kept",
    )


def _in_time(ask: Callable[[], T], what: str, limit: float, stop: threading.Event) -> T:
    """Run ``ask`` for at most ``limit`` seconds.

    The read timeout of the HTTP library starts anew with each byte, so a server that drips could
    hold one question for hours. The thread is a daemon: if it hangs, nobody waits for it.
    """
    answer: list[T] = []
    trouble: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            answer.append(ask())
        except BaseException as error:
            trouble.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True, name="kexue-ask").start()
    deadline = time.monotonic() + limit
    while not done.wait(min(0.1, limit)):
        if stop.is_set():
            raise Interrupted
        if time.monotonic() > deadline:
            raise Transient(f"{what}: no answer within {limit:.0f} s")
    if trouble:
        raise trouble[0]
    return answer[0]
