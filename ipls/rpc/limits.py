"""What one call, one caller and one message may take: the same limits for every service, and for who reads its answers.

Tested by tests/rpc/test_limits.py, tests/rpc/test_hostile_peer.py and tests/attack/test_standing_streams.py.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from ipls.address import STRANGER_SHARE

KIB = 1024


@dataclass(frozen=True)
class Method:
    """What a call of one method may take."""

    request: int = 16 * KIB
    """Bytes of one message of the caller's, checked before it is decoded. Decoded, the worst of our messages takes 64
    times its bytes, the worst that a service is asked with 32 (`bench/streams.py decoding`): half a MiB here."""
    answer: int = 256 * KIB
    """Bytes of one message of the service's, which its callers check before they decode it: 10 MiB then, the worst of
    them takes 40 times its bytes. Proofs lie in it as bytes, and their parts are counted before they are decoded
    (`ipls/akd/messages.py`)."""
    deadline_s: float = 60.0
    """From the first message to the end."""
    pause_s: float = 20.0
    """For which the caller may send nothing, or take nothing, beyond what its bytes need; in the whole call."""
    standing: bool = False
    """Only the service speaks, when there is something to say: it lasts for `Limits.standing_s`."""


STANDING = Method(standing=True)

_CHUNKS = 1024 * KIB + KIB
"""A chunk and what surrounds it: bytes, which decode to no more than they are."""
_UPLOAD = Method(_CHUNKS, deadline_s=120)
_DOWNLOAD = Method(answer=_CHUNKS, deadline_s=600)

METHODS: Mapping[str, Method] = {
    "ipls.directory.v1.DirectoryService/WatchHeads": STANDING,
    "ipls.directory.v1.UpdateService/WatchUpdate": STANDING,
    "ipls.registration.v1.RegistrationService/WatchRegistration": STANDING,
    "ipls.directory.v1.DirectoryService/BatchLookup": Method(
        answer=4 * 1024 * KIB
    ),  # 64 proofs, of which our clients ask for none
    "ipls.directory.v1.DirectoryService/TrustRoots": Method(answer=2304 * KIB),  # 8 files of 256 KiB; 90 MiB decoded
    "ipls.directory.v1.DirectoryService/History": Method(
        answer=_CHUNKS + 31 * KIB, deadline_s=300
    ),  # up to 64 MiB come back, the first chunk with a head; 42 MiB decoded
    "ipls.vault.v1.VaultService/Session": Method(66 * KIB, deadline_s=120, pause_s=60),  # the core keeps its time
    "ipls.contacts.v1.ContactsService/GetRecords": replace(_DOWNLOAD, request=192 * KIB),  # 2,000 keys, 6 MiB decoded
    "ipls.contacts.v1.ContactsService/GetManifest": _DOWNLOAD,
    "ipls.contacts.v1.ContactsService/ListRecords": _DOWNLOAD,
    "ipls.contacts.v2.ContactsService/Read": _DOWNLOAD,
    "ipls.contacts.v2.ContactsService/Answer": Method(272 * KIB),  # a package, with a file of 256 KiB
    "ipls.contacts.v2.ContactsService/Collect": Method(answer=288 * KIB),
    "ipls.contacts.v2.ContactsService/ListKept": _DOWNLOAD,
    "ipls.contacts.v2.ContactsService/Follow": STANDING,
    "ipls.contacts.v2.ContactsService/Heal": _UPLOAD,
    "ipls.contacts.v2.ContactsService/Commit": _UPLOAD,
    "ipls.contacts.v2.ContactsService/Begin": _UPLOAD,
    "ipls.contacts.v2.ContactsService/PutRecords": _UPLOAD,
    "ipls.contacts.v2.ContactsService/PutSnapshot": _UPLOAD,
    "ipls.contacts.v2.ContactsService/GetRecords": replace(_DOWNLOAD, request=40 * KIB),  # 1,000 names, which are bytes
    "ipls.contacts.v2.ContactsService/Have": Method(320 * KIB),  # 10,000
    "ipls.witness.v1.WitnessService/Propose": Method(
        32 * KIB, deadline_s=90
    ),  # with a head of 64 signatures; it reads the log
}
"""Those that differ from `Method()`."""


@dataclass(frozen=True)
class Limits:
    """A service's places and times. "Whose" a place is: the caller's client certificate, or its IPv4 address, or the
    /64 of its IPv6 address (who has one has them all); a /48's have together what one address has. Those who show the
    certificate of a role have as many places again, apart from everybody else's."""

    silent: int = 2048
    """Calls whose first message has not come whole. One more takes the place of the oldest of whom there are most. With
    `half_sent` it bounds what they hold; a call costs some 36 KiB besides (`bench/streams.py`)."""
    half_sent: int = 256 << 20
    """Bytes that the messages of the silent may hold together: fewer are silent where messages may be large."""
    silent_s: float = 10.0
    """For the first message, beyond what its bytes need."""
    working: int = 1000
    """Calls in work. A stranger has at most a `stranger_share` of what is left free (111 alone), a role's certificate
    the half of it all, and the half of the rest the next."""
    stranger_share: int = STRANGER_SHARE
    standing: int = 2000
    """Streams on which only the service speaks, shared as those in work: the registration service alone, which waits
    at the directory for each of its devices' tickets, has a thousand, and an address 222."""
    standing_s: float = 600.0
    """Such a stream's life, as long as the longest call's: no more than `connection_grace_s`, so that each ends with a
    reason before its connection does. Whether its caller is still there is seen by HTTP/2's pings (`heartbeat_s`)."""
    rate: int = 16 * KIB
    """Bytes a second that a caller sends or takes, at least, while the service waits for it: a poor mobile line."""
    heartbeat_s: float = 30.0
    """Between two pings of a connection; without an answer for a third of it, the connection goes."""
    handshake_s: float = 10.0
    """For TLS and HTTP/2 to begin: a connection that stops half-way costs a descriptor and 47 KiB (`bench/streams.py
    connections`) for no longer."""
    idle_s: float = 60.0
    """A connection without a call."""
    connection_s: float = 900.0
    """A connection's life; its calls have `connection_grace_s` to end. Python can't end a call whose caller opens no
    HTTP/2 window for its answer: it keeps its place for so long."""
    connection_grace_s: float = 600.0
    streams: int = 1024
    """Calls on one connection: the router's sessions, or the registration service's tickets, come over one."""
    metadata: int = 8 * KIB
    """Bytes of a call's headers: a session's token is the largest, with some 100. gRPC tells callers so, and lets more
    in: what is over it is refused when it is there."""
    methods: Mapping[str, Method] = field(default_factory=lambda: METHODS)

    def method(self, name: str) -> Method:
        """Of `package.Service/Method`."""
        return self.methods.get(name) or Method()

    def largest_request(self, services: Collection[str]) -> int:
        """Bytes of a message that some method of theirs takes."""
        own = [method.request for name, method in self.methods.items() if name.partition("/")[0] in services]
        return max(own, default=0) or Method().request

    def options(self, services: Collection[str]) -> list[tuple[str, int]]:
        """As gRPC takes them; https://grpc.github.io/grpc/core/group__grpc__arg__keys.html."""
        return [
            ("grpc.max_receive_message_length", max(self.largest_request(services), Method().request)),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_metadata_size", self.metadata),
            ("grpc.server_handshake_timeout_ms", _ms(self.handshake_s)),
            ("grpc.max_connection_idle_ms", _ms(self.idle_s)),
            ("grpc.max_connection_age_ms", _ms(self.connection_s)),
            ("grpc.max_connection_age_grace_ms", _ms(self.connection_grace_s)),
            ("grpc.keepalive_time_ms", _ms(self.heartbeat_s)),
            ("grpc.keepalive_timeout_ms", _ms(self.heartbeat_s / 3)),
            ("grpc.http2.ping_timeout_ms", _ms(self.heartbeat_s / 3)),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # the callers' keep-alive
            ("grpc.http2.max_ping_strikes", 2),
        ]


FRONT = Limits(working=Limits().working // 2, standing=Limits().standing // 2)
"""Of a service that asks another, under one certificate, for each of its callers: no more than that one gives it. So it
shares them out fairly, and what is behind it refuses nobody whom it let in."""


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
