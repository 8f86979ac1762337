"""What others rely on by name: commands, protos, reasons, vectors. Nothing goes; what comes is listed here."""

import shutil
import subprocess
from pathlib import Path

from tests.surface import commands, names
from tests.surface.running import ROOT
from tests.surface.snapshot import FOLDER, recorded

ADDED = {
    "ipls client contacts add --only-ipls/--address-book",
    "ipls client contacts copy",
    "ipls client contacts copy --home",
    "ipls client contacts copy --json",
    "ipls client contacts copy --profile",
    "ipls client contacts copy --to",
    "ipls client contacts copy ID...",
    "ipls client contacts move",
    "ipls client contacts move --home",
    "ipls client contacts move --json",
    "ipls client contacts move --patience",
    "ipls client contacts move --profile",
    "ipls client contacts move --to",
    "ipls client contacts move --verbose",
    "ipls client contacts move ID...",
    "ipls client contacts conflicts",
    "ipls client contacts conflicts --home",
    "ipls client contacts conflicts --json",
    "ipls client contacts conflicts --profile",
    "ipls client contacts conflicts ID",
    "ipls client contacts place",
    "ipls client contacts place --home",
    "ipls client contacts place --json",
    "ipls client contacts place --only-ipls/--address-book",
    "ipls client contacts place --profile",
    "ipls client contacts place [ID...]",
    "ipls client contacts settle",
    "ipls client contacts settle --both",
    "ipls client contacts settle --home",
    "ipls client contacts settle --json",
    "ipls client contacts settle --keep",
    "ipls client contacts settle --profile",
    "ipls client contacts settle --take",
    "ipls client contacts settle ID",
    "ipls client contacts settle [NUMBER...]",
    "ipls client --home",
    "ipls client --json",
    "ipls client --profile",
    "ipls client contacts apart --json",
    "ipls client contacts export --json",
    "ipls client contacts import --undo",
    "ipls client vault approve --json",
    "ipls client vault delete --json",
    "ipls client vault distrust --json",
    "ipls client vault key --json",
    "ipls client vault request --json",
    "ipls client vault sign --json",
    "ipls client vault trust --json",
    "ipls client contacts add",
    "ipls client contacts add --email",
    "ipls client contacts add --endpoints",
    "ipls client contacts add --home",
    "ipls client contacts add --json",
    "ipls client contacts add --number",
    "ipls client contacts add --profile",
    "ipls client contacts add NAME",
    "ipls client contacts apart",
    "ipls client contacts apart --home",
    "ipls client contacts apart --profile",
    "ipls client contacts apart ID",
    "ipls client contacts apart OTHER",
    "ipls client contacts duplicates",
    "ipls client contacts duplicates --home",
    "ipls client contacts duplicates --json",
    "ipls client contacts duplicates --profile",
    "ipls client contacts edit",
    "ipls client contacts edit --add-email",
    "ipls client contacts edit --add-number",
    "ipls client contacts edit --home",
    "ipls client contacts edit --json",
    "ipls client contacts edit --name",
    "ipls client contacts edit --profile",
    "ipls client contacts edit --remove-email",
    "ipls client contacts edit --remove-number",
    "ipls client contacts edit ID",
    "ipls client contacts export --force",
    "ipls client contacts export --format",
    "ipls client contacts groups",
    "ipls client contacts groups --home",
    "ipls client contacts groups --json",
    "ipls client contacts groups --profile",
    "ipls client contacts import --again",
    "ipls client contacts import --dry-run",
    "ipls client contacts merge",
    "ipls client contacts merge --home",
    "ipls client contacts merge --json",
    "ipls client contacts merge --profile",
    "ipls client contacts merge ID",
    "ipls client contacts merge OTHER",
    "ipls client contacts remove",
    "ipls client contacts remove --home",
    "ipls client contacts remove --json",
    "ipls client contacts remove --profile",
    "ipls client contacts remove ID...",
    "ipls client contacts show --json",
    "ipls client contacts show --raw",
    "ipls client contacts undo",
    "ipls client contacts undo --home",
    "ipls client contacts undo --json",
    "ipls client contacts undo --profile",
    "ipls --install-completion",
    "ipls --show-completion",
    "ipls --version",
    "ipls backup",
    "ipls backup FOLDER",
    "ipls backup --config",
    "ipls restore",
    "ipls restore FOLDER",
    "ipls restore --config",
    "ipls restore --part",
    "ipls restore --replace",
    "ipls restore --yes",
    "ipls client contacts add --code",
    "ipls fsck",
    "ipls fsck --config",
    "ipls fsck --json",
    "ipls fsck --repair",
    "ipls init --shards",
    "ipls keys bundle next --hsm-keys",
    "ipls keys renew",
    "ipls keys renew --config",
    "ipls keys renew --early",
    "ipls status",
    "ipls status --config",
    "ipls status --json",
}
"""Commands and parameters, by their names in the snapshot, that came after it was recorded."""
OPTIONS_ADDED = (" --verbose",)
"""Options likewise, of whichever command."""
LOOSENED = {"ipls client contacts import FILE...": {"required": True, "type": "list[pathlib.Path]"}}
"""What had to be given, and need not any more, as it was."""
GROUPS_ADDED = (
    "ipls client delete-account",
    "ipls client export-all",
    "ipls client number",
    "ipls client profiles",
    "ipls client recover",
    "ipls client sync",
    "ipls client serve-dav",
    "ipls client background",
    "ipls client contacts code",
    "ipls client contacts forget",
    "ipls client contacts keys",
    "ipls client contacts verify",
    "ipls client identity",
    "ipls client link",
    "ipls client join",
    "ipls client devices",
)
"""Groups and commands likewise, with all that is in them."""


def test_every_command_option_and_argument_is_as_it_was() -> None:
    found = commands.surface()
    of_before = {
        name: entry | LOOSENED.get(name, {})
        for name, entry in found.items()
        if name not in ADDED and not name.startswith(GROUPS_ADDED) and not name.endswith(OPTIONS_ADDED)
    }
    assert of_before == recorded("commands")
    assert found.keys() >= {*GROUPS_ADDED}
    assert found.keys() >= ADDED


def test_the_protos_break_no_message_no_service_and_no_generated_name() -> None:
    """FILE: also what WIRE and WIRE_JSON hold. Files, messages, fields and methods may be added."""
    checked = breaking(ROOT / "protos")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_breaks_the_protos_is_seen(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos", tmp_path, dirs_exist_ok=True)
    changed = tmp_path / "ipls/witness/v1/head.proto"
    changed.write_text(changed.read_text().replace("optional uint64 timestamp = 3", "optional uint64 timestamp = 6"))
    checked = breaking(tmp_path)
    assert checked.returncode != 0
    assert '"3" with name "timestamp" on message "SignatureMessage"' in checked.stdout


def breaking(protos: Path) -> "subprocess.CompletedProcess[str]":
    config = '{"version": "v2", "breaking": {"use": ["FILE"]}}'
    command = ["buf", "breaking", "--against", FOLDER / "protos.binpb", "--config", config]
    return subprocess.run(command, cwd=protos, env=names.with_buf(), capture_output=True, text=True)


def test_no_reason_is_gone_from_the_document() -> None:
    assert sorted(set(recorded("reasons")) - set(names.reasons())) == []


def test_the_vectors_are_the_same_bytes() -> None:
    found = names.vectors()
    assert {name: found.get(name) for name in recorded("vectors")} == recorded("vectors")
