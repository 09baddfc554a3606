"""The embedded ClickHouse through the client that the code uses, and byte by byte where the client cannot show it."""

import base64
import gzip
import http.client
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import clickhouse_connect
import lz4.frame  # type: ignore[import-untyped]
import psutil
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_connect.driver.httpclient import HttpClient

from services.local.clickhouse import LocalClickHouse
from services.local.owner import DirectoryInUse

pytestmark = pytest.mark.clickhouse


@pytest.fixture
def client(clickhouse: LocalClickHouse, database: str) -> Iterator[HttpClient]:
    """Give a client in the test's own database."""
    client = clickhouse.client(database)
    yield client
    client.close()


@pytest.fixture
def table(client: HttpClient) -> str:
    """Give a table with a number, a text and an array."""
    client.command("CREATE TABLE t (id UInt64, s String, f Array(Float32)) ENGINE = MergeTree ORDER BY id")
    return "t"


class Answer:
    """One HTTP exchange without any client library in between."""

    def __init__(
        self,
        server: LocalClickHouse,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        password: str | None = None,
    ) -> None:
        secret = f"{server.user}:{server.password if password is None else password}".encode()
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        given = {"Authorization": "Basic " + base64.b64encode(secret).decode(), **(headers or {})}
        connection.request(method, path, body, given, encode_chunked=not isinstance(body, bytes | None))
        answer = connection.getresponse()
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()
        self.code = answer.headers.get("X-ClickHouse-Exception-Code")
        connection.close()


