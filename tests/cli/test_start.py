"""How the command begins and ends: ports that are taken, a reader that has enough."""

import os
import pty
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ipls.admin.deployment import create
from ipls.admin.health import check_free
from ipls.config import ConfigError

VECTORS = Path(__file__).parent.parent / "vectors/whatsapp_v1.jsonl"


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"the log .* {address}") as refused:
            check_free("the log", address)
        assert refused.value.reason == "SERVICE_DID_NOT_START"
    check_free("the log", address)


def test_a_reader_that_has_enough_ends_the_command_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ipls.cli.main", "verify", "vectors", str(VECTORS)]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def ipls(*arguments: str) -> tuple[int, str]:
    """The exit status of a command that does not start, and what it says."""
    command = [sys.executable, "-m", "ipls.cli.main", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return ended.returncode, ended.stderr


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of no running service."""
    folder = tmp_path_factory.mktemp("deployment") / "ipls"
    create(folder, "test.ipls", port=0)
    return folder


def listening(deployment: Path, key: str, address: str) -> str:
    """A copy of ipls.toml in which this key, wherever it stands, has this address."""
    config = deployment / "other.toml"
    config.write_text(
        re.sub(f'^({key}) = ".*"', rf'\1 = "{address}"', (deployment / "ipls.toml").read_text(), flags=re.M)
    )
    return str(config)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_port_is_taken_whatever_the_host_is_called(host: str) -> None:
    family, *_, where = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.create_server(where, family=family) as taken:
        address = f"{f'[{host}]' if ':' in host else host}:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"the log .* {re.escape(address)}"):
            check_free("the log", address)
    check_free("the log", address)


@pytest.mark.parametrize(
    ("key", "service"),
    [
        ("listen", "directory"),
        ("internal_listen", "directory"),
        ("listen", "log"),
        ("listen", "witness"),
        ("http_listen", "witness"),
    ],
)
def test_a_service_whose_port_is_taken_says_so_in_a_line(deployment: Path, key: str, service: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, said = ipls("serve", service, "--config", listening(deployment, key, address))
    line = f"ipls: {service} did not start: somebody listens on {address} already [SERVICE_DID_NOT_START]\n"
    assert (status, said) == (2, line)


@pytest.mark.parametrize(
    ("key", "service"),
    [("listen", "directory"), ("internal_listen", "directory"), ("listen", "log"), ("http_listen", "witness")],
)
def test_a_service_that_is_to_listen_where_it_can_t_says_so_in_a_line(deployment: Path, key: str, service: str) -> None:
    elsewhere = "192.0.2.1:7400"  # of the addresses for documents
    status, said = ipls("serve", service, "--config", listening(deployment, key, elsewhere))
    line = f"ipls: can't listen at {elsewhere}: the port is taken, or the host is not this machine's [IO]\n"
    assert (status, said) == (1, line)


@pytest.mark.parametrize("service", ["all", "log", "witness"])
def test_an_address_without_a_port_is_one_line_with_its_key(deployment: Path, service: str) -> None:
    config = listening(deployment, "(?:http_)?listen", "localhost")
    status, said = ipls("serve", service, "--config", config)
    assert (status, said.count("\n")) == (2, 1)
    assert re.search(r"listen: .*not an address: .* \[CONFIG_INVALID\]\n", said)


def test_a_port_that_nobody_knows_before_is_none_for_all_together(deployment: Path) -> None:
    status, said = ipls("serve", "all", "--config", listening(deployment, "http_listen", "127.0.0.1:0"))
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith("ipls: auditor: 127.0.0.1:0: ")


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("keys/token.pin", "TOKEN_UNUSABLE"),
        ("data/vault.db", "DATABASE_UNREADABLE"),
        ("trust.toml", "TRUST_ROOT_INVALID"),
    ],
)
def test_a_vault_that_can_t_start_ends_and_its_last_line_says_why(deployment: Path, file: str, reason: str) -> None:
    """Before, its front began the core again for ever."""
    right = (deployment / file).read_bytes()
    (deployment / file).write_bytes(b"wrong" * 1000)
    status, said = ipls("serve", "vault", "--config", str(deployment / "ipls.toml"))
    (deployment / file).write_bytes(right)
    assert status == 1
    assert said.splitlines()[-1].startswith("ipls: ")
    assert said.endswith(f"[{reason}]\n")


def test_the_core_of_a_vault_reads_the_file_that_its_front_was_given(deployment: Path) -> None:
    """Before, it read the ipls.toml beside it: the vault of another shard served the first one."""
    text = (deployment / "ipls.toml").read_text()
    (deployment / "wrong.pin").write_text("wrong")
    (deployment / "wrong.pin").chmod(0o600)
    (deployment / "vault-1.toml").write_text(text.replace('"keys/token.pin"', '"wrong.pin"'))
    command = [sys.executable, "-m", "ipls.cli.main", "serve", "vault", "--config", str(deployment / "vault-1.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.stderr.endswith("[TOKEN_UNUSABLE]\n")


@pytest.mark.parametrize("option", ["--listen", "--internal-listen"])
def test_an_address_without_a_port_is_no_option(deployment: Path, option: str) -> None:
    status, said = ipls("serve", "directory", "--config", str(deployment / "ipls.toml"), option, "localhost")
    assert status == 2
    assert f"Invalid value for {option}: not an address" in " ".join(said.replace("│", "").split())


def test_it_says_its_version() -> None:
    project = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text())["project"]
    ended = subprocess.run([sys.executable, "-m", "ipls.cli.main", "--version"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"ipls {project['version']}\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_without_a_standard_stream_does_its_work(deployment: Path, tmp_path: Path, closed: str) -> None:
    """What it opens first, a database here, doesn't take the stream's place either."""
    book = tmp_path / "book.vcf"
    book.write_text("BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Ana\r\nEND:VCARD\r\nno card\r\n")
    profile = ["--home", tmp_path, "--endpoints", deployment / "endpoints.json"]
    command = [sys.executable, "-m", "ipls.cli.main", "client", "contacts", "import", book, *profile]
    shell = f'exec "$@" {closed}'
    ended = subprocess.run(["sh", "-c", shell, "sh", *map(str, command)], capture_output=True, text=True)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert b"skipped" not in (tmp_path / "profiles/default/profile.db").read_bytes()
    export = [sys.executable, "-m", "ipls.cli.main", "client", "contacts", "export", "-", "--home", str(tmp_path)]
    assert subprocess.run(export, capture_output=True, text=True).stdout.count("BEGIN:VCARD") == 1


def test_standard_output_that_is_full_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "ipls.cli.main", "--help"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (1, "ipls: No space left on device [IO]\n")


HOMELESS = """
import os, pwd, sys
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
os.environ.pop("HOME", None)
from ipls.cli.main import main
sys.argv[0] = "ipls"
main()
"""


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--help",), 0, ""),
        (("client", "--help"), 0, ""),
        (("client", "status"), 2, "ipls: ~/.ipls: this user has no home folder; set HOME, or name another place"),
    ],
)
def test_a_user_without_a_home_needs_none_until_a_profile_is_wanted(
    arguments: tuple[str, ...], status: int, said: str
) -> None:
    ended = subprocess.run([sys.executable, "-c", HOMELESS, *arguments], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (status, said and f"{said} [CONFIG_INVALID]\n")


INTERRUPTED = """
import os, signal, sys
{when}
from ipls.cli.main import main
sys.argv[0] = "ipls"
main()
"""
MOMENTS = {
    "while modules are imported": "class Finder:\n  def find_spec(self, name, path, target=None):\n"
    "    if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\nsys.meta_path.insert(0, Finder())",
    "where nothing can catch it": "import ipls.cli.commands as c\nclass Late:\n"
    "  def __del__(self): raise KeyboardInterrupt\ndef run():\n  Late()\n  sys.exit(0)\nc.run = run",
    "in a command": "import ipls.cli.commands as c\nc.version = lambda name: os.kill(os.getpid(), signal.SIGINT)",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_ends_a_command_and_is_said_in_a_line(moment: str) -> None:
    program = INTERRUPTED.format(when=MOMENTS[moment])
    ended = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "ipls: interrupted\n")


def test_nothing_is_imported_before_the_command_can_say_what_ends_it() -> None:
    """Ctrl-C while Python imports what it had not before would be a traceback."""
    program = "import sys; had = {*sys.modules}; import ipls.cli.main; print(*sorted({*sys.modules} - had))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "ipls ipls.cli ipls.cli.main\n"


def test_a_service_loads_no_other_ones_program() -> None:
    program = "import sys, ipls.cli.serve; print(*(name for name in sys.modules if name.startswith('ipls.server.')))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "\n"


QUESTIONS = [
    ("client", "vault", "delete"),
    ("keys", "bundle", "sign", "bundle.pb", "--config", "ipls.toml"),
    ("keys", "trust", "sign", "trust-2.toml", "--config", "ipls.toml"),
    ("restore", "backup", "--config", "ipls.toml"),
]


@pytest.fixture(scope="module")
def asked(deployment: Path) -> Path:
    """The deployment's folder, with all that the questions are about."""
    ended = [
        ipls("keys", "trust", "next", str(deployment / "trust-2.toml"), "--config", str(deployment / "ipls.toml")),
        ipls("backup", str(deployment / "backup"), "--config", str(deployment / "ipls.toml")),
    ]
    assert ended == [(0, "")] * len(ended)
    return deployment


@pytest.mark.parametrize("arguments", QUESTIONS, ids=" ".join)
@pytest.mark.parametrize(("answer", "status"), [(b"\x03", 130), (b"\x04", 1), (b"\xff\xfe\n\x04", 1)])
def test_ctrl_c_at_a_question_is_ctrl_c_and_what_is_no_yes_is_a_no(
    asked: Path, arguments: tuple[str, ...], answer: bytes, status: int
) -> None:
    """At a terminal: Ctrl-C, the end of the input, and bytes that are no text."""
    child, terminal = pty.fork()
    if not child:
        os.chdir(asked)
        os.execv(sys.executable, [sys.executable, "-m", "ipls.cli.main", *arguments])
    said = b""
    try:
        while b"[y/N]: " not in said:
            said += os.read(terminal, 1024)
        os.write(terminal, answer)
        while more := os.read(terminal, 1024):
            said += more
    except OSError:  # so the end of a terminal is read
        pass
    _, ended = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(ended) == status, said
    assert b"[y/N]: " in said
    assert b"Traceback" not in said


def test_a_fault_of_ours_is_one_line_that_says_where_and_quotes_nothing() -> None:
    fault = "import ipls.cli.commands as c\ndef broken(name): raise ValueError('+491701234567')\nc.version = broken"
    program = INTERRUPTED.format(when=fault)
    ended = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "ipls: a fault of ipls itself, ValueError at <string>:4; please report it [INTERNAL]\n"


@pytest.mark.parametrize("command", [("-h",), ("client", "-h"), ("client", "contacts", "find", "-h")])
def test_the_short_option_shows_the_help(command: tuple[str, ...]) -> None:
    short = subprocess.run([sys.executable, "-m", "ipls.cli.main", *command], capture_output=True, text=True)
    assert (short.returncode, short.stderr) == (0, "")
    assert "Show this message and exit." in short.stdout


def test_bash_completes_a_command() -> None:
    """As `ipls --install-completion` sets it up."""
    folder = Path(sys.executable).parent
    script = """
eval "$(_IPLS_COMPLETE=source_bash ipls)"
complete -p ipls
COMP_WORDS=(ipls client resto) COMP_CWORD=2
_ipls_completion ipls
echo "${COMPREPLY[@]}"
"""
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    ended = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("complete -o default -F _ipls_completion ipls\nrestore\n", "")


@pytest.mark.parametrize(
    ("shell", "asks", "answer"),
    [
        ("zsh", {}, '_arguments \'*: :(("restore":"'),
        ("fish", {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}, "restore\t"),
    ],
)
def test_zsh_and_fish_are_answered_when_they_ask(shell: str, asks: dict[str, str], answer: str) -> None:
    """By what `ipls --install-completion` gives them, and in the form that they take."""

    def run(environment: dict[str, str]) -> str:
        program = Path(sys.executable).parent / "ipls"
        return subprocess.run([program], env=environment, capture_output=True, text=True, check=True).stdout

    asking = {"_IPLS_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "ipls client resto", **asks}
    assert run(asking).startswith(answer)
    script = run({"_IPLS_COMPLETE": f"source_{shell}"})
    assert all(name in script for name in ("_TYPER_COMPLETE_ARGS", f"_IPLS_COMPLETE=complete_{shell}", *asks))


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_for_a_terminal_whose_person_wants_them(environment: dict[str, str], coloured: bool) -> None:
    terminal, of_command = pty.openpty()
    command = [sys.executable, "-m", "ipls.cli.main", "client", "vault", "sign"]
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=of_command, env={"TERM": "xterm-256color"} | environment
    )
    os.close(of_command)
    said = os.read(terminal, 1 << 16)
    os.close(terminal)
    assert ended.returncode == 2
    assert b"Missing argument" in re.sub(rb"\x1b\[[0-9;]*m", b"", said)
    assert (b"\x1b[3" in said) == coloured
