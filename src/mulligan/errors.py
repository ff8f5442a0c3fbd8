"""The errors a user of Mulligan can meet, with the texts and the JSON form of the wire format.

On the wire an error is an externally tagged enum, as serde writes one::

    {"UnsupportedLanguage": "cobol"}        {"Timeout": 30000}
"""

from __future__ import annotations

from typing import ClassVar


class VmExecutionError(Exception):
    """Base of every error Mulligan raises on purpose.

    ``str(error)`` is one line. ``field`` names the request field at fault and ``remedy`` what to
    do about it, where there is one.
    """

    variant: ClassVar[str] = "Internal"
    template: ClassVar[str] = "Internal error: {}"
    http_status: ClassVar[int] = 500

    def __init__(
        self, detail: str | int, *, field: str | None = None, remedy: str | None = None
    ) -> None:
        if isinstance(detail, str):  # half a surrogate pair could be told to nobody
            detail = detail.encode(errors="backslashreplace").decode()
        self.detail = detail
        self.field = field
        self.remedy = remedy
        if remedy is not None:
            self.add_note(remedy)  # shown below the error where nobody catches it
        super().__init__(" ".join(self.template.format(detail).splitlines()))

    def to_wire(self) -> dict[str, str | int]:
        """The enum form: one key, the variant's name."""
        return {self.variant: self.detail}


class VmNotAvailable(VmExecutionError):  # noqa: N818  (names of the wire format)
    """No such VM, or none may be made for this agent."""

    variant = "VmNotAvailable"
    template = "VM not available: {}"
    http_status = 404


class VmBusy(VmNotAvailable):
    """Something runs in the VM; "VmNotAvailable" on the wire."""

    http_status = 409


class ValidationFailed(VmExecutionError):  # noqa: N818
    """The request or the code in it was refused before anything ran."""

    variant = "ValidationFailed"
    template = "Code validation failed: {}"
    http_status = 400


class TerminalRefused(ValidationFailed):
    """A terminal may not be had here, or no more of them; "ValidationFailed" on the wire."""

    template = "Terminal refused: {}"
    http_status = 403


class RequirementsRefused(ValidationFailed):
    """The packages asked for cannot be had; "ValidationFailed" on the wire."""

    template = "Requirements not installed: {}"


class PackagesNotFound(ValidationFailed):
    """No set of packages has that id; "ValidationFailed" on the wire."""

    template = "Packages not found: {}"
    http_status = 404


class ImageNotFound(ValidationFailed):
    """No image, or none that is being made, goes by that; "ValidationFailed" on the wire."""

    template = "Image not found: {}"
    http_status = 404


class ImageInUse(ValidationFailed):
    """VMs or VM types are of the image; "ValidationFailed" on the wire."""

    template = "Image in use: {}"
    http_status = 409


class ExecutionTimeout(VmExecutionError):  # noqa: N818
    """The deadline passed; ``detail`` is the limit in milliseconds."""

    variant = "Timeout"
    template = "Execution timeout after {}ms"
    http_status = 504


class UnsupportedLanguage(VmExecutionError):  # noqa: N818
    """The language is not allowed here, or its toolchain is not on this host."""

    variant = "UnsupportedLanguage"
    template = "Language not supported: {}"
    http_status = 400


class ApiError(VmExecutionError):
    """The server answered with something the client cannot use."""

    variant = "ApiError"
    template = "API error: {}"
    http_status = 502


class Unauthorized(ApiError):  # noqa: N818
    """The server wants a token that is good; "ApiError" on the wire, like the next two."""

    http_status = 401


class Forbidden(ApiError):  # noqa: N818
    """The token is good, but not for this."""

    http_status = 403


class TooManyRequests(ApiError):  # noqa: N818
    """An agent has, runs or asks for as much as it may."""

    http_status = 429

    def __init__(
        self,
        detail: str | int,
        *,
        field: str | None = None,
        remedy: str | None = None,
        retry_after_s: int = 1,
    ) -> None:
        super().__init__(detail, field=field, remedy=remedy)
        self.retry_after_s = retry_after_s


class InternalError(VmExecutionError):
    """A fault of Mulligan's own."""

    variant = "Internal"
    template = "Internal error: {}"


class HistoryError(VmExecutionError):
    """A history operation failed or history is off."""

    variant = "HistoryError"
    template = "History error: {}"


class ExecutionNotFound(HistoryError):  # noqa: N818
    """No execution has that id, or it is another agent's; "HistoryError" on the wire."""

    http_status = 404


class SnapshotNotFound(VmExecutionError):  # noqa: N818
    """No snapshot has that id."""

    variant = "SnapshotNotFound"
    template = "Snapshot not found: {}"
    http_status = 404


class RollbackFailed(VmExecutionError):  # noqa: N818
    """The VM could not be taken back; it is as it was."""

    variant = "RollbackFailed"
    template = "Rollback failed: {}"
    http_status = 409


