"""The directory spec's byte encodings: big-endian integers and length-prefixed strings."""


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def lp(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data
