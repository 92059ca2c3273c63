"""Records: what is written is read, whatever is around it, and what is not whole is passed over and counted."""

from nuclio_edge.core import record

SEED = record.seed_of(b"this segment")
RECORDS = [(1, 0, 3, 7, b"first"), (255, 4, 65535, 8, b""), (2, 1, 0, 1 << 63, b"third" * 50)]


def written(records=RECORDS, seed=SEED):
    return b"".join(record.frames(seed, records))


def read(data, seed=SEED, at=0):
    reader = record.Reader(data, at, len(data), seed)
    found = [(kind, flags, lane, number, data[a:b]) for _, kind, flags, lane, number, a, b in reader]
    return found, reader


def test_what_is_written_is_read_and_costs_twenty_two_bytes_more():
    data = written()
    assert len(data) == sum(len(one[4]) for one in RECORDS) + record.HEAD * len(RECORDS)
    found, reader = read(data)
    assert found == RECORDS
    assert (reader.end, reader.damaged, reader.torn) == (len(data), 0, False)


def test_unwritten_space_is_the_end():
    found, reader = read(written() + bytes(1000))
    assert found == RECORDS
    assert (reader.end, reader.damaged, reader.torn) == (len(written()), 0, False)
    assert read(bytes(100))[0] == []
    assert read(b"")[0] == []


def test_a_record_that_was_begun_is_no_record_at_whatever_byte_it_ends():
    whole = written(RECORDS[:2])
    last = written(RECORDS[2:])
    for length in range(len(last)):
        found, reader = read(whole + last[:length] + bytes(40))
        assert found == RECORDS[:2], length
        assert reader.end == len(whole)
        assert reader.torn == (length >= 2)


def test_a_changed_byte_costs_one_record_and_is_counted_once():
    data = written()
    middle = len(written(RECORDS[:1]))
    for at in range(middle, middle + record.HEAD):
        spoilt = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
        found, reader = read(spoilt)
        assert found == [RECORDS[0], RECORDS[2]], at
        assert reader.damaged == 1


def test_what_another_segment_wrote_is_no_record():
    other = written(RECORDS, record.seed_of(b"the file's life before"))
    assert read(other)[0] == []
    found, reader = read(written(RECORDS[:1]) + other)
    assert found == RECORDS[:1]
    assert reader.end == len(written(RECORDS[:1]))


def test_a_payload_that_holds_a_record_is_a_payload():
    inside = written(RECORDS[:1])
    found, _ = read(written([(9, 0, 1, 2, inside)]))
    assert found == [(9, 0, 1, 2, inside)]


def test_the_length_is_told_by_the_head():
    data = written(RECORDS[2:])
    assert record.size_of(data[: record.HEAD]) == 250
    assert record.size_of(data[: record.HEAD - 1]) == 0


def test_numbers_are_packed_by_seven_bits():
    numbers = [0, 1, 127, 128, 300, 1 << 32, (1 << 64) - 1]
    assert record.pack_numbers([300]) == b"\xac\x02"
    assert record.unpack_numbers(record.pack_numbers(numbers)) == numbers
    try:
        record.unpack_numbers(b"\x01\x80")
    except ValueError:
        return
    raise AssertionError("a number that is cut off was taken")