class SessionNotFound(VmExecutionError):  # noqa: N818
    """No session has that id."""

    variant = "SessionNotFound"
    template = "Session not found: {}"
    http_status = 404


class ConnectionFailed(VmExecutionError):  # noqa: N818
    """The server could not be reached."""

    variant = "ConnectionError"
    template = "Connection error: {}"
    http_status = 502


class ConfigError(VmExecutionError):
    """A setting is wrong, or this host cannot do what the settings ask."""

    variant = "ConfigError"
    template = "Configuration error: {}"


class ExecutionFailed(VmExecutionError):  # noqa: N818
    """The program could not be started, or its VM died under it."""

    variant = "ExecutionFailed"
    template = "Execution failed: {}"


class Unavailable(ExecutionFailed):
    """No work is taken: the server starts, or it stops; "ExecutionFailed" on the wire."""

    http_status = 503

    def __init__(
        self,
        detail: str | int,
        *,
        field: str | None = None,
        remedy: str | None = None,
        retry_after_s: int = 1,
    ) -> None:
        super().__init__(detail, field=field, remedy=remedy)
        self.retry_after_s = retry_after_s


class HostFull(Unavailable):
    """The host has as many VMs up as it may, and all of them do something."""

    http_status = 503


class SnapshotFailed(VmExecutionError):  # noqa: N818
    """A snapshot could not be made; the VM is as it was."""

    variant = "SnapshotFailed"
    template = "Snapshot creation failed: {}"


class ApprovalRequired(VmExecutionError):  # noqa: N818
    """A person has to say yes first; nothing ran. ``detail`` is "<approval id>: <question>"."""

    variant = "ApprovalRequired"
    template = "Approval required: {}"
    http_status = 403

    @property
    def approval_id(self) -> str:
        """The approval to answer, and then to send along."""
        return str(self.detail).partition(":")[0]


class ApprovalDenied(VmExecutionError):  # noqa: N818
    """A person said no."""

    variant = "ApprovalDenied"
    template = "Approval denied: {}"
    http_status = 403


class ApprovalExpired(VmExecutionError):  # noqa: N818
    """Nobody answered in time, or a yes was not used in time. That is a no, but nobody's."""

    variant = "ApprovalExpired"
    template = "Approval expired: {}"
    http_status = 410


class ApprovalNotFound(VmExecutionError):  # noqa: N818
    """No approval has that id."""

    variant = "ApprovalNotFound"
    template = "Approval not found: {}"
    http_status = 404


class ApprovalConflict(VmExecutionError):  # noqa: N818
    """The approval is not for this, or has been answered or used already."""

    variant = "ApprovalConflict"
    template = "Approval not usable: {}"
    http_status = 409


class FileError(VmExecutionError):
    """Something could not be done with a file of a VM. Subclasses are told apart by status."""

    variant = "FileError"
    template = "File error: {}"
    http_status = 400


class FileMissing(FileError):  # noqa: N818
    """There is no such file or directory."""

    http_status = 404


class FileForbidden(FileError):  # noqa: N818
    """The programs of the VM may not do that, so nobody may."""

    http_status = 403


class FileConflict(FileError):  # noqa: N818
    """What is there is not what it would have to be: a directory, a device, a file in the way."""

    http_status = 409


class FileTooLarge(FileError):  # noqa: N818
    """It is over a limit."""

    http_status = 413


class FileDiskFull(FileError):  # noqa: N818
    """The disk of the VM takes no more; nothing of the file was kept."""

    http_status = 507


class FileBroken(FileError):  # noqa: N818
    """The VM ended or was taken back under it, or gave no answer that can be used."""

    http_status = 502


class SessionExists(VmExecutionError):  # noqa: N818
    """The agent has a session of that name already."""

    variant = "SessionExists"
    template = "Session exists already: {}"
    http_status = 409


class IdempotencyKeyReused(VmExecutionError):  # noqa: N818
    """The key was sent with another request before; nothing ran now."""

    variant = "IdempotencyKeyReused"
    template = "Idempotency key reused: {}"
    http_status = 409


class IdempotencyKeyLost(VmExecutionError):  # noqa: N818
    """The key's request was begun once and its answer is not to be had; nothing ran now."""

    variant = "IdempotencyKeyLost"
    template = "Answer lost: {}"
    http_status = 409


VARIANTS: dict[str, type[VmExecutionError]] = {
    error.variant: error for error in VmExecutionError.__subclasses__()
}


def from_wire(value: object) -> VmExecutionError:
    """Rebuilds an error from its enum form.

    Raises:
        ValueError: ``value`` is not one known variant with a detail of its type.
    """
    if isinstance(value, dict) and len(value) == 1:
        ((name, detail),) = value.items()
        error = VARIANTS.get(name)
        wanted = int if name == "Timeout" else str
        fits = type(detail) is wanted and (isinstance(detail, str) or 0 <= detail < 2**64)
        if error is not None and fits:
            return error(detail)
    raise ValueError(f"not an error of the wire format: {value!r:.200}")
