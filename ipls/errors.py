"""The ancestor of every exception that is defined here. Each package's errors module draws the tree below its base:

IplsError
├── VerificationError   ipls/crypto: something signed, pinned or proven does not hold; TrustError of ipls/trust is one
├── AkdError            ipls/akd
├── AuditError          ipls/auditlog
├── ContactsError       ipls/contacts
├── SessionRefused      ipls/vault
├── StoreError          ipls/store
├── ServiceError        ipls/rpc
├── ClientError         ipls/client
└── ConfigError         ipls/config
"""


class IplsError(Exception):
    """`reason` is UPPER_SNAKE and stable (docs/protocol/errors.md); `message`, which `str` gives, is a line for people.

    Neither holds a secret, or anybody's number or name. `retry_after_s`: when the same may succeed, if that is known.
    """

    def __init__(self, reason: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
