"""What the folder remembers from one start to the next: ports and secrets."""

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from allasfs.demo.credentials import write_private


@dataclass
class State:
    """The content of the state file."""

    ports: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    ring_ports: tuple[str, ...] = ()  # those for which the rings were built
    # A constant would do, but object names could then be guessed from their files' names.
    hash_suffix: str = field(default_factory=lambda: secrets.token_hex(16))

    def password(self, user: str) -> str:
        """Return the user's password, a new random one at first."""
        return self.passwords.setdefault(user, secrets.token_urlsafe(18))

    def save(self, path: Path) -> None:
        """Write the state file."""
        write_private(path, json.dumps(asdict(self), indent=2) + "\n")


def load_state(path: Path) -> State:
    """Read the state file; a new state if there is none."""
    if not path.exists():
        return State()
    state = State(**json.loads(path.read_text(encoding="ascii")))
    state.ring_ports = tuple(state.ring_ports)
    return state
