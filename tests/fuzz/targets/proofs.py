"""The directory's proofs."""

from ipls.akd import ProofRefused, verify_absence, verify_append_only, verify_history, verify_lookup
from tests.attack.victim import EPOCH, NOBODY, VICTIM, victims_server
from tests.fuzz.target import Target, serialized, target


@target("lookup proof")
def _() -> Target:
    server, tree = victims_server(), victims_server().tree()
    root, proof = tree.root(), server.lookup(tree, VICTIM, 3).SerializeToString()

    def run(data: bytes) -> None:
        assert verify_lookup(root, EPOCH, server.public_key, VICTIM, data) == honest

    honest = verify_lookup(root, EPOCH, server.public_key, VICTIM, proof)
    return Target(run, (ProofRefused,), (proof,))


@target("history proof")
def _() -> Target:
    server, tree = victims_server(), victims_server().tree()
    root, key = tree.root(), server.public_key
    whole, newest = [server.history(tree, VICTIM, v, EPOCH).SerializeToString() for v in ([3, 2, 1], [3])]
    versions = verify_history(root, EPOCH, key, VICTIM, whole)

    def run(data: bytes) -> None:
        try:
            assert verify_history(root, EPOCH, key, VICTIM, data, allow_missing=True) == versions
        except ProofRefused:
            assert verify_history(root, EPOCH, key, VICTIM, data, most_recent=1) == versions[:1]

    return Target(run, (ProofRefused,), (whole, newest))


@target("absence proof")
def _() -> Target:
    server, tree = victims_server(), victims_server().tree()
    root, proof = tree.root(), server.absence(tree, NOBODY, [1, 2, 4, 8]).SerializeToString()

    def run(data: bytes) -> None:
        verify_absence(root, EPOCH, server.public_key, NOBODY, data)
        assert data == proof

    return Target(run, (ProofRefused,), (proof,))


@target("append-only proof")
def _() -> Target:
    server = victims_server()
    old, new = server.tree(EPOCH - 1).root(), server.tree().root()
    step = server.append_only(EPOCH)
    untrimmed = type(step).FromString(step.SerializeToString())
    for element in (*untrimmed.inserted, *untrimmed.unchanged_nodes):
        element.label.label_val = element.label.label_val.ljust(32, b"\0")

    def run(data: bytes) -> None:
        verify_append_only(old, new, EPOCH, data, untrimmed=True)
        taken = type(step).FromString(data)
        assert (len(taken.inserted), len(taken.unchanged_nodes)) == (len(step.inserted), len(step.unchanged_nodes))

    return Target(run, (ProofRefused,), serialized(step, untrimmed))
