"""The malicious server's honest proofs are ours, byte for byte: a refusal is for the lie alone."""

from itertools import product

from ipls.akd import (
    EMPTY_ROOT,
    DirectoryKey,
    MemoryTiles,
    Update,
    make_absence,
    make_history,
    make_lookup,
    publish,
    verify_absence,
    verify_history,
)
from tests.attack.directory import Directory
from tests.attack.victim import NOBODY, SEED, VICTIM, story


def test_honest_proofs_are_byte_identical_to_ours() -> None:
    server, key, tiles = Directory(SEED), DirectoryKey.from_seed(SEED), MemoryTiles()
    root, depth, versions = EMPTY_ROOT, 0, {}
    for epoch, updates in enumerate(story(), 1):
        ours = [Update(label, value, next(iter(versions.get(label, [])), None)) for label, value in updates]
        made = publish(tiles, key, epoch - 1, root, depth, ours)
        server.publish(updates)
        assert made
        assert made.new_root == server.tree().root()
        assert made.blob == server.append_only(epoch).SerializeToString()
        tiles.write(made.rows)
        root, depth = made.new_root, made.depth
        for label, version in made.versions:
            versions[label] = [version, *versions.get(label, [])]
    for label, (epoch, most_recent) in product(
        [VICTIM, b"+15550007", b"+15550033"], [(7, 0), (10, 0), (10, 1), (10, 2)]
    ):
        known = [version for version in versions[label] if version.epoch <= epoch]
        tree, shown = server.tree(epoch), known[: most_recent or None]
        theirs = server.lookup(tree, label, known[0].version).SerializeToString()
        assert make_lookup(tiles, key, epoch, depth, label, known[0]) == theirs
        theirs = server.history(tree, label, [version.version for version in shown], epoch).SerializeToString()
        assert make_history(tiles, key, epoch, depth, label, shown) == theirs
        assert verify_history(tree.root(), epoch, key.public_key, label, theirs, most_recent=most_recent) == tuple(
            shown
        )
    for epoch, markers in [(1, [1]), (7, [1, 2, 4]), (8, [1, 2, 4, 8])]:
        tree = server.tree(epoch)
        theirs = server.absence(tree, NOBODY, markers).SerializeToString()
        assert make_absence(tiles, key, epoch, depth, NOBODY) == theirs
        verify_absence(tree.root(), epoch, key.public_key, NOBODY, theirs)
    server.erase(VICTIM, 2)
    erased = [version._replace(value=b"") if version.version == 2 else version for version in versions[VICTIM]]
    theirs = server.history(server.tree(), VICTIM, [3, 2, 1], 10).SerializeToString()
    assert make_history(tiles, key, 10, depth, VICTIM, erased) == theirs
