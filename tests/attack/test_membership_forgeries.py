"""Trees bent at each part of a lookup and of a history: the rules of membership and non-membership."""

from collections.abc import Callable

import pytest

from ipls.akd import verify_non_membership
from ipls.proto.akd.v1 import akd_pb2 as pb
from tests.attack.directory import (
    EMPTY,
    ROOT,
    Directory,
    Node,
    RawLabel,
    Tree,
    digest,
    empty_node,
    raw,
)
from tests.attack.victim import (
    ABSENT,
    EPOCH,
    PARTS,
    SEED,
    VICTIM,
    absence,
    both_kinds,
    history,
    lookup,
    own_server,
    refuses,
    victims_server,
)

Lie = Callable[[Tree, Node], None]


def parent_of_another(tree: Tree, node: Node) -> None:
    """The parent's label is no prefix of the child's; the sibling is made to fit it."""
    parent, side = tree.parent(node)
    assert parent.children
    astray = raw(parent.label.bits + str(1 - side))
    turn = int(node.label.bits.ljust(256, "0")[astray.length])
    sibling = Node(raw((astray.bits + str(1 - turn)).ljust(256, "0")), bare=digest(b"sibling"))
    parent.label = astray
    parent.children = [sibling, node] if turn else [node, sibling]


def sibling_from_elsewhere(tree: Tree, node: Node) -> None:
    parent, side = tree.parent(node)
    assert parent.children
    bits = parent.children[1 - side].label.bits
    elsewhere = ("1" if bits[0] == "0" else "0") + bits[1:]
    parent.children[1 - side] = Node(raw(elsewhere), bare=digest(b"sibling"))


def child_on_the_wrong_side(tree: Tree, node: Node) -> None:
    """The sibling is made to fit the side that is left."""
    parent, side = tree.parent(node)
    fitting = raw((parent.label.bits + str(side)).ljust(256, "0"))
    sibling = Node(fitting, bare=digest(b"sibling"))
    parent.children = [node, sibling] if side else [sibling, node]


def sibling_on_the_wrong_side(tree: Tree, node: Node) -> None:
    parent, side = tree.parent(node)
    assert parent.children
    same = raw((parent.label.bits + str(side)).ljust(256, "0"))
    parent.children[1 - side] = Node(same, bare=digest(b"sibling"))


def empty_sibling_below_the_root(tree: Tree, node: Node) -> None:
    parent, side = tree.parent(node)
    assert parent.children
    parent.children[1 - side] = empty_node()


def parent_as_long_as_the_child(tree: Tree, node: Node) -> None:
    parent, _ = tree.parent(node)
    parent.label = node.label


def bits_past_the_length(tree: Tree, node: Node) -> None:
    parent, _ = tree.parent(node)
    value = bytes(parent.label.value[:31]) + b"\x01"
    parent.label = RawLabel(value, parent.label.length)


def longer_than_256_bits(tree: Tree, node: Node) -> None:
    parent, _ = tree.parent(node)
    parent.label = RawLabel(parent.label.value + b"\x01", 257)


def other_empty_label(tree: Tree, node: Node) -> None:
    parent, side = tree.parent(node)
    assert parent.children
    parent.children[1 - side] = Node(RawLabel(b"\x02" * 32, 0), bare=empty_node().value())


LIES: dict[str, list[Lie]] = {
    "PARENT_NOT_ABOVE": [parent_of_another, parent_as_long_as_the_child],
    "SIBLING_NOT_UNDER": [sibling_from_elsewhere],
    "CHILD_SIDE": [child_on_the_wrong_side],
    "SIBLING_SIDE": [sibling_on_the_wrong_side],
    "EMPTY_SIBLING": [empty_sibling_below_the_root],
    "LABEL_BITS": [bits_past_the_length, other_empty_label],
    "LABEL_LENGTH": [longer_than_256_bits],
}
OF_LOOKUP = ("existence", "marker", "freshness")
OF_HISTORY = ("existence", "previous", "marker", "future marker")


def bent_tree(part: str, lie: Lie) -> Tree:
    """A tree of the victim's server, bent at the leaf of `part`, or at the longest prefix of an absent one."""
    server = victims_server()
    tree = server.tree()
    for absent in ABSENT:
        tree.longest_prefix(server.position(VICTIM, *PARTS[absent]))
    position = server.position(VICTIM, *PARTS[part])
    lie(tree, tree.longest_prefix(position) if part in ABSENT else tree.leaf(position))
    return tree


CASES = [(reason, lie) for reason, lies in LIES.items() for lie in lies]


