"""What led to what, as a tree for people: each message with its fate, under the message that caused it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Line:
    """One message of the story."""

    text: str
    fate: str = ""
    under: list[Line] = field(default_factory=list["Line"])

    def __str__(self) -> str:
        return f"{self.text}  → {self.fate}" if self.fate else self.text


class Story:
    """Messages by id, each told once, under what caused it."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._roots: list[Line] = []

    def tell(self, id: str, text: str, *, cause: str | None = None) -> None:
        """Adds a message. Telling of it again changes nothing."""
        if id not in self._lines:
            line = self._lines[id] = Line(text)
            parent = self._lines.get(cause) if cause is not None else None
            (parent.under if parent is not None else self._roots).append(line)

    def end(self, id: str, fate: str) -> None:
        """Says what became of a message; a second fate is added to the first."""
        line = self._lines[id]
        line.fate = f"{line.fate}, {fate}" if line.fate else fate

    def __str__(self) -> str:
        return "\n".join(row for root in self._roots for row in [str(root), *_rows(root, "")])


def _rows(line: Line, indent: str) -> list[str]:
    rows: list[str] = []
    for index, child in enumerate(line.under):
        is_last = index == len(line.under) - 1
        rows.append(f"{indent}{'└─' if is_last else '├─'} {child}")
        rows += _rows(child, f"{indent}{'   ' if is_last else '│  '}")
    return rows
