"""The memory of the columnar join, and what its words mean.

**Why.** An open prediction as Python objects takes 2.9 kB and 16 µs an event. Here it is one record of about 130 bytes
in an arena, found through a hash table, visited by a timer, and rendered straight into the bytes of `feedback`. All of
it is compiled (numba) and works on addresses; nothing is allocated per event.

**Arena.** Segments of 256 kB in one reserved range of addresses, filled one after the other; a *position* is a word's
index in it. Records are never moved. A segment counts its live records; when none is left it is filled anew. Records
leave about in the order in which they came, so that is soon; those of policies that wait much longer than others are
put together (`LIVES`), else one in a hundred of them would hold every segment. A byte per segment says whether it was
written since the last snapshot.

**Table.** Extendible hashing (Fagin et al., 1979): tables of 4,096 entries, found through a directory by the upper bits
of the request id's hash; a full one is split alone, so no growth ever stalls. An entry is 23 bits of the hash and the
record's position; linear probing, deletion by shifting back.

**Wheel.** A ring of buckets of 1,024 ms, each a chain through the records that are due in it. Each record is in one
chain. What is due is sorted by (due, position) before it fires, so the order of a chain does not matter.

**Texts.** What repeats (models, versions, names, sources, slices) is kept once and named by a number. The texts of a
prediction that repeat together are one text, as `feedback` will say them.

**Kinds of record.** `CASE`: a request with its one standing prediction. `HEAD`: a request of which only labels or
signals are in state: they came first, or stay longer. `MARKER`: a request that lives in the object path
(`streams.join.processor`). `LABEL`, `SIGNAL`: heard events, in a chain from their request. `STUB`: a request that has
been put away. A request with two identities, a conflict, or very much heard becomes objects and leaves a marker; so the
compiled path treats the plain cases, nearly all, and the object path every case.

**Words.** Numbers share words; `field(word, shift, bits)` reads one.
"""

from __future__ import annotations

from streams.runtime.compiled import compiled
from streams.runtime.native import i64, put64

SEGMENT_WORDS = 1 << 15
MOST_WORDS = 1 << 12
"""A longer record goes to the object path."""

LIVES = 4
HOURS_1, HOURS_2, HOURS_3 = 2 * 3_600_000, 12 * 3_600_000, 72 * 3_600_000
"""How long a record's request stays in state at least, to be of a later life than the first. `FILL` and `FILL_END` are
where each life's segment is being filled."""

TABLE = 4096
TABLE_FULL = 3072
MOST_DEPTH = 18
BUCKET_BITS = 10
WHEEL = 1 << 22
MOST_TEXTS = 1 << 17
TAKEN_TEXTS = MOST_TEXTS - (1 << 14)
"""Records may bring this many; the rest is for policies."""
SHARED_TEXTS = 1 << 16
"""From here on, slices and the like are kept in the record itself."""
TEXT_SLOTS = 1 << 18

LEFT_BITS = 20
"""`LEFT`: a bit for each request (by its hash) of which a record was left for the object path in this call. Those that
follow are left too, so that the records of one request keep their order. `UNSURE`: the number + 1 of a record that was
left and whose request could not be read."""

# Registers: words at the address that every compiled function gets. Addresses first.
(
    ARENA,
    DIRTY,
    LIVE,
    FREE,
    TABLES,
    DIRECTORY,
    DEPTHS,
    COUNTS,
    HEADS,
    TEXT,
    TEXT_AT,
    TEXT_SLOT,
    MODEL_OF,
    IDENTITY_OF,
    BOOK_START,
    BOOK_COUNT,
    BOOK,
    POLICIES,
    RULES,
    PRECEDENCE,
    COUNTERS,
    SPANS,
    SCRATCH,
    OUT,
    OUT_SPANS,
    CHANGES,
    SLOW,
    DUE,
    FIELDS_PREDICTION,
    FIELDS_LABEL,
    FIELDS_SIGNAL,
    PIECES,
    OLDEST,
    # state
    FILL,
    FILL_END,
    FILL_1,
    FILL_1_END,
    FILL_2,
    FILL_2_END,
    FILL_3,
    FILL_3_END,
    SEGMENTS,
    FREED,
    DEPTH,
    TABLES_USED,
    BUCKET,
    FIRST_DUE,
    LINKED,
    CASES,
    HEADS_N,
    MARKERS,
    TEXTS_USED,
    TEXT_FILL,
    STUBS,
    # bounds
    PARTITION,
    PARTITIONS,
    SKEW,
    EARLY,
    GRACE,
    AHEAD,
    MOST_BYTES,
    KEEP,
    CHAINED,
    # this step
    SEEN,
    CLOCK,
    OUT_FILL,
    OUT_END,
    OUT_N,
    CHANGES_N,
    SLOW_N,
    DUE_N,
    DUE_AT,
    DIFFERING,
    LEFT,
    UNSURE,
    MET,
    MET_N,
    REGISTERS,
) = range(78)

STATE = range(FILL, STUBS + 1)
"""The registers that a snapshot keeps."""

# Kinds of record.
CASE, HEAD, MARKER, LABEL, SIGNAL, STUB = 1, 2, 3, 4, 5, 6