@pytest.mark.parametrize(("reason", "lie"), CASES, ids=lambda case: getattr(case, "__name__", case))
@pytest.mark.parametrize("part", PARTS)
def test_bent_membership(part: str, reason: str, lie: Lie) -> None:
    server, tree = victims_server(), bent_tree(part, lie)
    if part in OF_LOOKUP:
        proof = server.lookup(tree, VICTIM, 3)
        refuses(reason, lambda: lookup(server, tree, proof))
    if part in OF_HISTORY:
        shown = server.history(tree, VICTIM, [3], EPOCH)
        refuses(reason, lambda: history(server, tree, shown, 1))


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_are_independent(part: str) -> None:
    """Control: a lie at one part alone is not what refuses the proof that does not use it."""
    server, tree = victims_server(), bent_tree(part, sibling_from_elsewhere)
    if part not in OF_LOOKUP:
        assert lookup(server, tree, server.lookup(tree, VICTIM, 3)).version == 3
    if part not in OF_HISTORY:
        assert history(server, tree, server.history(tree, VICTIM, [3], EPOCH), 1)[0].version == 3


def test_the_top_is_not_the_root_label() -> None:
    """A tree under a label of one bit, hashed as if it were the root."""
    server = Directory(SEED)
    server.publish([(VICTIM, b"key")])
    leaf = server.tree().leaf(server.position(VICTIM, True, 1))
    side = int(leaf.label.bits[1])
    sibling = Node(raw((leaf.label.bits[0] + str(1 - side)).ljust(256, "0")), bare=digest(b"sibling"))
    tree = Tree([leaf])
    tree.top = Node(raw(leaf.label.bits[0]), [sibling, leaf] if side else [leaf, sibling])
    refuses("TOP_NOT_ROOT", lambda: lookup(server, tree, server.lookup(tree, VICTIM, 1), epoch=1))
    refuses("TOP_NOT_ROOT", lambda: history(server, tree, server.history(tree, VICTIM, [1], 1), epoch=1))


def test_without_siblings_only_the_root_is_proved() -> None:
    server = Directory(SEED)
    server.publish([(VICTIM, b"key")])
    tree = server.tree()
    proof = server.lookup(tree, VICTIM, 1)
    shown = server.history(tree, VICTIM, [1], 1)
    for membership in (proof.existence_proof, proof.marker_proof, shown.update_proofs[0].existence_proof):
        membership.ClearField("sibling_proofs")
    tree.top = tree.leaf(server.position(VICTIM, True, 1))
    refuses("TOP_NOT_ROOT", lambda: lookup(server, tree, proof, epoch=1))
    refuses("TOP_NOT_ROOT", lambda: history(server, tree, shown, epoch=1))


def test_the_empty_label_has_one_value() -> None:
    server = Directory(SEED)
    server.publish([(VICTIM, b"key")])
    tree = server.tree()
    assert lookup(server, tree, server.lookup(tree, VICTIM, 1), epoch=1).version == 1
    (empty,) = (child for child in tree.top.children or [] if child.label == EMPTY)
    empty.bare = digest(b"a hidden subtree")
    refuses("EMPTY_VALUE", lambda: lookup(server, tree, server.lookup(tree, VICTIM, 1), epoch=1))
    refuses("EMPTY_VALUE", lambda: history(server, tree, server.history(tree, VICTIM, [1], 1), epoch=1))


def test_the_root_label_is_no_empty_label() -> None:
    server = Directory(SEED)
    server.publish([(VICTIM, b"key")])
    tree = server.tree()
    (empty,) = (child for child in tree.top.children or [] if child.label == EMPTY)
    empty.label = ROOT
    refuses("SIBLING_NOT_UNDER", lambda: lookup(server, tree, server.lookup(tree, VICTIM, 1), epoch=1))


def test_a_proof_under_another_root() -> None:
    server = victims_server()
    tree, other = server.tree(), server.tree(EPOCH - 1)
    refuses("ROOT_HASH", lambda: lookup(server, tree, server.lookup(other, VICTIM, 3)))
    refuses("ROOT_HASH", lambda: history(server, tree, server.history(other, VICTIM, [3, 2, 1], EPOCH)))


def child_from_elsewhere(tree: Tree, parent: Node, target: RawLabel) -> None:
    assert parent.children
    side = 1 - int(target.bits[parent.label.length])
    bits = parent.children[side].label.bits
    parent.children[side] = Node(raw(("1" if bits[0] == "0" else "0") + bits[1:]), bare=digest(b"child"))


def children_swapped(tree: Tree, parent: Node, target: RawLabel) -> None:
    assert parent.children
    parent.children.reverse()


