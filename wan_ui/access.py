"""Who makes a call and what that identity may read, change and use.

| | owner | the browser it came from | another browser | a program without a browser |
|---|---|---|---|---|
| a browser's job: read | yes | yes | with a shared gallery | no |
| a browser's job: cancel, retry, favourite, delete | yes | yes | no | no |
| a browser's comparison: mark cells and vote, for one's own session | yes | yes | with a shared gallery | no |
| a comparison: what all sessions say together | yes | no | no | no |
| the loaded model: unload it; free memory and disk: read | yes | no | no | no |
| a training job's folder: watch it, and end that | yes | no | no | no |
| a job that a program sent over HTTP | yes | by its id | by its id | by its id |
| a browser's uploaded LoRA, first frame or sample: use | yes | yes | no | no |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from wan_ui.identity import LOCAL_IDENTITY, Identity

FileKind = Literal["lora", "image"]
"""Kinds of uploaded files: LoRAs by upload id; images, training samples and Gradio's files under "image"."""


@dataclass(frozen=True)
class Access:
    """The identity that makes a call. `shared`: browsers may read each other's jobs and clips.

    The methods take the `visitor` of a job or of a gallery entry: the id of the browser it came from, None for one
    that a program sent over HTTP.
    """

    identity: Identity
    shared: bool

    def is_from(self, visitor: str | None) -> bool:
        """Whether the caller is the browser that a job came from."""
        return visitor is not None and visitor == self.identity.visitor

    def may_list(self, visitor: str | None) -> bool:
        """Whether a job is shown to the caller without the caller knowing its id."""
        return self.identity.owner or self.is_from(visitor) or (self.shared and visitor is not None)

    def may_read(self, visitor: str | None) -> bool:
        """Whether the caller, knowing a job's id, may read the job."""
        return visitor is None or self.may_list(visitor)

    def may_change(self, visitor: str | None) -> bool:
        """Whether the caller, knowing a job's id, may cancel, retry, keep or delete."""
        return self.identity.owner or visitor is None or self.is_from(visitor)


LOCAL_ACCESS = Access(LOCAL_IDENTITY, shared=False)
"""This program itself: everything is allowed."""


class FileOwners(Protocol):
    """Records which browsers uploaded a file."""

    def record_owner(self, visitor: str, kind: FileKind, file_id: str) -> None:
        """Record that a browser uploaded a file; recording it again changes nothing."""

    def record_owners(self, visitor: str, kind: FileKind, file_ids: Sequence[str]) -> None:
        """As `record_owner` for many files."""

    def is_owner(self, visitor: str, kind: FileKind, file_id: str) -> bool:
        """Whether a browser uploaded this file."""


class UploadedFiles:
    """Decides who may use uploaded files of one kind, by the recorded owners.

    Without `owners` nothing is recorded, and only the owner and this program itself may use uploaded files.
    """

    def __init__(self, owners: FileOwners | None, kind: FileKind) -> None:
        self._owners = owners
        self._kind: FileKind = kind

    def record_owner(self, file_id: str, access: Access) -> None:
        """Record that the caller uploaded a file. A caller without a browser is not recorded."""
        if self._owners is not None and access.identity.visitor is not None:
            self._owners.record_owner(access.identity.visitor, self._kind, file_id)

    def record_owners(self, file_ids: Sequence[str], access: Access) -> None:
        """As `record_owner` for many files."""
        if self._owners is not None and access.identity.visitor is not None:
            self._owners.record_owners(access.identity.visitor, self._kind, file_ids)

    def is_owner(self, file_id: str, access: Access) -> bool:
        """Whether the caller uploaded a file; without a browser, whether the caller may use every file."""
        visitor = access.identity.visitor
        if visitor is None:
            return access.identity.owner
        return self._owners is not None and self._owners.is_owner(visitor, self._kind, file_id)

    def may_use(self, file_id: str, access: Access) -> bool:
        """Whether the caller may use a file."""
        return access.identity.owner or self.is_owner(file_id, access)
