"""Prints the events of a TensorBoard file as JSON lines, after checking the sums of every record.

usage: read_events.py FILE      a line: {"step", "time", "scalars": {tag: number}} or "texts" in place of "scalars"
"""

import json
import struct
import sys


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        sums = struct.unpack_from("<I", data, at + 8) + struct.unpack_from("<I", data, at + 12 + length)
        if sums != (crc32c(data[at : at + 8]), crc32c(body)):
            sys.exit(f"the record at byte {at} has wrong sums")
        yield body
        at += 16 + length


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def fields(data):
    """(number, value) of a message: an integer, a double, a float or bytes."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            value, at = struct.unpack_from("<d" if kind == 1 else "<f", data, at)[0], at + (8 if kind == 1 else 4)
        yield key >> 3, value


def first(data, number):
    return next(value for field, value in fields(data) if field == number)


bodies = list(records(open(sys.argv[1], "rb").read()))
if first(bodies[0], 3) != b"brain.Event:2":
    sys.exit("the file does not begin with its version")
for body in bodies[1:]:
    event = {"step": first(body, 2), "time": first(body, 1)}
    for field, value in fields(first(body, 5)):
        tag = first(value, 1).decode()
        numbers = [v for f, v in fields(value) if f == 2]
        if numbers:
            event.setdefault("scalars", {})[tag] = numbers[0]
        else:
            assert first(first(first(value, 9), 1), 1) == b"text" and first(first(value, 8), 1) == 7
            event.setdefault("texts", {})[tag] = first(first(value, 8), 8).decode()
    print(json.dumps(event))