def empty_child_below_the_root(tree: Tree, parent: Node, target: RawLabel) -> None:
    assert parent.children
    parent.children[int(target.bits[parent.label.length])] = empty_node()


@pytest.mark.parametrize(
    ("reason", "lie"),
    [
        ("SIBLING_NOT_UNDER", child_from_elsewhere),
        ("SIBLING_SIDE", children_swapped),
        ("EMPTY_SIBLING", empty_child_below_the_root),
    ],
)
@pytest.mark.parametrize("part", ABSENT)
def test_bent_children(part: str, reason: str, lie: Callable[[Tree, Node, RawLabel], None]) -> None:
    server = victims_server()
    target = server.position(VICTIM, *PARTS[part])
    tree = server.tree()
    lie(tree, tree.longest_prefix(target), target)
    if part == "freshness":
        refuses(reason, lambda: lookup(server, tree, server.lookup(tree, VICTIM, 3)))
    else:
        refuses(reason, lambda: history(server, tree, server.history(tree, VICTIM, [3], EPOCH), 1))


def test_absence_shown_elsewhere_in_the_tree() -> None:
    server, tree = victims_server(), victims_server().tree()
    elsewhere = tree.longest_prefix(server.position(b"+15550007", False, 1))
    for proof, check in both_kinds(server, tree):
        target = server.position(VICTIM, *PARTS["freshness" if isinstance(proof, pb.LookupProof) else "future marker"])
        absence(proof).CopyFrom(tree.non_membership(target, elsewhere))
        refuses("PREFIX_NOT_ABOVE", check)


@pytest.mark.parametrize("above", [1, 2, 3])
def test_absence_of_what_is_there(above: int) -> None:
    """The leaf's parent, grandparent and so on, each with true children and true membership."""
    server = own_server()
    server.retire(VICTIM, 3, 9)
    server.plant(VICTIM, 4, b"a later key", 9)
    tree = server.tree()
    for proof, place in ((server.lookup(tree, VICTIM, 3), (False, 3)), (None, (True, 4))):
        leaf = tree.leaf(server.position(VICTIM, *place))
        ancestor = tree.path(leaf)[-above][0]
        hidden = tree.non_membership(leaf.label, ancestor)
        if proof:
            proof.freshness_proof.CopyFrom(hidden)
            refuses("CHILD_LEADS_ON", lambda proof=proof: lookup(server, tree, proof))
        else:
            shown = server.history(tree, VICTIM, [3], EPOCH)
            shown.non_existence_of_future_marker_proofs[0].CopyFrom(hidden)
            refuses("CHILD_LEADS_ON", lambda shown=shown: history(server, tree, shown, 1))


def test_absence_with_children_that_are_not_the_nodes() -> None:
    """The child on the way is swapped for one that does not lead on."""
    server, tree = victims_server(), victims_server().tree()
    for proof, check in both_kinds(server, tree):
        absence(proof).longest_prefix_children[0].value = digest(b"another child")
        refuses("CHILDREN_HASH", check)


def test_absence_with_both_children_empty() -> None:
    server, tree = victims_server(), victims_server().tree()
    for proof, check in both_kinds(server, tree):
        shown = absence(proof)
        shown.longest_prefix.CopyFrom(ROOT.message())
        for child in shown.longest_prefix_children:
            child.CopyFrom(empty_node().element())
        refuses("EMPTY_CHILD", check)


def test_absence_with_the_membership_of_another_node() -> None:
    server, tree = victims_server(), victims_server().tree()
    for proof, check in both_kinds(server, tree):
        absence(proof).longest_prefix_membership_proof.CopyFrom(tree.membership(tree.top))
        refuses("PREFIX_MEMBERSHIP", check)


@pytest.mark.parametrize("children", [1, 3])
def test_absence_with_one_or_three_children(children: int) -> None:
    server, tree = victims_server(), victims_server().tree()
    for proof, check in both_kinds(server, tree):
        shown = absence(proof)
        kept = [*shown.longest_prefix_children, shown.longest_prefix_children[0]][:children]
        copies = [pb.AzksElement.FromString(child.SerializeToString()) for child in kept]
        shown.ClearField("longest_prefix_children")
        shown.longest_prefix_children.extend(copies)
        refuses("CHILD_COUNT", check)


def test_a_place_where_no_leaf_can_be_is_no_absence_of_one() -> None:
    """The 200 bits above a leaf that is there: nothing stands at them, and that says nothing."""
    server = victims_server()
    tree, position = server.tree(), server.position(VICTIM, True, 3)
    proof = tree.non_membership(raw(position.bits[:200])).SerializeToString()
    refuses("NOT_A_LEAF", lambda: verify_non_membership(tree.root(), proof))
