"""Steps that do more, or less, than append."""

import pytest

from ipls.akd import EMPTY_ROOT, verify_append_only
from ipls.proto.akd.v1 import akd_pb2 as pb
from tests.attack.directory import EMPTY, ROOT, Node, RawLabel, Tree, digest, raw, trie
from tests.attack.victim import EPOCH, refuses, victims_server


def root_over(elements: list[Node]) -> bytes:
    """The root that a lenient checker would build over these elements."""
    return Tree(elements).root()


def nodes(proof: pb.SingleAppendOnlyProof) -> tuple[list[Node], list[Node]]:
    """A proof's inserted leaves and unchanged nodes."""

    def label(element: pb.AzksElement) -> RawLabel:
        return RawLabel(element.label.label_val.ljust(32, b"\0"), element.label.label_len)

    inserted = [Node(label(element), commitment=element.value, epoch=EPOCH) for element in proof.inserted]
    return inserted, [Node(label(element), bare=element.value) for element in proof.unchanged_nodes]


def step(inserted: list[Node], unchanged: list[Node]) -> bytes:
    return pb.SingleAppendOnlyProof(
        inserted=[pb.AzksElement(label=node.label.message(), value=node.commitment) for node in inserted],
        unchanged_nodes=[node.element() for node in unchanged],
    ).SerializeToString()


def last_step() -> tuple[list[Node], list[Node]]:
    return nodes(victims_server().append_only(EPOCH))


def test_the_server_makes_honest_steps() -> None:
    inserted, unchanged = last_step()
    old, new = victims_server().tree(EPOCH - 1).root(), victims_server().tree().root()
    assert (root_over(unchanged), root_over(inserted + unchanged)) == (old, new)
    verify_append_only(old, new, EPOCH, step(inserted, unchanged))
    verify_append_only(old, new, EPOCH, step(inserted[::-1], unchanged[::-1]))


def test_an_inserted_subtree() -> None:
    """A whole subtree passed off as one leaf: the auditor would never see its leaves."""
    inserted, unchanged = last_step()
    for length in (255, 40):
        subtree = Node(raw(inserted[0].label.bits[:length]), commitment=digest(b"hidden leaves"), epoch=EPOCH)
        lie = [subtree, *inserted[1:]]
        new = root_over(lie + unchanged)
        refuses(
            "INSERTED_LENGTH",
            lambda lie=lie, new=new: verify_append_only(root_over(unchanged), new, EPOCH, step(lie, unchanged)),
        )


@pytest.mark.parametrize("label", [ROOT, EMPTY])
def test_an_element_of_length_0(label: RawLabel) -> None:
    inserted, unchanged = last_step()
    old, new = root_over(unchanged), root_over(inserted + unchanged)
    whole = Node(label, bare=victims_server().tree(EPOCH - 1).top.value())
    leaf = Node(label, commitment=digest(b"leaf"), epoch=EPOCH)
    refuses("ELEMENT_LENGTH", lambda: verify_append_only(old, new, EPOCH, step(inserted, [whole])))
    refuses("ELEMENT_LENGTH", lambda: verify_append_only(old, new, EPOCH, step(inserted, [*unchanged, whole])))
    refuses("ELEMENT_LENGTH", lambda: verify_append_only(old, new, EPOCH, step([leaf, *inserted], unchanged)))


def test_nothing_inserted() -> None:
    _, unchanged = last_step()
    old = root_over(unchanged)
    refuses("NOTHING_INSERTED", lambda: verify_append_only(old, old, EPOCH, step([], unchanged)))
    refuses("NOTHING_INSERTED", lambda: verify_append_only(EMPTY_ROOT, EMPTY_ROOT, EPOCH, b""))


