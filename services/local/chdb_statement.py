r"""What the HTTP layer must know of a statement before the engine sees it, and no more.

ClickHouse's HTTP interface receives one text: the URL's `query`, a newline, the body. For an INSERT the tail of that
text is data in some format, often binary and possibly larger than memory, so the point where SQL ends and data begins
has to be found without decoding the rest. The rules are the server's own: after `FORMAT name`, an optional `;`, then
blanks, then at most one line break belong to the SQL; after `VALUES` everything is data in the format Values.

The scanner knows comments, strings, quoted names and brackets. It does not check the syntax: a text that it does not
understand is passed on whole, and the engine says what is wrong with it.

>>> split_insert(b"INSERT INTO t (a, `FORMAT x`) FORMAT CSV\n1,2")
InsertHead(into='INSERT INTO t (a, `FORMAT x`)', settings='', format='CSV', data_at=41)
>>> split_insert(b"INSERT INTO t SELECT 1") is None
True
>>> output_format("SELECT 1 -- FORMAT CSV\n FORMAT ArrowStream")
'ArrowStream'
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    rb"""(?P<skip> \s+ | --[^\n]* | \#[\x20!][^\n]* | /\*.*?\*/ )
       | (?P<quoted> '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | `(?:[^`\\]|\\.)*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
       | (?P<word> [A-Za-z_]\w* )
       | (?P<other> \d[\w.]* | . )""",
    re.VERBOSE | re.DOTALL,
)
_AFTER_FORMAT = re.compile(rb";?[ \t\f]*\r?\n?")

# Tables that consume a queue in the background. The embedded engine cannot run them, and (measured with chDB 26.9)
# a CREATE that it refuses still leaves its definition on disk, after which the whole directory no longer opens.
QUEUE_ENGINES = frozenset({"azurequeue", "filelog", "kafka", "nats", "rabbitmq", "s3queue"})


@dataclass(frozen=True, slots=True)
class InsertHead:
    """The SQL of an INSERT whose data follows: where to, its SETTINGS clause, the format, where the data begins."""

    into: str
    settings: str
    format: str
    data_at: int


@dataclass(frozen=True, slots=True)
class _Token:
    start: int
    end: int
    word: str  # lower case; empty for anything but a bare word
    text: bytes
    depth: int


def _tokens(text: bytes) -> Iterator[_Token]:
    depth = 0
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "skip":
            continue
        token = match.group()
        if token in (b")", b"]", b"}"):
            depth -= 1
        word = token.decode().lower() if match["word"] else ""
        yield _Token(match.start(), match.end(), word, token, depth)
        if token in (b"(", b"[", b"{"):
            depth += 1


def split_insert(text: bytes) -> InsertHead | None:
    """Where the data of an `INSERT … FORMAT x` or `INSERT … VALUES` begins; None for every other statement.

    `text` may be the first part only of a longer request: the answer is the same once it holds the whole head.

    >>> split_insert(b"INSERT INTO t SETTINGS max_threads = 1 VALUES (1)")
    InsertHead(into='INSERT INTO t', settings='SETTINGS max_threads = 1', format='Values', data_at=45)
    """
    tokens = _tokens(text)
    if next((token.word for token in tokens), "") != "insert":
        return None
    settings_at: int | None = None
    for token in tokens:
        if token.depth or not token.word:
            continue
        if token.word == "settings" and settings_at is None:
            settings_at = token.start
        if token.word == "values":
            return _insert_head(text[: token.start], settings_at, "Values", token.end)
        if token.word in ("select", "with", "infile"):  # reads its rows elsewhere: nothing follows but SQL
            return None
        if token.word == "format":
            name = next(tokens, None)
            if name is None or not name.word:
                return None
            gap = _AFTER_FORMAT.match(text, name.end)
            return _insert_head(text[: token.start], settings_at, name.text.decode(), gap.end() if gap else name.end)
    return None


def _insert_head(sql: bytes, settings_at: int | None, format_name: str, data_at: int) -> InsertHead:
    at = len(sql) if settings_at is None else settings_at
    into, settings = (part.decode("utf-8", "surrogateescape").strip() for part in (sql[:at], sql[at:]))
    return InsertHead(into, settings, format_name, data_at)


def is_insert(text: bytes) -> bool:
    """Whether the statement starts with INSERT, comments aside.

    >>> is_insert(b"/* why */ insert into t"), is_insert(b"SELECT 'insert'")
    (True, False)
    """
    return next((token.word for token in _tokens(text)), "") == "insert"


def output_format(sql: str) -> str | None:
    """The format that the statement itself names in its last FORMAT clause, or None.

    >>> output_format("SELECT format, x FROM t") is None
    True
    >>> output_format("SELECT 1 FORMAT JSON SETTINGS max_threads = 1;")
    'JSON'
    """
    found: str | None = None
    tokens = [token for token in _tokens(sql.encode("utf-8", "surrogateescape")) if token.depth == 0]
    for at, token in enumerate(tokens[:-1]):
        name, after = tokens[at + 1], tokens[at + 2] if at + 2 < len(tokens) else None
        if token.word == "format" and name.word and (after is None or after.text == b";" or after.word == "settings"):
            found = name.text.decode()
    return found


def queue_engine(sql: str) -> str | None:
    """The engine that a CREATE or ATTACH names, if it is one that consumes a queue.

    >>> queue_engine("CREATE TABLE q (a Int8) ENGINE = Kafka('b:9092', 't', 'g', 'CSV')")
    'Kafka'
    >>> queue_engine("SELECT engine FROM system.tables WHERE engine = 'Kafka'") is None
    True
    """
    tokens = _tokens(sql.encode("utf-8", "surrogateescape"))
    if next((token.word for token in tokens), "") not in ("create", "attach", "replace"):
        return None
    after_engine = False
    for token in tokens:
        if after_engine and token.text != b"=":
            if token.word in QUEUE_ENGINES:
                return token.text.decode()
            after_engine = False
        elif not after_engine:
            after_engine = token.word == "engine"
    return None


def keeps_state(sql: str) -> bool:
    """Whether the statement changes only the session it runs in: SET, USE, a temporary table.

    >>> keeps_state("SET max_threads = 1"), keeps_state("CREATE TEMPORARY TABLE t (a Int8)"), keeps_state("SELECT 1")
    (True, True, False)
    """
    words = [token.word for token, _ in zip(_tokens(sql.encode("utf-8", "surrogateescape")), range(4), strict=False)]
    return words[:1] in (["set"], ["use"]) or (words[:1] == ["create"] and "temporary" in words)