# Word 0 of every record: size 20, kind 3, dead 1, flags 8, class 4, heard 8, revision 20.
SIZE, KIND, DEAD, FLAGS, CLASS, HEARD_N, REVISION = 0, 20, 23, 24, 32, 36, 44
EVENT_ID, LONG, PACKED, RETIRED = 1, 2, 4, 128  # flags of a case, head or marker; RETIRED: only the wheel knows it
KEPT = 8  # a head that was a case: what is `JOINED` counted for the prediction that has left
LEAVING = 64  # a case that is being put away, and in a chain of the wheel
JOINED, RETRACTS, VALUED = 1, 2, 4  # flags of what was heard

# CASE and HEAD.
W_DUE = 1  # due 48, policy 16
W_NEXT = 2  # next in the bucket 40, latency's length 8, propensity's 8
W_HEARD = 3  # first heard 40, said kind 2, said status 2, counted status 2, rule 8
W_AT = 4  # at_ms 48, length of the request id as kept 8
W_APPEND = 5  # append_ms 48, length of the subject 16
W_KEY = 6
W_TEXTS = 7  # text A 20, text B 20 (+1; 0: none), length of the score 16
W_SAID = 8  # heard event said 40, length of the prediction 16
W_CONTENT = 9  # with EVENT_ID; else the key is the content
HEAD_WORDS = 5
CASE_WORDS = 9
# With LONG, one more word: length of text B 24, of the features 32. Then the bytes: request id, score, prediction,
# subject, propensity, latency, text B, features.

# STUB, laid out as a HEAD: W_DUE; W_NEXT with the model's text 20 from bit 40 on; the content hash in place of W_HEARD;
# W_AT; the bytes of the request id. Class and revision in word 0.
S_MODEL = 40
S_CONTENT = 3

# MARKER: word 1 the length of the request id, then its bytes.
MARKER_WORDS = 2

# LABEL and SIGNAL.
W_HEARD_NEXT = 1
W_HEARD_AT = 2
W_HEARD_APPEND = 3
W_OFFSET = 4
W_HEARD_KEY = 5
W_HEARD_CONTENT = 6
W_NAMES = 7  # name 20, source 20, model + 1 20
W_VALUE = 8  # a label's text: start in the record 32, length 32; a signal's value: a double
W_REST = 9  # length of the record 32, start of the confidence 24, its length 8
HEARD_WORDS = 10

MOST_HEARD = 16

# Outcomes. Kind: what speaks. Status as in `feedback`.
NONE, EXPLICIT, IMPLICIT, TIMEOUT = 0, 1, 2, 3
PROVISIONAL, FINAL, VOID = 0, 1, 2

# Policies: words of a row.
(
    P_HORIZON,
    P_WAIT,
    P_REACH,
    P_NEGATIVE,
    P_PROVISIONAL,
    P_EXPOSURE,
    P_NAME,
    P_CARRY,
    P_RULES,
    P_RULES_N,
    P_PRECEDENCE,
    P_PRECEDENCE_N,
    P_PLAIN,
    P_TEXT,
    P_TEXT_N,
    P_NAME_TEXT,
    P_NAME_TEXT_N,
    P_LABEL,
    P_LABEL_N,
    P_FAKE,
    P_FAKE_N,
    POLICY_WORDS,
) = range(22)

R_SIGNAL, R_WITHIN, R_COMPARE, R_VALUE, R_LABEL, R_LABEL_N, R_WEIGHT, R_WEIGHT_N, RULE_WORDS = range(9)
COMPARES = ("any", "lt", "le", "gt", "ge", "eq")

# Classes, in the order of the counters: predictions, then labels, then signals.
P_CLASSES = ("open", "provisional", "final", "void", "unlabelled", "duplicate")
H_CLASSES = ("parked", "joined", "duplicate")
OPEN, C_PROVISIONAL, C_FINAL, C_VOID, UNLABELLED, DUPLICATE = range(6)
NEW = 15
"""The class of a case that has not been settled."""
PARKED, C_JOINED, H_DUPLICATE = range(3)
LABEL_COUNTERS, SIGNAL_COUNTERS, COUNTERS_N = 6, 9, 12

RECORD = 7
"""Words of a record to take: value's address, its length, key's address (0: no key), its length, offset, append_ms,
whether it has headers."""

MET_WORDS = 3
"""Words of a row of `MET` (`streams.join.arrivals`): the name of the source or signal 20, text A 20, whether it is a
signal 1; when it arrived; `at_ms` of the prediction."""

CHANGE = 8
"""Words of a change: position; 1 when there is a before; its outcome, heard event, revision; those after. An outcome is
kind | status << 2 | rule << 8."""


@compiled
def reg(m: int, k: int) -> int:
    """Read a register."""
    return i64(m + k * 8)


@compiled
def put(m: int, k: int, value: int) -> None:
    """Write a register."""
    put64(m + k * 8, value)


@compiled
def field(word: int, shift: int, bits: int) -> int:
    """Read a number of a word."""
    return (word >> shift) & ((1 << bits) - 1)


@compiled
def with_field(word: int, shift: int, bits: int, value: int) -> int:
    """Give a word with another number in it."""
    mask = ((1 << bits) - 1) << shift
    return (word & ~mask) | ((value << shift) & mask)
