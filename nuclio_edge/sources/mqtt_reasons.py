"""The broker's reason codes in words (MQTT 5, 2.4; of 3.1.1 as paho translates them)."""

from __future__ import annotations

TAKEN_OVER = 0x8E
PROTOCOL_VERSION = 0x84
REFUSAL = 0x80  # codes from here on say no

_WORDS = {
    0x00: "normal end",
    0x04: "normal end, with the will",
    0x80: "no reason given",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "refused for a reason of its own",
    0x84: "it does not speak this version of MQTT",
    0x85: "the client id is not valid there",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "the server is unavailable",
    0x89: "the server is busy",
    0x8A: "banned",
    0x8B: "it is shutting down",
    0x8C: "bad authentication method",
    0x8D: "no packet within the keepalive",
    0x8E: "another client uses the client id",
    0x8F: "the topic filter is not valid",
    0x90: "the topic is not valid",
    0x93: "more unacknowledged messages than it allows",
    0x94: "topic alias not valid",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x99: "the payload is not what it says",
    0x9A: "it keeps no retained messages",
    0x9B: "it does not have this QoS",
    0x9C: "use another server",
    0x9D: "the server has moved",
    0x9E: "it has no shared subscriptions",
    0x9F: "connection rate exceeded",
    0xA0: "the longest time of a connection is over",
    0xA1: "it has no subscription identifiers",
    0xA2: "it has no wildcard subscriptions",
}


def explain(code: int, *, v5: bool) -> str:
    """A reason code in words, with its number; 3.1.1 has one code for every refused subscription."""
    if not v5 and code == 0x80:
        return "refused"
    return f"{_WORDS.get(code, 'unknown')} (0x{code:02x})"


def no_broker(first: int) -> str:
    """What speaks there, by the first byte of an answer that is no CONNACK."""
    if first == 0x15:
        return "it answers in TLS; write mqtts:// in url"
    if first == 0x48:
        return "it answers in HTTP; write ws:// in url, or the port that speaks MQTT"
    return f"a packet of type {first >> 4} before a CONNACK"
