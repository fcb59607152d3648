"""Bytes that must not leave this process by accident."""

from __future__ import annotations

import hmac
from types import TracebackType
from typing import NoReturn, Self, SupportsIndex

from domain.errors import Malformed, NotAllowed


class Unpicklable:
    """Objects of this kind stay in the process that made them: pickling and copying raise `TypeError`."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is neither pickled nor copied")


class Secret(Unpicklable):
    """A secret value with a scope: `with` closes it, and a closed one raises `NotAllowed`.

    Nothing prints it, encodes it, pickles it, copies it or hashes it; comparison takes constant time. Closing
    overwrites the buffer kept here. That is best effort: every `reveal()` and `text()` is a copy that Python frees
    when it likes.
    """

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: bytes | str) -> None:
        """Raises `Malformed` for text that has no UTF-8, such as what was read in another encoding."""
        try:
            self._value: bytearray | None = bytearray(value.encode() if isinstance(value, str) else value)
        except UnicodeEncodeError:
            raise Malformed("secret", "...", "text that can be written as UTF-8") from None

    def reveal(self) -> bytes:
        return bytes(self._open())

    def text(self) -> str:
        """The value as UTF-8; raises `NotAllowed` when it is none."""
        try:
            return self._open().decode()
        except UnicodeDecodeError:
            raise NotAllowed("show a secret as text", "it is not UTF-8", "Read its bytes.") from None

    def close(self) -> None:
        if self._value is not None:
            self._value[:] = bytes(len(self._value))
            self._value = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self._open(), other._open()) if isinstance(other, Secret) else NotImplemented

    def __repr__(self) -> str:
        return "Secret(...)"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def _open(self) -> bytearray:
        if self._value is None:
            raise NotAllowed("read a secret", "it is closed", "Ask for it again where it is needed.")
        return self._value
