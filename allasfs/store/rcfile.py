"""Reads an OpenStack RC file as a shell would, without a shell: nothing in the file is ever run.

Understood are assignments (``A=b``, ``export``, ``declare``...), ``unset``, quotes, ``$A``,
``${A}``, ``${A:-b}``, ``~/``, ``if [ -z ... ]`` and its relatives, ``&&`` and ``||``, comments,
continued lines, and ``read``: all that dashboards write into such files. Other commands are passed
over. A value that only a command could tell, or a condition that cannot be decided, is an error if
a wanted variable depends on it: one line with file and line number, and never with the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from allasfs.errors import BadCredentials

AskPassword = Callable[[str], str]

# Dashboards write 2 kB; whatever is larger is another file, given by mistake.
SIZE_LIMIT_BYTES = 256 * 1024

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=", re.ASCII)
_BRACED = re.compile(r"\{([A-Za-z_]\w*)(?:(:?-)([^}$`'\"\\]*))?\}", re.ASCII)
_OPERATOR = re.compile(r"&&|\|\||;;|[;&|()\n]")
_EXPORTS = frozenset({"export", "declare", "typeset", "readonly", "local"})
_CLOSED_BY = {
    "for": "done",
    "while": "done",
    "until": "done",
    "select": "done",
    "case": "esac",
    "{": "}",
    "(": ")",
}

_COMMAND = "the output of a command, and allasfs runs no commands"


@dataclass(frozen=True, slots=True)
class _Value:
    """What a word stands for: a text, an answer yet to be typed, or nothing that can be known."""

    text: str = field(default="", repr=False)
    prompt: str | None = None
    unclear: str = ""

    @property
    def is_plain(self) -> bool:
        return self.prompt is None and not self.unclear


@dataclass(frozen=True, slots=True)
class _Word:
    value: _Value
    # The name when the word begins with an unquoted ``NAME=``, and where its value begins.
    name: str = ""
    # Whether no part of it was quoted or expanded: only such words are keywords and commands.
    is_bare: bool = False


@dataclass(frozen=True, slots=True)
class _Operator:
    text: str


@dataclass(slots=True)
class _Block:
    """An open ``if``, loop or group: whether its lines apply (None: nobody can tell)."""

    end: str
    outer: bool | None
    applies: bool | None
    is_decided: bool | None = False  # of an if: whether an earlier branch was taken


def read(
    path: Path,
    *,
    wanted: Collection[str],
    environ: Mapping[str, str],
    home: Path,
    ask_password: AskPassword | None = None,
) -> dict[str, str]:
    """Return the wanted variables that the file sets; raise BadCredentials with one clear line.

    Where the file asks a person (``read``), the variable of that name in ``environ`` is the answer,
    or else what ``ask_password`` returns.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as exc:
        raise BadCredentials(f"{path}: cannot be read: {exc.strerror}") from exc
    if len(raw) > SIZE_LIMIT_BYTES:
        raise BadCredentials(f"{path}: is too large to be an RC file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Without the cause: it holds the bytes of the file.
        raise BadCredentials(f"{path}: is not a text file in UTF-8") from None
    script = _Script(path, text.replace("\r\n", "\n"), frozenset(wanted), environ, home)
    script.run()
    return script.answers(ask_password)


class _Script:
    """One reading of one file: a lexer, and an interpreter for the few commands that matter."""

    def __init__(
        self,
        path: Path,
        text: str,
        wanted: frozenset[str],
        environ: Mapping[str, str],
        home: Path,
    ) -> None:
        self._path = path
        self._text = text
        self._wanted = wanted
        self._environ = environ
        self._home = home
        self._at = 0
        self._line = 1  # of the present command
        self._values: dict[str, _Value] = {}
        self._removed: set[str] = set()
        self._lines: dict[str, int] = {}
        self._blocks: list[_Block] = []
        self._status: bool | None = True  # of the last command, as && and || see it
        self._echoed = ""
        self._is_over = False

    # -- the result -------------------------------------------------------------------------------

    def answers(self, ask_password: AskPassword | None) -> dict[str, str]:
        """Return the wanted variables, asking for those that the file asks for."""
        found: dict[str, str] = {}
        for name in sorted(self._wanted & self._values.keys()):
            value = self._values[name]
            if value.unclear:
                raise self._error(f"the value of {name} is {value.unclear}", self._lines[name])
            text = value.text
            if value.prompt is not None:
                text = self._environ.get(name) or self._ask(name, value.prompt, ask_password)
            if text:
                found[name] = text
        return found

    def _ask(self, name: str, prompt: str, ask_password: AskPassword | None) -> str:
        if ask_password is None:
            raise self._error(
                f"the file asks for {name}, and there is no terminal to ask at: set {name} in the"
                " environment",
                self._lines[name],
            )
        answer = ask_password(prompt or f"{name}: ")
        if not answer:
            raise self._error(f"no {name} was given", self._lines[name])
        return answer

    def _error(self, what: str, line: int | None = None) -> BadCredentials:
        return BadCredentials(f"{self._path}, line {line or self._line}: {what}")

    # -- the interpreter --------------------------------------------------------------------------

    def run(self) -> None:
        """Go through the file once, from top to bottom."""
        words: list[_Word] = []
        before = "\n"  # the operator in front of the command
        for token in self._tokens():
            if isinstance(token, _Word):
                words.append(token)
                continue
            operator = token.text
            if operator == "(":
                # After NAME= an array; after another word, the word is a function's name.
                words = [_spoiled(word, "an array") for word in words if word.name]
            self._statement(words, before, after=operator)
            words = []
            if operator in "()":
                self._group(operator)
            before = operator
            if self._is_over:
                return
        self._statement(words, before, after="\n")

    def _group(self, operator: str) -> None:
        if operator == "(":
            self._open(")", applies=None)
        elif self._blocks and self._blocks[-1].end == ")":
            self._blocks.pop()

    @property
    def _applies(self) -> bool | None:
        return self._blocks[-1].applies if self._blocks else True

    def _open(self, end: str, *, applies: bool | None) -> None:
        outer = self._applies
        self._blocks.append(_Block(end, outer, False if outer is False else applies))

    def _statement(self, words: list[_Word], before: str, *, after: str) -> None:
        words = self._keywords(words)
        applies = self._applies
        if before in {"&&", "||"} and applies is not False:
            status = self._status if before == "&&" else _inverse(self._status)
            applies = _both(applies, status)
        if "|" in {before, after} or after == "&":
            applies = _both(applies, None)  # in a process of its own: what it sets is lost, mostly
        if words and applies is not False:
            status = self._command(words, applies)
            self._status = status if applies else None
        elif words and before not in {"&&", "||"}:
            self._status = None

    def _keywords(self, words: list[_Word]) -> list[_Word]:
        """Open and close blocks; return the command that follows the keywords."""
        while words and words[0].is_bare:
            word = words[0].value.text
            block = self._blocks[-1] if self._blocks else None
            if word == "if":
                self._open("fi", applies=self._applies)
            elif block and block.end == "fi" and word == "then":
                block.applies = _both(_both(block.outer, _inverse(block.is_decided)), self._status)
                block.is_decided = _either(block.is_decided, self._status)
            elif block and block.end == "fi" and word in {"elif", "else"}:
                block.applies = _both(block.outer, _inverse(block.is_decided))
            elif block and word == block.end:
                self._blocks.pop()
                self._status = None
            elif word in _CLOSED_BY:
                self._open(_CLOSED_BY[word], applies=None)
            elif word == "!":
                return []  # never in front of an assignment
            elif word not in {"do", "function"}:
                return words
            words = words[1:]
        return words

    def _command(self, words: list[_Word], applies: bool | None) -> bool | None:
        """Do what the command says if it sets variables; return whether it succeeds."""
        first = words[0]
        if all(word.name for word in words):
            for word in words:
                self._assign(word.name, word.value, applies)
            return True
        if not first.is_bare or first.name:
            return None
        command, arguments = first.value.text, words[1:]
        if command in _EXPORTS:
            for word in arguments:
                if word.name:
                    self._assign(word.name, word.value, applies)
            return True
        if command == "unset":
            for word in arguments:
                self._assign(word.value.text, None, applies)
            return True
        if command == "read":
            return self._read(arguments, applies)
        if command in {"[", "[[", "test"}:
            return _test([word.value for word in arguments if word.value.text not in {"]", "]]"}])
        if command in {"echo", "printf"}:
            texts = [word.value.text for word in arguments]
            self._echoed = " ".join(text for text in texts if not text.startswith("-"))
            return True
        if command in {"return", "exit"} and applies:
            self._is_over = True
        return {"true": True, ":": True, "false": False}.get(command)

    def _assign(self, name: str, value: _Value | None, applies: bool | None) -> None:
        if applies is None:
            # It may or may not happen. Only where it would change something does that matter.
            if value is None and not self._value(name).text:
                return
            value = _Value(unclear="set or removed under a condition that allasfs cannot decide")
        self._lines[name] = self._line
        if value is None:
            self._values.pop(name, None)
            self._removed.add(name)
        else:
            self._values[name] = value
            self._removed.discard(name)

    def _read(self, arguments: list[_Word], applies: bool | None) -> bool:
        prompt, takes_prompt = self._echoed, False
        names = []
        for word in arguments:
            text = word.value.text
            if takes_prompt:
                prompt, takes_prompt = text, False
            elif text.startswith("-"):
                takes_prompt = text.endswith("p")
            elif _NAME.fullmatch(text):
                names.append(text)
        shown = "".join(c for c in prompt if c.isprintable()).rstrip()
        for name in names:
            self._assign(name, _Value(prompt=f"{shown} " if shown else ""), applies)
        return True

    def _value(self, name: str) -> _Value:
        if name in self._values:
            return self._values[name]
        return _Value("" if name in self._removed else self._environ.get(name, ""))

    # -- the lexer --------------------------------------------------------------------------------

    def _tokens(self) -> Iterator[_Word | _Operator]:
        """Yield words and operators; ``_line`` is the line on which the present command began."""
        line, is_new = 1, True
        while self._at < len(self._text):
            rest = self._text[self._at]
            if rest in " \t":
                self._at += 1
            elif self._text.startswith("\\\n", self._at):
                self._at += 2
                line += 1
            elif rest == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif match := _OPERATOR.match(self._text, self._at):
                self._at = match.end()
                yield _Operator(match[0])
                line += match[0] == "\n"
                is_new = True
            elif rest in "<>":
                self._redirection()
            else:
                if is_new:
                    self._line, is_new = line, False
                begin = self._at
                word = self._word()
                line += self._text.count("\n", begin, self._at)
                yield word

    def _redirection(self) -> None:
        if self._text.startswith("<<", self._at) and not self._text.startswith("<<<", self._at):
            raise self._error("here-documents (<<) cannot be read without a shell", self._here())
        while self._at < len(self._text) and self._text[self._at] in "<>&|":
            self._at += 1
        if self._text.startswith("(", self._at):
            self._skip_command()

    def _here(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _word(self) -> _Word:
        """Read one word, which may have quoted and expanded parts."""
        name, is_bare = "", True
        parts: list[_Value] = []
        if match := _ASSIGNMENT.match(self._text, self._at):
            name = match[1]
            self._at = match.end()
            if match[2]:
                parts.append(_Value(unclear="appended to"))
        if self._text.startswith("~/", self._at):
            parts.append(_Value(f"{self._home}/"))
            self._at += 2
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in " \t\n;&|()<>":
                break
            if char in "'\"\\$`":
                is_bare = False
                parts.extend(self._special(char))
            else:
                parts.append(_Value(char))
                self._at += 1
        return _Word(_joined(parts), name, is_bare)

    def _special(self, char: str) -> list[_Value]:
        if char == "'":
            return [_Value(self._until_quote())]
        if char == '"':
            return self._double_quoted()
        if char == "\\":
            escaped = self._text[self._at + 1 : self._at + 2]
            self._at += 2
            return [_Value("" if escaped == "\n" else escaped)]
        return [self._expansion()]

    def _until_quote(self) -> str:
        begin = self._at + 1
        end = self._text.find("'", begin)
        if end < 0:
            raise self._error("a quotation mark (') is never closed", self._here())
        self._at = end + 1
        return self._text[begin:end]

    def _double_quoted(self) -> list[_Value]:
        opened = self._here()
        self._at += 1
        parts: list[_Value] = []
        while (char := self._text[self._at : self._at + 1]) != '"':
            if not char:
                raise self._error('a quotation mark (") is never closed', opened)
            if char in "$`":
                parts.append(self._expansion(is_quoted=True))
            elif char == "\\" and self._text[self._at + 1 : self._at + 2] in {*'$`"\\\n'}:
                parts.extend(self._special("\\"))
            else:
                parts.append(_Value(char))
                self._at += 1
        self._at += 1
        return parts

    def _expansion(self, *, is_quoted: bool = False) -> _Value:
        """Read what begins with ``$`` or a backquote."""
        if self._text[self._at] == "`":
            opened = self._here()
            end = self._text.find("`", self._at + 1)
            if end < 0:
                raise self._error("a backquote is never closed", opened)
            self._at = end + 1
            return _Value(unclear=_COMMAND)
        self._at += 1
        if self._text.startswith("(", self._at):
            self._skip_command()
            return _Value(unclear=_COMMAND)
        if match := _NAME.match(self._text, self._at):
            self._at = match.end()
            return self._value(match[0])
        if match := _BRACED.match(self._text, self._at):
            self._at = match.end()
            value = self._value(match[1])
            is_missing = value.is_plain and not value.text
            if match[2] == "-":
                is_missing = match[1] in self._removed or not (
                    match[1] in self._values or match[1] in self._environ
                )
            return _Value(match[3]) if match[2] and is_missing else value
        if self._text.startswith("{", self._at):
            end = self._text.find("}", self._at)
            self._at = len(self._text) if end < 0 else end + 1
            return _Value(unclear="an expansion (${...}) that allasfs does not know")
        if not is_quoted and self._text.startswith(("'", '"'), self._at):
            return _Value(unclear="in a form of quotation ($'...') that allasfs does not know")
        following = self._text[self._at : self._at + 1]
        if following and following in "0123456789#?@*!$-":
            self._at += 1
            return _Value(unclear="a parameter of the shell")
        return _Value("$")

    def _skip_command(self) -> None:
        """Go past a bracketed command, with the quotes and brackets inside."""
        opened = self._here()
        depth = 0
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "'":
                self._until_quote()
                continue
            if char == '"':
                self._double_quoted()
                continue
            self._at += 2 if char == "\\" else 1
            depth += (char == "(") - (char == ")")
            if not depth:
                return
        raise self._error("a bracket is never closed", opened)


def _joined(parts: list[_Value]) -> _Value:
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        if part.unclear:
            return part
        if part.prompt is not None:
            return _Value(unclear="put together from an answer that is typed in")
    return _Value("".join(part.text for part in parts))


def _spoiled(word: _Word, why: str) -> _Word:
    return _Word(_Value(unclear=why), word.name)


def _test(words: list[_Value]) -> bool | None:
    """Return what ``[ ... ]`` says of these words, None if only a shell could tell."""
    if any(word.unclear for word in words):
        return None
    # A line that a person types is taken for one that is not empty.
    texts = [word.text or ("?" if word.prompt is not None else "") for word in words]
    match texts:
        case ["!", *_]:
            return _inverse(_test(words[1:]))
        case ["-z", text]:
            return not text
        case ["-n", text] | [text]:
            return bool(text)
        case [left, "=" | "==", right]:
            return left == right
        case [left, "!=", right]:
            return left != right
    return None


def _inverse(claim: bool | None) -> bool | None:
    return None if claim is None else not claim


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def _either(one: bool | None, other: bool | None) -> bool | None:
    return _inverse(_both(_inverse(one), _inverse(other)))
