"""Where SQL ends and data begins, against statements built from parts whose border is known."""

from hypothesis import given
from hypothesis import strategies as st

from services.local.chdb_statement import output_format, split_insert

gaps = st.sampled_from([" ", "\n", "\t ", " -- FORMAT CSV\n", "/* VALUES (1) */", " # select\n"])
names = st.sampled_from(["t", "`FORMAT CSV`", '"VALUES (1)"', "`a\\`b`", "db.t", "{table:Identifier}"])
columns = st.sampled_from(["", "(a, b)", "(`format`, values)", "(a, `)`)"])
settings = st.sampled_from(["", "SETTINGS insert_deduplication_token = 'FORMAT x'", "settings max_threads=1"])
formats = st.sampled_from(["Native", "CSV", "JSONEachRow"])
data = st.binary(max_size=40)


@given(gaps, names, columns, settings, st.one_of(st.none(), formats), data)
def test_the_border_is_found(
    gap: str, name: str, column: str, setting: str, format_name: str | None, rows: bytes
) -> None:
    parts = ["INSERT", "INTO", name, column, setting, f"FORMAT {format_name}" if format_name else "VALUES"]
    head = gap.join(part for part in parts if part)
    text = (head + ("\n" if format_name else "")).encode()
    found = split_insert(text + (rows if format_name else b"(" + rows))
    assert found is not None
    assert found.data_at == len(text)
    assert found.format == (format_name or "Values")
    assert found.into.startswith("INSERT")
    assert found.settings.startswith(setting)
    assert bool(found.settings) == bool(setting)


@given(gaps, formats, settings)
def test_the_last_format_clause_counts(gap: str, format_name: str, setting: str) -> None:
    sql = gap.join(["SELECT 'FORMAT x' AS format, (SELECT 1) FROM t", "FORMAT " + format_name, setting])
    assert output_format(sql) == format_name
    assert output_format("SELECT 'FORMAT x' AS format, values FROM t" + gap + setting) is None


def test_inserts_without_data_of_their_own() -> None:
    for sql in (
        b"INSERT INTO t SELECT 1",
        b"INSERT INTO t WITH 1 AS x SELECT x",
        b"INSERT INTO t FROM INFILE 'x' FORMAT CSV",
    ):
        assert split_insert(sql) is None
    assert split_insert(b"SELECT 1 FORMAT CSV") is None
