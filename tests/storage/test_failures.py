"""What the errors of different libraries mean, by what they look like."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from raytune_hpo.storage.failures import Kind, kind_of, reason_of


class ClientError(Exception):
    """As botocore's."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {
            "Error": {"Code": code},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }


class HttpError(Exception):
    """As gcsfs's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"answer {code}")
        self.code = code


class HttpResponseError(Exception):
    """As Azure's."""

    def __init__(self, status: int | None) -> None:
        super().__init__("answer")
        self.status_code = status


class NoCredentialsError(Exception):
    """As botocore's."""


NoCredentialsError.__module__ = "botocore.exceptions"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def of_library(module: str, **more: Any) -> Exception:
    kind: Any = type("SomeError", (Exception,), {"__module__": module, **more})
    made: Exception = kind("no route")
    return made


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        # s3fs: an OSError whose number says little, made of an answer that says all.
        (caused(OSError(22, "bad"), ClientError("PreconditionFailed", 412)), Kind.EXISTS),
        (caused(OSError(16, "x"), ClientError("ConditionalRequestConflict", 409)), Kind.TRANSIENT),
        (caused(OSError(16, "x"), ClientError("SlowDown", 503)), Kind.TRANSIENT),
        (caused(OSError(5, "x"), ClientError("Unheard of", 500)), Kind.TRANSIENT),
        (caused(PermissionError("x"), ClientError("AccessDenied", 403)), Kind.REFUSED),
        (caused(PermissionError("x"), ClientError("ExpiredToken", 400)), Kind.REFUSED),
        (caused(OSError(78, "x"), ClientError("PermanentRedirect", 301)), Kind.REFUSED),
        (caused(FileNotFoundError("x"), ClientError("NoSuchKey", 404)), Kind.MISSING),
        (caused(FileNotFoundError("x"), ClientError("NoSuchBucket", 404)), Kind.REFUSED),
        (NoCredentialsError("Unable to locate credentials"), Kind.REFUSED),
        (of_library("botocore.exceptions"), Kind.TRANSIENT),
        # gcsfs
        (FileExistsError("b/o"), Kind.EXISTS),
        (OSError("Forbidden: b/o"), Kind.REFUSED),
        (HttpError(429), Kind.TRANSIENT),
        (HttpError(503), Kind.TRANSIENT),
        (HttpError(401), Kind.REFUSED),
        (of_library("aiohttp.client_exceptions"), Kind.TRANSIENT),
        (of_library("aiohttp.http_exceptions", code=400), Kind.TRANSIENT),
        # adlfs
        (caused(FileExistsError("x"), HttpResponseError(409)), Kind.EXISTS),
        (HttpResponseError(403), Kind.REFUSED),
        (HttpResponseError(500), Kind.TRANSIENT),
        (of_library("azure.core.exceptions"), Kind.TRANSIENT),
        # A folder
        (OSError(errno.ENOSPC, "full"), Kind.REFUSED),
        (OSError(errno.EIO, "broken"), Kind.TRANSIENT),
        (TimeoutError(), Kind.TRANSIENT),
        (ConnectionResetError(), Kind.TRANSIENT),
        # Ours
        (TypeError("a mistake"), None),
        (KeyError("x"), None),
    ],
)
def test_what_an_error_means(error: Exception, kind: Kind | None) -> None:
    assert kind_of(error) is kind


def test_a_reason_is_one_line_without_secrets() -> None:
    error = OSError("cannot reach\nhttp://me:hunter2@host/x?api_key=abc")
    assert reason_of(error) == "OSError: cannot reach http://***@host/x?api_key=***"
    assert reason_of(TimeoutError()) == "TimeoutError"
    assert len(reason_of(ValueError("x" * 10_000))) == 300