def wait_until(met: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for a condition, and fail when it never comes."""
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, "the condition did not come"
        time.sleep(0.02)


# -- what the client does ---------------------------------------------------------------------------------------------


def test_commands_and_queries(client: HttpClient, table: str) -> None:
    assert client.ping()
    assert client.command("SELECT 1") == 1
    assert client.command("SELECT count() FROM t WHERE id > 5") == 0
    assert client.command("SELECT s FROM t LIMIT 5") == "", "a result without rows is not a command's summary"
    assert client.query("SELECT number, toString(number) FROM numbers(3)").result_rows == [(0, "0"), (1, "1"), (2, "2")]
    assert client.query("SELECT * FROM t").result_rows == []
    assert client.query("SELECT id, s FROM t LIMIT 0").column_names == ("id", "s")
    assert client.query("SELECT 1").query_id


@pytest.mark.parametrize("text", ["it's", 'quo"te', "back\\slash", "tab\tline\nend", "ünï ☃", "", "{x:String}", "%s"])
def test_parameters_are_bound_not_pasted(client: HttpClient, text: str) -> None:
    rows = client.query("SELECT {s:String}, {n:Int64}, {a:Array(String)}", {"s": text, "n": -5, "a": [text, "b"]})
    assert rows.result_rows == [(text, -5, [text, "b"])]
    assert client.command("SELECT length({s:String})", {"s": text}) == len(text.encode())


def test_a_long_parameter_travels_as_a_form(client: HttpClient) -> None:
    long = "é'\\\t" * 20_000
    assert client.query("SELECT {s:String} AS s, {m:Nullable(Int8)} AS m", {"s": long, "m": None}).result_rows == [
        (long, None)
    ]


def test_rows_in_and_out(client: HttpClient, table: str) -> None:
    summary = client.insert(table, [[i, f"row {i}", [i, 0.5]] for i in range(1000)], column_names=["id", "s", "f"])
    assert summary.written_rows == 1000
    assert client.query("SELECT id, s, f FROM t ORDER BY id LIMIT 2").result_rows == [
        (0, "row 0", [0, 0.5]),
        (1, "row 1", [1, 0.5]),
    ]


def test_arrow_in_and_out(client: HttpClient, table: str) -> None:
    count = 200_000
    rows = pa.table({"id": range(count), "s": [str(i % 97) for i in range(count)], "f": [[1.0, 2.0]] * count})
    client.insert_arrow(table, rows)
    assert client.query_arrow("SELECT * FROM t").num_rows == count
    with client.query_arrow_stream("SELECT id, s FROM t") as batches:
        numbers = [n for batch in batches for n in batch["id"].to_pylist()]
    assert sorted(numbers) == list(range(count))
    with client.query_arrow_stream("SELECT id FROM t WHERE id < 0") as batches:
        assert sum(batch.num_rows for batch in batches) == 0


def test_streamed_arrow_keeps_dictionaries(client: HttpClient) -> None:
    sql = "SELECT toLowCardinality(toString(number % 7)) AS s FROM numbers(300000)"
    settings = {"output_format_arrow_low_cardinality_as_dictionary": 1}
    with client.query_arrow_stream(sql, settings=settings) as batches:
        values = [value for batch in batches for value in batch["s"].to_pylist()]
    assert len(values) == 300_000
    assert set(values) == set("0123456")


def test_native_streams(client: HttpClient) -> None:
    with client.query_row_block_stream("SELECT number FROM numbers(300000)") as blocks:
        sizes = [len(block) for block in blocks]
    assert sum(sizes) == 300_000
    assert len(sizes) > 1


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_large_insert_in_chunks(clickhouse: LocalClickHouse, database: str, table: str, compress: Any) -> None:
    client = clickhouse.client(database, compress=compress)
    ids, texts = list(range(300_000)), ["x" * (i % 20) for i in range(300_000)]
    columns: list[list[Any]] = [ids, texts, [[0.5]] * 300_000]
    client.insert(table, columns, column_names=["id", "s", "f"], column_oriented=True)
    assert client.query("SELECT count(), sum(id), sum(length(s)) FROM t").result_rows == [
        (300_000, sum(ids), sum(len(s) for s in texts))
    ]
    client.close()


@pytest.mark.parametrize(
    ("fmt", "data"),
    [
        ("CSV", '1,"it\'s; VALUES (1)",[]\n2,"b",[1.5]\n'),
        ("TabSeparated", "1\tit's; VALUES (1)\t[]\n2\tb\t[1.5]\n"),
        ("JSONEachRow", '{"id":1,"s":"it\'s; VALUES (1)","f":[]}\n{"id":2,"s":"b","f":[1.5]}\n'),
        ("Values", "(1,'it\\'s; VALUES (1)',[]),(2,'b',[1.5])"),
    ],
)
@pytest.mark.parametrize("shape", ["text", "generator", "gzip", "frames"])
def test_raw_insert(client: HttpClient, table: str, fmt: str, data: str, shape: str) -> None:
    block: Any = data
    compression = None
    if shape == "generator":
        block = (character.encode() for character in data)
    elif shape == "gzip":
        block, compression = gzip.compress(data.encode()), "gzip"
    elif shape == "frames":
        block, compression = b"".join(lz4.frame.compress(data[i : i + 9].encode()) for i in range(0, 99, 9)), "lz4"
    client.raw_insert(table, ["id", "s", "f"], insert_block=block, fmt=fmt, compression=compression)
    assert client.query("SELECT id, s, f FROM t ORDER BY id").result_rows == [
        (1, "it's; VALUES (1)", []),
        (2, "b", [1.5]),
    ]


def test_inline_values_and_select(client: HttpClient, table: str) -> None:
    client.command("INSERT INTO t (id, s) VALUES (1, 'a'), (2, 'b')")
    client.command("INSERT INTO t (id, s) SELECT id + 10, s FROM t")
    client.command("INSERT INTO t (id, s) FORMAT CSV", data="5,x\n")
    client.command("INSERT INTO {table:Identifier} (id, s) VALUES", {"table": "t"}, data="(6, 'y')")
    assert client.query("SELECT groupArray(id) FROM (SELECT id FROM t ORDER BY id)").first_row == (
        [1, 2, 5, 6, 11, 12],
    )


def test_settings_hold_for_their_request_only(client: HttpClient) -> None:
    sql = "SELECT value FROM system.settings WHERE name = 'max_block_size'"
    usual = client.command(sql)
    assert client.command(sql, settings={"max_block_size": 123}) == 123
    assert client.command(sql) == usual


def test_a_session_keeps_its_state_and_no_other(clickhouse: LocalClickHouse, database: str) -> None:
    one, two = (clickhouse.client(database, session_id=f"{database}-{i}") for i in (1, 2))
    setting = "SELECT value FROM system.settings WHERE name = 'max_block_size'"
    usual = one.command(setting)
    one.command("SET max_block_size = 77")
    one.command("CREATE TEMPORARY TABLE mine (a Int8)")
    one.command("INSERT INTO mine VALUES (1)")
    assert one.command("SELECT count() FROM mine") == 1
    assert one.command(setting, settings={"max_block_size": 5}) == 5
    assert (one.command(setting), two.command(setting)) == (77, usual)
    with pytest.raises(DatabaseError) as refused:
        two.command("SELECT count() FROM mine")
    assert refused.value.code == 60
    one.close()
    two.close()


def test_many_clients_at_once(clickhouse: LocalClickHouse, database: str, table: str) -> None:
    def work(worker: int) -> int:
        client = clickhouse.client(database)
        for i in range(20):
            client.insert(table, [[worker * 1000 + i, str(worker), []]], column_names=["id", "s", "f"])
        mine = client.command("SELECT count() FROM t WHERE s = {w:String}", {"w": str(worker)})
        client.close()
        return int(str(mine))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [20] * 8


def test_slow_queries_do_not_hold_up_others(clickhouse: LocalClickHouse) -> None:
    slow, quick = clickhouse.client(), clickhouse.client()
    with ThreadPoolExecutor(1) as pool:
        sleeping = pool.submit(slow.command, "SELECT sleep(2)")
        count = 0
        while not sleeping.done():
            assert quick.command("SELECT 1") == 1
            count += 1
    assert count > 10
    slow.close()
    quick.close()


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT * FROM nowhere", 60),
        ("SELECT 1 +", 62),
        ("SELECT 1; SELECT 2", 62),
        ("SELECT unheard_of(1)", 46),
        ("SELECT nothing FROM t", 47),
        ("INSERT INTO t (id) VALUES ('x')", 6),
        ("INSERT INTO nowhere VALUES (1)", 60),
        ("SELECT throwIf(1)", 395),
        ("SELECT groupArray(number) FROM numbers(10000000) SETTINGS max_memory_usage = 10000000", 241),
        ("INSERT INTO t SELECT 1, '', [] SETTINGS min_free_disk_bytes_to_perform_insert = 1000000000000000", 243),
        ("CREATE TABLE q (a Int8) ENGINE = Kafka('b:9092', 'topic', 'group', 'CSV')", 48),
    ],
)
def test_errors_carry_their_codes(client: HttpClient, table: str, sql: str, code: int) -> None:
    with pytest.raises(DatabaseError, match=f"Code: {code}") as refused:
        client.command(sql)
    assert refused.value.code == code
    assert client.command("SELECT 1") == 1, "the connection is usable afterwards"
    assert client.command("SELECT count() FROM t") == 0


def test_unknown_database_and_setting(clickhouse: LocalClickHouse) -> None:
    for query, status, code in (("database=nowhere", 404, "81"), ("no_such_setting=1", 404, "115")):
        answer = Answer(clickhouse, "POST", f"/?{query}", b"SELECT 1")
        assert (answer.status, answer.code) == (status, code)


def test_statuses_are_clickhouses(clickhouse: LocalClickHouse) -> None:
    def status(sql: bytes) -> int:
        return Answer(clickhouse, "POST", "/", sql).status

    assert [status(sql) for sql in (b"SELECT 1", b"SELEC 1", b"SELECT * FROM nowhere")] == [200, 400, 404]
    assert status(b"SELECT throwIf(1)") == 500


def test_an_error_in_the_middle_of_a_stream(client: HttpClient, clickhouse: LocalClickHouse) -> None:
    sql = "SELECT throwIf(number = 250000) FROM numbers(300000) SETTINGS max_block_size = 1000, max_threads = 1"
    with (
        pytest.raises(StreamFailureError, match="Code: 395"),
        client.query_row_block_stream(sql) as blocks,
    ):
        for _ in blocks:
            pass
    answer = Answer(clickhouse, "POST", "/", f"{sql} FORMAT TSV".encode())
    assert answer.status == 200
    tag = answer.headers["X-ClickHouse-Exception-Tag"].encode()
    assert answer.body.rstrip().endswith(tag + b"\r\n__exception__")


def test_a_malformed_insert_leaves_nothing(client: HttpClient, table: str) -> None:
    good = "".join(f"{i},a,[]\n" for i in range(50_000))
    with pytest.raises(DatabaseError):
        client.raw_insert(table, ["id", "s", "f"], insert_block=good + "oops\n", fmt="CSV")
    with pytest.raises(DatabaseError):
        client.raw_insert(table, insert_block=gzip.compress(good.encode())[:-20], fmt="CSV", compression="gzip")
    with pytest.raises(DatabaseError) as refused:
        client.raw_insert(table, insert_block=b"x", fmt="CSV", compression="br")
    assert "Content-Encoding 'br' is not known" in str(refused.value)
    assert client.command("SELECT count() FROM t") == 0


def test_an_insert_that_cannot_be_written_is_an_error(client: HttpClient, table: str) -> None:
    """Not a matter of course: chDB's own streaming insert reports success here."""
    rows, full = [[1, "a", []]], {"min_free_disk_bytes_to_perform_insert": 10**15}
    with pytest.raises(DatabaseError) as refused:
        client.insert(table, rows, column_names=["id", "s", "f"], settings=full)
    assert refused.value.code == 243
    client.command("CREATE TABLE sums (n UInt8) ENGINE = MergeTree ORDER BY n")
    client.command("CREATE MATERIALIZED VIEW v TO sums AS SELECT throwIf(id = 1) AS n FROM t")
    with pytest.raises(DatabaseError) as refused:
        client.insert(table, rows, column_names=["id", "s", "f"])
    assert refused.value.code == 395
    assert client.command("SELECT count() FROM sums") == 0


def test_an_insert_larger_than_the_spool(client: HttpClient, table: str) -> None:
    line = "x" * 1000
    data = (f"{i},{line},[]\n".encode() * 1000 for i in range(80))
    client.raw_insert(table, ["id", "s", "f"], insert_block=data, fmt="CSV")
    assert client.query("SELECT count(), sum(length(s)) FROM t").result_rows == [(80_000, 80_000_000)]


def test_a_client_that_vanishes_inserts_nothing(clickhouse: LocalClickHouse, client: HttpClient, table: str) -> None:
    secret = base64.b64encode(f"{clickhouse.user}:{clickhouse.password}".encode()).decode()
    path = f"/?query=INSERT%20INTO%20{client.database}.t%20(id)%20FORMAT%20CSV"
    for head in ({"Transfer-Encoding": "chunked"}, {"Content-Length": "100"}):
        connection = http.client.HTTPConnection(clickhouse.host, clickhouse.port)
        connection.putrequest("POST", path)
        for name, value in {"Authorization": f"Basic {secret}", **head}.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(b"4\r\n1\n2\n\r\n" if "Transfer-Encoding" in head else b"1\n2\n")
        connection.close()
    wait_until(lambda: client.command("SELECT count() FROM system.processes WHERE query LIKE 'INSERT%'") == 0)
    assert client.command("SELECT count() FROM t") == 0


def test_authentication(clickhouse: LocalClickHouse) -> None:
    with pytest.raises(DatabaseError) as refused:
        clickhouse_connect.get_client(
            host=clickhouse.host, port=clickhouse.port, username=clickhouse.user, password="wrong"
        )
    assert refused.value.code == 516
    answer = Answer(clickhouse, "POST", "/", b"SELECT 1", password="wrong")
    assert (answer.status, answer.code) == (403, "516")
    assert Answer(clickhouse, "POST", "/", b"SELECT 1", {"Authorization": "Basic !"}).code == "516"
    assert Answer(clickhouse, "POST", "/", b"SELECT 1", {"Authorization": ""}).code == "516"
    by_header = {"Authorization": "", "X-ClickHouse-User": clickhouse.user, "X-ClickHouse-Key": clickhouse.password}
    assert Answer(clickhouse, "POST", "/", b"SELECT 1", by_header).body == b"1\n"
    assert Answer(clickhouse, "GET", "/ping", headers={"Authorization": ""}).body == b"Ok.\n"
    mode = stat.S_IMODE((clickhouse.directory / "http_password").stat().st_mode)
    assert mode == 0o600


def test_get_only_reads(clickhouse: LocalClickHouse) -> None:
    assert Answer(clickhouse, "GET", "/?query=SELECT%201").body == b"1\n"
    assert Answer(clickhouse, "GET", "/?query=SELECT%201&default_format=JSONEachRow").body == b'{"1":1}\n'
    for sql in ("DROP%20DATABASE%20default", "INSERT%20INTO%20t%20VALUES%20(1)"):
        assert Answer(clickhouse, "GET", f"/?query={sql}").code == "164"


@pytest.mark.parametrize(
    "headers",
    [{"Content-Length": "x"}, {"Content-Length": "5", "Transfer-Encoding": "chunked"}, {"Content-Encoding": "nope"}],
)
def test_broken_requests_are_refused(clickhouse: LocalClickHouse, headers: dict[str, str]) -> None:
    answer = Answer(clickhouse, "POST", "/", b"SELECT 1", headers)
    assert (answer.status, answer.code) == (400, "210")


# -- the engines that the recorder builds on --------------------------------------------------------------------------


def test_insert_tokens_make_inserts_idempotent(client: HttpClient) -> None:
    client.command(
        "CREATE TABLE d (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100"
    )
    rows = [[i] for i in range(1000)]
    for token in ("p/0/0", "p/0/0", "p/0/1000"):
        client.insert("d", rows, column_names=["a"], settings={"insert_deduplication_token": token})
    assert client.command("SELECT count() FROM d") == 2000
    for _ in range(2):
        client.insert_arrow("d", pa.table({"a": range(300_000)}), settings={"insert_deduplication_token": "p/1/0"})
    assert client.command("SELECT count() FROM d") == 302_000


def test_the_mergetree_family_and_views(client: HttpClient) -> None:
    client.command("CREATE TABLE r (k Int64, v Int64) ENGINE = ReplacingMergeTree(v) ORDER BY k")
    client.insert("r", [[1, 1], [2, 1]], column_names=["k", "v"])
    client.insert("r", [[1, 2]], column_names=["k", "v"])
    assert client.query("SELECT k, v FROM r FINAL ORDER BY k").result_rows == [(1, 2), (2, 1)]
    client.command("CREATE TABLE s (k Int64, n UInt64) ENGINE = SummingMergeTree ORDER BY k")
    client.command(
        "CREATE TABLE a (k Int64, u AggregateFunction(uniq, Int64)) ENGINE = AggregatingMergeTree ORDER BY k"
    )
    client.command("CREATE MATERIALIZED VIEW to_s TO s AS SELECT k, count() AS n FROM r GROUP BY k")
    client.command("CREATE MATERIALIZED VIEW to_a TO a AS SELECT k, uniqState(v) AS u FROM r GROUP BY k")
    client.insert("r", [[1, 3], [1, 4]], column_names=["k", "v"])
    assert client.query("SELECT k, sum(n) FROM s GROUP BY k").result_rows == [(1, 2)]
    assert client.query("SELECT uniqMerge(u) FROM a").result_rows == [(2,)]
    client.command("CREATE TABLE j (k Int64, d JSON) ENGINE = MergeTree ORDER BY k")
    client.raw_insert("j", insert_block='{"k":1,"d":{"a":{"b":3}}}', fmt="JSONEachRow")
    assert client.query("SELECT d.a.b::Int64 FROM j").result_rows == [(3,)]


# -- life and death ---------------------------------------------------------------------------------------------------


def test_second_owner_is_refused_and_named(clickhouse: LocalClickHouse) -> None:
    with pytest.raises(DirectoryInUse, match=f"process {clickhouse.pid} ") as refused:
        LocalClickHouse(clickhouse.directory).start()
    assert refused.value.pid == clickhouse.pid


def test_stop_and_start_keep_port_password_and_rows(tmp_path: Path) -> None:
    server = LocalClickHouse(tmp_path / "ch", restart=False)
    seen = set()
    for _ in range(2):
        with server:
            client = server.client()
            client.command("CREATE TABLE IF NOT EXISTS t (a Int8) ENGINE = MergeTree ORDER BY a")
            client.command("INSERT INTO t VALUES (1)")
            seen.add((server.port, server.password))
            process = psutil.Process(server.pid)
            addresses = {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
            assert addresses == {"127.0.0.1"}
            count = client.command("SELECT count() FROM t")
            client.close()
        assert not process.is_running()
    assert count == 2
    assert len(seen) == 1


def test_acknowledged_inserts_survive_kill(tmp_path: Path) -> None:
    """Writers keep inserting while the server is killed three times; it comes back, every acked block is whole."""
    told: list[str] = []
    rows_per_block, blocks_per_writer, writers = 50, 40, 3
    with LocalClickHouse(tmp_path / "ch", told=told.append) as server:
        setup = server.client()
        setup.command("CREATE DATABASE k")
        setup.command(
            "CREATE TABLE k.t (block UInt32, row UInt32) ENGINE = ReplacingMergeTree ORDER BY (block, row) "
            "SETTINGS non_replicated_deduplication_window = 10000"
        )
        acked: list[int] = []
        tried: list[int] = []
        stopped = threading.Event()

        def write(writer: int) -> None:
            client: HttpClient | None = None
            for block in range(writer * blocks_per_writer, (writer + 1) * blocks_per_writer):
                rows = [[block, row] for row in range(rows_per_block)]
                for attempt in range(1000):
                    if stopped.is_set():
                        return
                    tried.append(block)
                    try:
                        client = client or server.client("k")
                        # Each attempt has a token of its own, which also guards the client's own silent retry.
                        token = {"insert_deduplication_token": f"{block}/{attempt}"}
                        client.insert("t", rows, column_names=["block", "row"], settings=token)
                    except Exception:
                        stopped.wait(0.02)
                    else:
                        acked.append(block)
                        break

        with ThreadPoolExecutor(writers) as pool:
            done = [pool.submit(write, writer) for writer in range(writers)]
            try:
                for kill in range(1, 4):
                    wait_until(lambda kill=kill: len(acked) >= 25 * kill)  # type: ignore[misc]
                    at_kill, pid = set(acked), server.pid
                    assert pid is not None
                    os.kill(pid, signal.SIGKILL)
                    wait_until(lambda pid=pid: server.pid not in (None, pid) and _answers(server))  # type: ignore[misc]
                    check = server.client("k")
                    rows_of = check.query("SELECT block, count() FROM t FINAL GROUP BY block").result_rows
                    counts: dict[int, int] = {int(block): int(count) for block, count in rows_of}
                    check.close()
                    assert {block for block in at_kill if counts.get(block) != rows_per_block} == set()
                    assert set(counts.values()) == {rows_per_block}, "no block is there in part"
                for future in done:
                    future.result(60)
            finally:
                stopped.set()
        final = server.client("k")
        expected = writers * blocks_per_writer * rows_per_block
        assert final.query("SELECT count() FROM t FINAL").result_rows == [(expected,)]
        final.close()
        setup.close()
    assert len([line for line in told if "ended by itself" in line]) == 3


def _answers(server: LocalClickHouse) -> bool:
    try:
        return Answer(server, "GET", "/ping").status == 200
    except OSError:
        return False


_STARTER = """
import sys, time
from services.local.clickhouse import LocalClickHouse
print(LocalClickHouse(sys.argv[1]).start().pid, flush=True)
time.sleep(600)
"""


def test_the_server_ends_with_its_starter(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", _STARTER, str(tmp_path / "ch")], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    server = psutil.Process(pid)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    # No pause: whoever restarts everything after a `kill -9` of everything gets the directory.
    with LocalClickHouse(tmp_path / "ch") as again:
        assert again.pid != pid
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_sigterm_lets_running_requests_finish(tmp_path: Path) -> None:
    server = LocalClickHouse(tmp_path / "ch", restart=False).start()
    client = server.client()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.command, "SELECT sleep(1.5)")
        other = server.client()
        wait_until(lambda: other.command("SELECT count() FROM system.processes WHERE query LIKE 'SELECT sleep%'") == 1)
        server.stop()
        assert running.result(10) == 0
    client.close()
    other.close()
