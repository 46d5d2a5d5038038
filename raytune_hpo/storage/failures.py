"""What an error of a store's library means: libraries differ, and none of them is imported here."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from enum import Enum

from raytune_hpo.redact import redact

_MOST_TEXT = 300


class Kind(Enum):
    """What to do about an error."""

    MISSING = "there is no such object"
    EXISTS = "there is such an object already"
    TRANSIENT = "may pass"
    REFUSED = "will not pass by itself"


_BY_CODE = {
    "ConditionalRequestConflict": Kind.TRANSIENT,
    "InternalError": Kind.TRANSIENT,
    "NoSuchBucket": Kind.REFUSED,
    "NoSuchKey": Kind.MISSING,
    "OperationAborted": Kind.TRANSIENT,
    "PreconditionFailed": Kind.EXISTS,
    "RequestTimeout": Kind.TRANSIENT,
    "ServiceUnavailable": Kind.TRANSIENT,
    "SlowDown": Kind.TRANSIENT,
}
"""Codes of S3."""
_BY_STATUS = {
    404: Kind.MISSING,
    408: Kind.TRANSIENT,
    409: Kind.TRANSIENT,
    412: Kind.EXISTS,
    429: Kind.TRANSIENT,
}
_BY_NUMBER = {
    number: Kind.REFUSED
    for number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
}
_NO_KEYS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
_GARBLED = "aiohttp.http_exceptions"
_NETWORK = ("aiohttp", "azure", "botocore", "aiobotocore", "google", "requests", "urllib3")
"""Libraries whose own errors, when nothing more is known of them, are of the network."""


def kind_of(error: BaseException) -> Kind | None:
    """Return what an error means, or None when it is none of a store's."""
    if isinstance(error, FileExistsError):
        # Azure answers 409, which can mean other things too.
        return Kind.EXISTS
    for one in _chain(error):
        kind = _by_answer(one)
        if kind is not None:
            return kind
    for one in _chain(error):
        kind = _by_type(one)
        if kind is not None:
            return kind
    return None


def reason_of(error: BaseException) -> str:
    """Return what went wrong, on one line and without secrets."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    said = f"{name}: {text}" if text and isinstance(error, OSError) else text or name
    return redact(said)[:_MOST_TEXT]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, nearest first."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _by_answer(error: BaseException) -> Kind | None:
    """Return what a server's own answer says, if the error holds one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = str(response.get("Error", {}).get("Code"))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return _BY_CODE.get(code) or _by_status(status)
    if type(error).__module__ == _GARBLED:
        # It gives the answer that it could not read a code of its own.
        return None
    for name in ("status_code", "status", "code"):
        kind = _by_status(getattr(error, name, None))
        if kind is not None:
            return kind
    return None


def _by_status(status: object) -> Kind | None:
    try:
        number = int(str(status))
    except ValueError:
        return None
    if number >= 500:
        return Kind.TRANSIENT
    return _BY_STATUS.get(number, Kind.REFUSED) if number >= 300 else None


def _by_type(error: BaseException) -> Kind | None:
    if isinstance(error, FileNotFoundError):
        return Kind.MISSING
    if isinstance(error, FileExistsError):
        return Kind.EXISTS
    if isinstance(error, PermissionError) or type(error).__name__ in _NO_KEYS:
        return Kind.REFUSED
    if isinstance(error, TimeoutError | ConnectionError):
        return Kind.TRANSIENT
    if isinstance(error, OSError) and error.errno is not None:
        return _BY_NUMBER.get(error.errno, Kind.TRANSIENT)
    if type(error).__module__.partition(".")[0] in _NETWORK:
        return Kind.TRANSIENT
    return Kind.REFUSED if isinstance(error, OSError) else None
