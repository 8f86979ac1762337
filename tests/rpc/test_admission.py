"""How places are shared, and what the limits say of each method."""

from contextlib import suppress
from importlib import import_module

import pytest

from ipls.rpc.admission import METHODS, Limits, Method, Places
from ipls.rpc.errors import ServiceError


def taken(places: Places, holder: str) -> int:
    """How many it gets when it wants all."""
    count = 0
    with suppress(ServiceError):
        while True:
            places.take(holder)
            count += 1
    return count


def test_each_of_those_who_want_all_leaves_a_part_free() -> None:
    places = Places(100)
    assert [taken(places, holder) for holder in "abc"] == [50, 25, 13]
    for _ in range(50):
        places.leave("a")
    assert taken(places, "d") == 31


def test_the_last_place_is_given() -> None:
    places = Places(1)
    with places.place("a"), pytest.raises(ServiceError):
        places.take("b")
    places.take("b")


def test_nobody_has_more_than_each_may() -> None:
    places = Places(100, each=3)
    assert [taken(places, holder) for holder in "ab"] == [3, 3]
    places.leave("a")
    assert taken(places, "a") == 1


def test_the_methods_with_limits_of_their_own_are_there() -> None:
    for name in METHODS:
        service, _, method = name.partition("/")
        package = service.rpartition(".")[0].split(".")
        if package[0] == "ipls":
            descriptor = import_module(f"ipls.proto.{'.'.join(package[1:])}.{package[1]}_pb2").DESCRIPTOR
            assert method in descriptor.services_by_name[service.rpartition(".")[2]].methods_by_name


def test_the_half_sent_messages_of_a_service_are_bounded_together() -> None:
    limits = Limits()
    assert limits.largest_request(["ipls.directory.v1.DirectoryService"]) == Method().request
    assert limits.largest_request(["ipls.contacts.v1.ContactsService"]) > 1 << 20
