"""A deployment whose log is in S3: audited at the bucket itself and at our own server over it."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.e2e.running import Deployment, ipls, running
from tests.store.gateway import Gateway


@pytest.fixture(scope="module")
def bucket_name() -> str:
    return "deployed"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, s3: Gateway, bucket_name: str) -> Iterator[Deployment]:
    """As an operator sets it up: `ipls init`, two tables in ipls.toml, `ipls log create-bucket`."""
    bucket = s3.bucket(bucket_name)

    def use_bucket(config: Path) -> None:
        table = "\n".join(
            [
                f'bucket = "{bucket.name}"',
                f'claims = "{bucket.claims}"',
                "retention_days = 1",
                f'endpoint = "{bucket.endpoint}"',
                f'region = "{bucket.region}"',
                f'credentials = "{bucket.credentials}"',
            ]
        )
        text = config.read_text()
        for line in ('log = "data/log"\n', 'objects = "data/log"\n'):
            assert text.count(line) == 1
            text = text.replace(line, "")
        config.write_text(f"{text}\n[directory.log]\n{table}\n\n[log.objects]\n{table}\n")
        created = ipls("log", "create-bucket", "--config", config)
        assert created.returncode == 0, created.stderr
        assert created.stdout.startswith("deployed is locked, listable and readable by anyone")
        moved = ipls("keys", "bundle", "publish", config.parent / "bundle.pb", "--config", config)
        assert moved.stdout == "bundle 1 is in use and in the log\n", moved.stderr

    with running(tmp_path_factory.mktemp("s3log") / "ipls", prepare=use_bucket) as deployment:
        yield deployment


async def test_an_outsider_audits_the_bucket_and_the_server_over_it(
    deployment: Deployment, s3: Gateway, bucket_name: str, tmp_path: Path
) -> None:
    for number in ("+15550000001", "+15550000002"):
        async with deployment.device(number[1:]) as device:
            await deployment.register(device, number)
    trust = (deployment.folder / "trust.toml").read_text()
    ours = next(line for line in trust.splitlines() if line.startswith("log_url"))
    direct = tmp_path / "direct.toml"
    direct.write_text(trust.replace(ours, f'log_url = "{s3.url}/{bucket_name}"'))
    for root in (deployment.folder / "trust.toml", direct):
        audited = ipls("audit", "--trust", root, "--state", tmp_path / f"{root.name}.state", "--json")
        assert audited.returncode == 0, audited.stderr
        report = json.loads(audited.stdout)
        assert report["ok"]
        assert report["last"] >= 2
    assert [path.name for path in (deployment.folder / "data/log").iterdir()] == ["fleet"]  # put there by `ipls init`


def test_the_bundle_in_use_moved_with_the_log(deployment: Deployment) -> None:
    trust = tomllib.loads((deployment.folder / "trust.toml").read_text())
    with urlopen(f"{trust['log_url']}/fleet/1") as answer:
        assert answer.read() == (deployment.folder / "bundle.pb").read_bytes()


def test_a_folder_is_no_bucket(tmp_path: Path) -> None:
    assert ipls("init", tmp_path / "ipls", "--port", 0).returncode == 0
    refused = ipls("log", "create-bucket", "--config", tmp_path / "ipls/ipls.toml")
    assert refused.returncode == 2
    assert refused.stderr.endswith("directory.log is a folder, not a table for S3 [CONFIG_INVALID]\n")
