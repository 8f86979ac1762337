"""`ipls client serve-dav`: the contacts for the address-book programs on this machine."""

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Annotated

import typer

from ipls.address import parse_address
from ipls.cli.background import follow_beside, teller
from ipls.cli.opening import Reporter, say
from ipls.cli.options import HOME, Home, Json, Name, options_for, profile_folder
from ipls.cli.unlocking import key_access
from ipls.client.addressbook.dav.access import is_local
from ipls.client.addressbook.dav.server import Request, Response, max_body
from ipls.client.dav import IDLE_S, DavServer, add_dav_client
from ipls.client.errors import SideError
from ipls.client.profile_key import open_key


def serve_dav(
    listen: Annotated[
        str, typer.Option("--listen", help="Where, host:port; of this machine alone.")
    ] = "127.0.0.1:8008",
    add_client: Annotated[
        str | None,
        typer.Option("--add-client", metavar="NAME", help="Print a password for a program, and end."),
    ] = None,
    allow_removals: Annotated[
        bool, typer.Option("--allow-removals", help="Also remove what programs removed many of at once.")
    ] = False,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Serve the contacts by CardDAV to the address-book programs on this machine, both ways, until Ctrl-C.

    Each program needs a name and a password of its own (--add-client). Where a program and this device changed one
    thing the program's stands; `contacts conflicts` has what gave way. What is changed is sent, and what other devices
    change comes, as by `ipls client background`.
    """
    folder, access = profile_folder(home, profile), key_access()
    if access.passphrase:
        access = replace(access, passphrase=cache(access.passphrase))  # a person is asked once
    if add_client is not None:
        if not add_client.isprintable() or not add_client or ":" in add_client:
            raise typer.BadParameter(
                "a name is of letters that can be shown, and has no colon", param_hint="--add-client"
            )
        password = add_dav_client(folder, access, add_client)
        text = f"user name {add_client}, password {password}\nit is shown this once; a new one takes its place\n"
        text += f"next: ipls client serve-dav{options_for(profile, home)}"
        say(text, {"name": add_client, "password": password}, as_json)
        return
    from ipls.http.handled import Handled  # they take a moment, which no other command waits for
    from ipls.http.server import serve
    from ipls.runtime.service import Service, run

    try:
        parse_address(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from None
    if not is_local(listen):
        raise typer.BadParameter("a loopback address, as 127.0.0.1:8008", param_hint="--listen")

    def told(error: SideError) -> None:
        print(f"ipls: {error}; if they are to be removed: --allow-removals [{error.reason}]", file=sys.stderr)

    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as admitting, Reporter(verbose=False) as reporter:
        server = thread.submit(lambda: DavServer(folder, access, allow_removals=allow_removals, told=told)).result()
        key = thread.submit(open_key, folder, access).result() or b""

        def admit(method: str, path: str, headers: Mapping[str, str]) -> str | Response:
            return server.admit(Request(method, path, headers))

        def handle(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
            return server.handle(Request(method, path, headers, body))

        async def start(service: Service) -> None:
            app = Handled(
                admit=admit,
                handle=handle,
                admitting=admitting,
                handling=thread,
                max_body=max_body,
                was_used=server.was_used,
                idle=server.let_go,
                idle_s=IDLE_S,
            ).app()
            port = await serve(service, app, listen)
            host = listen.rpartition(":")[0]
            say(f"serving http://{host}:{port}/", {"url": f"http://{host}:{port}/"}, as_json)
            sys.stdout.flush()
            told_of = teller(reporter, verbose=False, as_json=as_json)
            service.start("follow the line", follow_beside(folder, replace(access, opened=key), told_of))

        try:
            run("dav", start)
        finally:
            thread.submit(server.let_go).result()