def test_two_elements_with_the_same_label() -> None:
    """A leaf replaced: the old one unchanged, another one inserted in its place; the later of the two wins."""
    server = victims_server()
    inserted, unchanged = last_step()
    leaf = next(node for node in unchanged if node.label.length == 256)
    other = Node(leaf.label, commitment=digest(b"thief's"), epoch=EPOCH)
    old = server.tree(EPOCH - 1).root()
    rest = [node for node in unchanged if node is not leaf]
    new = root_over([*rest, *inserted, other])
    refuses("SAME_LABEL", lambda: verify_append_only(old, new, EPOCH, step([*inserted, other], unchanged)))
    new = root_over(inserted + unchanged)
    refuses("SAME_LABEL", lambda: verify_append_only(old, new, EPOCH, step([inserted[0], *inserted], unchanged)))
    refuses("SAME_LABEL", lambda: verify_append_only(old, new, EPOCH, step(inserted, [leaf, *unchanged])))


def test_an_element_under_another() -> None:
    """History rewritten: a checker that drops a leaf inserted under an unchanged node never sees it."""
    server = victims_server()
    inserted, unchanged = last_step()
    old, new = server.tree(EPOCH - 1).root(), server.tree().root()
    subtree = next(node for node in unchanged if node.label.length < 256)
    under = Node(raw(subtree.label.bits.ljust(256, "1")), commitment=digest(b"dropped"), epoch=EPOCH)
    refuses("PREFIX_LABEL", lambda: verify_append_only(old, new, EPOCH, step([*inserted, under], unchanged)))
    child = Node(raw(subtree.label.bits + "01"), bare=digest(b"dropped"))
    refuses("PREFIX_LABEL", lambda: verify_append_only(old, new, EPOCH, step(inserted, [*unchanged, child])))
    far = Node(raw(subtree.label.bits[:-1]), bare=digest(b"over all"))
    refuses("PREFIX_LABEL", lambda: verify_append_only(old, new, EPOCH, step(inserted, [*unchanged, far])))


def test_a_leaf_removed_or_changed() -> None:
    inserted, unchanged = last_step()
    old = root_over(unchanged)
    removed = unchanged[1:]
    refuses("OLD_ROOT", lambda: verify_append_only(old, root_over(inserted + removed), EPOCH, step(inserted, removed)))
    changed = [Node(unchanged[0].label, bare=digest(b"another")), *unchanged[1:]]
    refuses("OLD_ROOT", lambda: verify_append_only(old, root_over(inserted + changed), EPOCH, step(inserted, changed)))


def test_a_new_root_over_something_else() -> None:
    inserted, unchanged = last_step()
    old, new = root_over(unchanged), root_over(inserted + unchanged)
    hidden = Node(raw("01" * 128), commitment=digest(b"hidden"), epoch=EPOCH)
    proof = step(inserted, unchanged)
    refuses("NEW_ROOT", lambda: verify_append_only(old, root_over([*inserted, hidden, *unchanged]), EPOCH, proof))
    refuses("NEW_ROOT", lambda: verify_append_only(old, new, EPOCH + 1, proof))
    refuses("NEW_ROOT", lambda: verify_append_only(old, new, EPOCH, step(inserted[1:], unchanged)))


def test_bent_labels_in_a_step() -> None:
    inserted, unchanged = last_step()
    subtree = next(node for node in unchanged if node.label.length < 200)
    rest = [node for node in unchanged if node is not subtree]
    for reason, label in (
        ("LABEL_BITS", RawLabel(subtree.label.value[:31] + b"\x01", subtree.label.length)),
        ("LABEL_LENGTH", RawLabel(b"\x01" * 33, 257)),
        ("LABEL_LENGTH", RawLabel(subtree.label.value, 257)),
    ):
        lie = [Node(label, bare=subtree.bare), *rest]
        proof = step(inserted, lie)
        top = trie([*rest, Node(subtree.label, bare=subtree.bare)])
        old = digest(top.value(), ROOT.hash())
        refuses(reason, lambda proof=proof, old=old: verify_append_only(old, root_over(inserted + rest), EPOCH, proof))
