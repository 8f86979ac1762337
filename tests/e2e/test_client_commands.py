"""`ipls client` against a running deployment: the journey as a person types it, with two phones."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from ipls.contacts.linking import LinkCode
from ipls.units import DAY_MS
from tests.client.deployment import book
from tests.e2e.running import IPLS, Deployment, ipls
from tests.environment import BARE

NUMBER = "+4930777000001"


def test_a_number_goes_from_one_phone_to_another(deployment: Deployment, tmp_path: Path) -> None:
    endpoints = ("--endpoints", deployment.folder / "endpoints.json")
    outbox = ("--outbox", deployment.folder / "data/registration.outbox")
    cards = book(20)
    file = tmp_path / "book.vcf"
    file.write_bytes(cards)

    def client(phone: str, *arguments: object, status: int = 0) -> dict[str, Any]:
        """What the command prints; on a refusal, its reason."""
        ended = ipls("client", *arguments, "--profile", phone, "--home", tmp_path, "--json")
        assert ended.returncode == status, ended.stderr
        if status:
            return {"reason": ended.stderr.rpartition("[")[2].removesuffix("]\n")}
        return json.loads(ended.stdout.splitlines()[-1])

    registered = client("old", "register", NUMBER, *endpoints, *outbox)
    assert registered["version"] == 1
    assert client("old", "contacts", "import", file)["new"] == 20
    assert client("old", "store")["contacts"] == 20

    assert client("new", "register", NUMBER, *endpoints, *outbox)["version"] == 2
    restored = client("new", "restore")
    assert (restored["contacts"], restored["rotated"]) == (20, True)
    out = tmp_path / "out.vcf"
    assert ipls("client", "contacts", "export", out, "--profile", "new", "--home", tmp_path).returncode == 0
    assert sorted(out.read_bytes().split(b"END:VCARD\r\n")) == sorted(cards.split(b"END:VCARD\r\n"))
    found = client("new", "contacts", "find", "+1 555 0007")
    assert (found["name"], found["stored"]) == ("Person 7", True)

    file.write_bytes(book(1, "Stranger"))
    client("new", "contacts", "import", file)
    assert client("new", "store")["sent"] == 1

    # The first phone is told that the number is another's now and gets nothing more; a new key takes it back.
    for command in ("monitor", "store", "restore"):
        assert client("old", command, status=1) == {"reason": "IDENTITY_SUPERSEDED"}
    assert client("old", "status")["foreign"] == [2]
    assert client("old", "register", NUMBER, *outbox)["version"] == 3
    assert client("old", "store", status=1) == {"reason": "LINE_FOREIGN"}
    shown = client("old", "recover", "--show")
    assert (shown["here"], shown["there"]) == (None, "Stranger 0")
    recovered = client("old", "recover", "--anew", "--yes")
    assert (recovered["contacts"], recovered["unread"]) == (20, 0)

    # Who registers the number next waits, unless a device approves that the owner named.
    def vault(phone: str, *arguments: object, status: int = 0) -> str:
        ended = ipls("client", "vault", *arguments, "--profile", phone, "--home", tmp_path)
        assert ended.returncode == status, ended.stderr
        return (ended.stderr if status else ended.stdout).strip()

    key = vault("tablet", "key", *endpoints)
    assert client("old", "vault", "delay", 3)["change_delay_ms"] == 3 * DAY_MS
    assert vault("old", "trust", key) == "this device may approve from now on"
    assert f"a new identity waits 3 days\nmay approve: {key}" in vault("old", "show")
    client("newer", "register", NUMBER, *endpoints, *outbox)
    assert "has to wait until" in vault("newer", "delay", 0, status=1)
    assert "this device waits until" in vault("newer", "show")
    vault("newer", "approve", vault("tablet", "sign", vault("newer", "request")))
    assert client("newer", "restore")["contacts"] == 20
    told = ipls("client", "history", "--profile", "newer", "--home", tmp_path).stdout
    assert f"a device let a new identity in without waiting, key {key[:16]}… by identity version 4" in told
    assert "a new identity was set to wait 3 days by identity version 3" in told
    vault("newer", "distrust", key)
    assert client("newer", "vault", "show")["approvers"] == []
    assert vault("newer", "delete", "--yes").startswith("the keys are let go")

    assert client("old", "register", NUMBER, *outbox)["version"] == 5
    seen = ipls("client", "monitor", "--profile", "old", "--home", tmp_path, "--json")
    assert seen.returncode == 1
    assert [json.loads(line)["origin"] for line in seen.stdout.splitlines()] == [
        "own",
        "foreign",
        "own",
        "foreign",
        "own",
    ]


def test_register_asks_three_times_and_the_code_that_was_sent_stays_good(
    deployment: Deployment, tmp_path: Path
) -> None:
    command = ("client", "register", "+4930555000777", "--home", tmp_path)
    endpoints = ("--endpoints", deployment.folder / "endpoints.json")
    tried = ipls(*command, *endpoints, input="1\n2\n3\n")
    assert tried.returncode == 1
    assert tried.stderr.endswith("[CODE_WRONG]\n")
    assert "a code was sent to +49…77 (development" in tried.stderr
    assert "it holds for 10 minutes\n" in tried.stderr
    assert [line.rpartition(": ")[2] for line in tried.stderr.splitlines() if "you may try" in line] == [
        "that is not the code; you may try 2 more times",
        "that is not the code; you may try 1 more time",
    ]
    left = ipls(*command, input="")
    assert (left.returncode, left.stderr.endswith("[CODE_EMPTY]\n")) == (2, True)
    code = (deployment.folder / "data/registration.outbox").read_text().split()[-1]
    registered = ipls(*command, "--code", code)
    assert registered.returncode == 0, registered.stderr
    assert registered.stdout.startswith("registered: +4930555000777, identity version 1, published in epoch ")
    assert registered.stdout.endswith(f"; its key is in {tmp_path}/profiles/default and nowhere else\n")
    also = f"--home {tmp_path}"
    following = f"next: ipls client contacts import FILE.vcf {also}, then ipls client store {also}"
    assert registered.stderr.splitlines()[-1] == following


def test_two_people_compare_and_a_new_phone_is_told(deployment: Deployment, tmp_path: Path) -> None:
    numbers = {"ada": "+4930777000011", "bob": "+4930777000012"}
    endpoints = ("--endpoints", deployment.folder / "endpoints.json")
    outbox = ("--outbox", deployment.folder / "data/registration.outbox")

    def client(who: str, *arguments: object, status: int = 0) -> list[dict[str, Any]]:
        ended = ipls("client", *arguments, "--profile", who, "--home", tmp_path, "--json")
        assert ended.returncode == status, ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines()]

    for who, number in numbers.items():
        client(who, "register", number, *endpoints, *outbox)
    (code,) = client("bob", "contacts", "code", "Bob")
    client("ada", "contacts", "add", "--code", code["code"])
    (hers,) = client("ada", "contacts", "verify", "Bob")
    (his,) = client("bob", "contacts", "verify", numbers["ada"], "--scanned", hers["text"])
    assert (his["digits"], his["found"], hers["found"]) == (hers["digits"], "matches", None)
    client("ada", "contacts", "verify", "Bob", "--scanned", his["text"])
    other = his["text"][:-1] + str((int(his["text"][-1]) + 1) % 10)
    (found,) = client("ada", "contacts", "verify", "Bob", "--scanned", other, status=1)
    assert found["found"] == "differs"

    # In digits for people, where there is no terminal without a question.
    shown = ipls("client", "contacts", "verify", "Bob", "--profile", "ada", "--home", tmp_path)
    assert shown.stdout.splitlines()[-1] == hers["text"]
    assert "".join(shown.stdout.splitlines()[0].split()) == hers["digits"][:20]

    terminal, stdin = os.openpty()
    os.write(terminal, b"y\n")
    asked = ipls("client", "contacts", "verify", "Bob", "--profile", "ada", "--home", tmp_path, stdin=stdin)
    assert asked.stdout.endswith("it matches: this is the key that the other one has\n")
    os.close(terminal)
    os.close(stdin)

    client("new", "register", numbers["bob"], *endpoints, *outbox)
    told = ipls("client", "store", "--profile", "ada", "--home", tmp_path)
    assert f"WARNING: {numbers['bob']} has a new key, version 2" in told.stderr
    (listed,) = client("ada", "contacts", "list")
    (key,) = client("ada", "contacts", "keys")
    assert listed["on_service_epoch"] == key["epoch"]
    list_line = ipls("client", "contacts", "list", "--profile", "ada", "--home", tmp_path).stdout
    assert list_line == f"{listed['id'][:8]}  Bob  {numbers['bob']}  (on the service, epoch {key['epoch']})\n"
    assert (key["number"], key["changed"], key["compared"], key["overdue"]) == (numbers["bob"], True, False, False)
    assert client("ada", "contacts", "keys", "--acknowledge", numbers["bob"])[0]["changed"] is False
    assert client("ada", "contacts", "keys")[0]["changed"] is False

    # Of somebody whom nobody used or compared, not without her leave.
    client("ada", "contacts", "add", "Carol", "--number", numbers["ada"][:-1] + "9")
    client("ada", "store")
    assert [each["number"] for each in client("ada", "contacts", "keys")] == [numbers["bob"]]
    leave = ipls("client", "contacts", "keys", "--discover", "--profile", "ada", "--home", tmp_path)
    assert "and so tells it whom you know; --no-discover ends that\n" in leave.stderr
    client("ada", "store")
    assert [each["version"] for each in client("ada", "contacts", "keys")] == [2, 0]

    # Bob's first phone: it was him; then it was not.
    client("bob", "monitor", status=1)
    assert [row["origin"] for row in client("bob", "identity")] == ["own", "foreign"]
    assert client("bob", "identity", "--that-was-me", 2)[1]["origin"] == "acknowledged"
    said = ipls("client", "identity", "--not-me", 2, "--profile", "bob", "--home", tmp_path)
    assert "next: ipls client register" in said.stderr
    assert "version 2, epoch" in said.stdout


def test_a_command_says_its_outcome_and_with_verbose_the_proofs(deployment: Deployment, tmp_path: Path) -> None:
    where = ("--home", tmp_path)
    book_of_two = tmp_path / "book.vcf"
    book_of_two.write_bytes(book(2))
    outbox = ("--outbox", deployment.folder / "data/registration.outbox")
    ipls("client", "register", "+4930777000021", "--endpoints", deployment.folder / "endpoints.json", *outbox, *where)
    ipls("client", "contacts", "import", book_of_two, *where)
    stored = ipls("client", "store", *where)
    assert (stored.stdout, stored.stderr) == ("stored: 2 contacts, 2 of them sent now\n", "")
    told = ipls("client", "store", "--verbose", *where)
    assert told.stdout == "stored: 2 contacts, 0 of them sent now\n"
    assert told.stderr.startswith("checked: epoch ")
    assert "checked: own history, complete, 1 version(s)" in told.stderr

    # Alone it says how the account is, and what is left to do.
    alone = ipls("client", *where)
    lines = dict(line.split(maxsplit=1) for line in alone.stdout.splitlines())
    assert lines["label"] == "+4930777000021"
    assert lines["identity"].startswith("version 1 of epoch ")
    assert (lines["contacts"], lines["devices"]) == ("2", "this one alone")
    assert "signed by witness, " in lines["head"]
    assert alone.stderr == ""
    added = ipls("client", "contacts", "add", "Ada", *where)
    assert added.returncode == 0
    assert json.loads(ipls("client", "--json", *where).stdout)["unsent"] == 1
    left = ipls("client", *where)
    assert "contacts    3, 1 with changes not sent yet\n" in left.stdout
    assert left.stderr == f"next: ipls client store --home {tmp_path}\n"
    misplaced = ipls("client", *where, "store")
    assert misplaced.returncode == 2
    assert "options go behind the command" in misplaced.stderr


def test_ctrl_c_in_a_command_says_so_and_leaves_all_sound(deployment: Deployment, tmp_path: Path) -> None:
    """While it sends contacts, to a store that has stopped."""
    where = ("--home", tmp_path)
    (tmp_path / "book.vcf").write_bytes(book(20))
    outbox = ("--outbox", deployment.folder / "data/registration.outbox")
    ipls("client", "register", "+4930777000022", "--endpoints", deployment.folder / "endpoints.json", *outbox, *where)
    ipls("client", "contacts", "import", tmp_path / "book.vcf", *where)
    os.kill(deployment.pid("contacts"), signal.SIGSTOP)
    try:
        command = [*IPLS, "client", "store", "--verbose", "--home", str(tmp_path)]
        with subprocess.Popen(command, env=BARE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as storing:
            assert storing.stderr is not None
            while "own history" not in storing.stderr.readline():
                pass
            storing.send_signal(signal.SIGINT)
            out, said = storing.communicate()
    finally:
        os.kill(deployment.pid("contacts"), signal.SIGCONT)
    assert (storing.returncode, out) == (130, "")
    assert said.endswith("ipls: interrupted; nothing is lost, and the same command goes on from there\n")
    assert ipls("client", "store", *where).stdout == "stored: 20 contacts, 20 of them sent now\n"


def test_an_account_goes_over_to_another_number_and_ends(deployment: Deployment, tmp_path: Path) -> None:
    endpoints = ("--endpoints", deployment.folder / "endpoints.json")
    outbox = ("--outbox", deployment.folder / "data/registration.outbox")
    (tmp_path / "book.vcf").write_bytes(book(3))
    old, new = "+4930777000101", "+4930777000102"

    def client(*arguments: object, status: int = 0, input: str = "", phone: str = "phone") -> str:
        ended = ipls("client", *arguments, "--profile", phone, "--home", tmp_path, input=input)
        assert ended.returncode == status, ended.stderr
        return ended.stderr.strip().rpartition("\n")[2] if status else ended.stdout

    client("register", old, *endpoints, *outbox)
    client("contacts", "import", tmp_path / "book.vcf")
    client("store")
    assert client("number") == f"number: {old}, 3 contacts\n"
    assert "[NUMBER_SAME]" in client("number", old, *outbox, "--yes", status=1)
    assert "[NUMBER_ALONE]" in client("number", "--let-go", "--yes", status=1)
    client("number", new, *outbox, status=1, input="n\n")
    assert client("number", new, *outbox, input="y\n").endswith(f"changed: the number is {new}, 3 contacts\n")
    told = json.loads(client("number", "--json"))
    assert (told["number"], told["contacts"], told["old_number"]) == (new, 3, None)
    client("contacts", "add", "Only here")

    assert "exported: 4 contacts" in client("export-all", tmp_path / "all.zip")
    assert (tmp_path / "all.zip").stat().st_mode & 0o777 == 0o600
    assert "[FILE_EXISTS]" in client("export-all", tmp_path / "all.zip", status=1)
    client("export-all", tmp_path / "all.zip", "--force", "--with-keys")
    refused = client("delete-account", status=1, input=f"{old}\n")
    assert refused == "that is not the number: nothing was deleted"
    said = client("delete-account", input=f"{new}\n")
    assert f"this deletes the account of {new}:" in said
    assert "in the contact store: 3 contacts, encrypted" in said
    assert "the identity key and 4 contacts, 1 of which are only here" in said
    assert said.endswith(f"deleted: the account of {new}, and {tmp_path}/profiles/phone\n")
    assert not (tmp_path / "profiles/phone").exists()

    client("register", new, *endpoints, *outbox, phone="heir")
    assert "[NOTHING_STORED]" in client("restore", phone="heir", status=1)
    ended = json.loads(client("delete-account", "--yes", "--json", phone="heir"))
    assert ended == {"deleted": new, "key_left": False}


def test_a_laptop_is_linked_renamed_and_removed(deployment: Deployment, tmp_path: Path) -> None:
    endpoints = ("--endpoints", deployment.folder / "endpoints.json")
    outbox = ("--outbox", deployment.folder / "data/registration.outbox")

    def client(who: str, *arguments: object, status: int = 0) -> list[dict[str, Any]]:
        ended = ipls("client", *arguments, "--profile", who, "--home", tmp_path, "--json")
        assert ended.returncode == status, ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines()]

    def beside(who: str, *arguments: object) -> "subprocess.Popen[str]":
        command = [*IPLS, "client", *map(str, arguments), "--profile", who, "--home", str(tmp_path), "--json"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=BARE, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    client("phone", "register", "+4930777000031", *endpoints, *outbox)
    client("phone", "contacts", "add", "Ada")
    with beside("phone", "link") as phone, beside("laptop", "join", "--name", "Desk", *endpoints) as laptop:
        assert phone.stdin
        assert phone.stdout
        assert laptop.stdin
        assert laptop.stdout
        code = json.loads(phone.stdout.readline())["code"]
        laptop.stdin.write(f"{code}\n")
        laptop.stdin.flush()
        digits = json.loads(laptop.stdout.readline())["digits"]
        wrong = f"{(int(digits) + 1) % 10**6:06}"
        out, told = phone.communicate(f"{wrong}\n{digits[:3]} {digits[3:]}\n")
        joined, shown = laptop.communicate()
        assert (phone.returncode, laptop.returncode) == (0, 0), told + shown
    linked, brought = json.loads(out), json.loads(joined)
    assert (linked.keys(), linked["name"]) == ({"key", "name", "platform"}, "Desk")
    assert brought.keys() == {"contacts", "received", "sent", "unread", "generation", "n", "rotated"}
    assert brought["contacts"] == 1
    assert "asks to be linked to +4930777000031. It calls itself\n    Desk, on Linux\n" in told
    assert "It will read, change and remove all of your contacts, until you remove it." in told
    assert "Nobody else ever needs them: if somebody told you\ndigits" in told
    assert "those are not the digits that belong to this device" in told
    assert code not in told + shown
    assert f"tell them to nobody: {digits}" in shown

    phone_is, desk = client("laptop", "devices")
    assert (phone_is["state"], phone_is["here"]) == ("phone", False)
    assert (desk["name"], desk["state"], desk["here"]) == ("Desk", "linked", True)
    assert (
        "the phone that holds the number, key"
        in ipls("client", "devices", "list", "--profile", "laptop", "--home", tmp_path).stdout.splitlines()[0]
    )
    refused = ipls("client", "link", "--profile", "laptop", "--home", tmp_path)
    assert refused.stderr.endswith("next: do it on the phone that registered the number [IDENTITY_ONLY]\n")
    (renamed,) = client("laptop", "devices", "rename", "Desk", "Office")
    assert (renamed.keys(), renamed["name"]) == (desk.keys(), "Office")
    client("laptop", "store")
    client("phone", "store")
    asked = ("client", "devices", "remove", "Office", "--profile", "phone", "--home", tmp_path)
    assert ipls(*asked, input="n\n").returncode == 1
    (removed,) = client("phone", "devices", "remove", desk["key"][:8], "--yes")
    assert (removed.keys(), removed["name"]) == (desk.keys(), "Office")
    assert len(client("phone", "devices")) == 1
    left = ipls("client", "store", "--profile", "laptop", "--home", tmp_path)
    assert (left.returncode, left.stderr.endswith("[DEVICE_UNLISTED]\n")) == (1, True)

    file = tmp_path / "code"
    file.write_text("IPLS-LINK:1:no code")
    bad = ipls("client", "join", "--code-file", file, *endpoints, "--profile", "other", "--home", tmp_path)
    assert bad.stderr.endswith("next: scan it again, or copy it whole [LINK_CODE_INVALID]\n")

    # Somebody else's code, to a person who has contacts in the profile: they are told where these would go.
    file.write_text(LinkCode.new("+15555550199").text)
    where = ("--profile", "other", "--home", tmp_path)
    assert ipls("client", "contacts", "add", "Ada", *where, *endpoints).returncode == 0
    theirs = ipls("client", "join", "--code-file", file, *where, input="n\n")
    assert (theirs.returncode, theirs.stdout) == (1, "")
    assert "the account of +15555550199" in theirs.stderr
    assert "the 1 contacts of this profile go there too" in theirs.stderr
