"""An outsider with the trust root alone reads the whole log over HTTP and finds it to be what the witnesses signed."""

from urllib.parse import quote, urlsplit
from urllib.request import urlopen
from xml.etree import ElementTree as ET

from ipls.akd import verify_append_only
from ipls.clock import system_now_ms
from ipls.proto.directory.v1.directory_pb2 import GetHeadRequest
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub
from ipls.rpc.channel import open_channel
from ipls.trust.heads import Head, verify_head
from ipls.trust.root import TrustRoot, parse_trust_root
from tests.e2e.running import Deployment

KEY = "{http://s3.amazonaws.com/doc/2006-03-01/}Contents/{http://s3.amazonaws.com/doc/2006-03-01/}Key"


def get(url: str) -> bytes:
    with urlopen(url, timeout=60) as answer:
        return answer.read()


def names(log: str) -> list[str]:
    """All objects of the log, a page of two at a time."""
    found: list[str] = []
    while True:
        page = ET.fromstring(get(f"{log}/?list-type=2&max-keys=2&start-after={quote(found[-1] if found else '')}"))
        keys = [key.text or "" for key in page.findall(KEY)]
        if not keys:
            return found
        found += keys


async def signed_heads(deployment: Deployment, root: TrustRoot) -> list[Head]:
    """What the witnesses signed of every epoch, from the start to the newest."""
    address = str(deployment.endpoints()["directory"]["address"])
    async with open_channel(address, deployment.folder / "tls/ca.pem") as channel:
        stub = DirectoryServiceStub(channel)
        newest = (await stub.GetHead(GetHeadRequest())).head
        heads = []
        for epoch in range(1, newest.epoch + 1):
            head = (await stub.GetHead(GetHeadRequest(epoch=epoch))).head
            heads.append(verify_head(root, head, now_ms=system_now_ms(), check_age=False))
        assert verify_head(root, newest, now_ms=system_now_ms()) == heads[-1]
        return heads


async def test_the_log_is_what_the_witnesses_signed(deployment: Deployment) -> None:
    for number in range(3):
        async with deployment.device(f"log{number}") as phone:
            await deployment.register(phone, f"+4930555{number:04}")
    root = parse_trust_root((deployment.folder / "trust.toml").read_bytes())
    log = root.log_url.rstrip("/")
    assert urlsplit(log).path == ""
    heads = await signed_heads(deployment, root)
    assert len(heads) >= 3
    listed = names(log)
    objects = {int(name.split("/")[0]): name for name in listed}
    assert len(objects) == len(listed), "an epoch has two objects"
    assert sorted(objects) == [head.epoch for head in heads]
    before = Head(root.start_epoch, root.start_root)
    for head in heads:
        assert objects[head.epoch] == f"{head.epoch}/{before.root_hash.hex()}/{head.root_hash.hex()}"
        verify_append_only(before.root_hash, head.root_hash, head.epoch, get(f"{log}/{objects[head.epoch]}"))
        before = head
