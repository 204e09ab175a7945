"""The errors that users meet: each has a stable code, says what is wrong, where, and what to change.

`AttuneError` is a mistake of the caller or a limit of the place; it travels to HTTP as the OpenAI envelope,
to a job as `job.error`. Bugs of ours are other exceptions and are never wrapped in it.
"""

from __future__ import annotations


class AttuneError(Exception):
    """A problem its reader can act on.

    `code` is stable and greppable, `param` names the field at fault (dotted path), `status` is the HTTP status
    when the error meets a request. `retry` says whether the same call may succeed later unchanged.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status: int = 400,
        type: str = "invalid_request_error",  # the envelope's own key
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.status = status
        self.type = type
        self.retry_after_s = retry_after_s


class InvalidExample(AttuneError):
    """An example that cannot be trained on. `line` is 1-based in its file."""

    def __init__(self, message: str, *, code: str, line: int | None = None, field: str | None = None) -> None:
        super().__init__(message, code=code, param="training_file")
        self.line = line
        self.field = field


class TemplateRefused(AttuneError):
    """A chat template whose supervised tokens cannot be determined; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="template_refused", param="model")


class NotFound(AttuneError):
    """Nothing of that id is visible to the caller (another tenant's id answers the same)."""

    def __init__(self, message: str, *, code: str | None = None, param: str | None = "id") -> None:
        super().__init__(message, code=code, param=param, status=404)


class QuotaReached(AttuneError):
    """The project has all that an operator allows it. Nothing is gained by trying again at once."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message, code=code, status=429, type="insufficient_quota", retry_after_s=60.0)


class Unavailable(AttuneError):
    """A part is away or busy for now; try again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, code: str = "unavailable", retry_after_s: float = 5.0) -> None:
        super().__init__(message, code=code, status=503, type="server_error", retry_after_s=retry_after_s)


def envelope(error: AttuneError) -> dict[str, dict[str, str | None]]:
    """The error as OpenAI's clients read it."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
