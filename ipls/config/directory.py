"""The directory's table.

Tested by tests/surface/test_failures.py.
"""

from pathlib import Path

from pydantic import Field

from ipls.config.base import Address, Model, Peer, TlsFiles
from ipls.config.log import BucketConfig


class RedisConfig(Model):
    url: str
    """redis://, rediss:// or unix://"""


class DirectoryConfig(Model):
    listen: Address
    internal_listen: Address
    """The port for services, mTLS: updates, and reads without a quota."""
    tls: TlsFiles
    database: Path
    vrf_key: Path
    proposal_key: Path
    log: Path | BucketConfig
    """The audit log's objects: a folder, or a table for S3."""
    witnesses: dict[str, Peer]
    """Address of each witness by its name in the trust root."""
    evidence: Path = Path("data/evidence")
    """The folder in which it keeps what it meets: files to be published (docs/protocol/evidence.md)."""
    lease_s: float = Field(3.0, ge=0.1, le=60)
    """How long the publishing process may give no sign of life before another of this database takes over."""
    epoch_max_updates: int = Field(10_000, ge=1, le=10_000)
    epoch_max_age_s: float = Field(1.0, ge=0)
    """How long the oldest queued update may wait for its epoch."""
    queue_max: int = Field(100_000, ge=1)
    daily_quota: int = Field(10, ge=1)
    """Updates a label and day."""
    daily_labels: int = Field(2000, ge=1)
    """Distinct labels that an account may ask for in 24 hours, its own aside."""
    redis: RedisConfig | None = None
    """Where proofs are kept for all processes over one database; without it each keeps its own."""
    anonymous_reads: bool = False
    """Whether reads on the public port need no session. Numbers can be tried one by one then."""
    keep_epochs: int | None = Field(None, ge=1)
    """How many of the newest epochs stay readable; with `keep_age_s`, what either keeps stays. Neither: all.

    An epoch whose head is within the trust root's maximum head age always stays.
    """
    keep_age_s: float | None = Field(None, gt=0)
    """How long an epoch stays readable after the last signature on its head."""
    prune_every: int = Field(100, ge=1)
    """Epochs pruned together: one by one would cost twice a publish."""
    keep_tickets_days: float = Field(30, ge=2, le=36_500)
    """How long a settled update's ticket and request id are known."""
