"""What a person does next about each refusal that `ipls client` can end in.

docs/protocol/errors.md says what the reasons mean. Tested by tests/cli/test_advice.py.
"""

from collections.abc import Mapping

_LATER = "try again in a while"
_AGAIN = "run the same command again"
_REGISTER = "ipls client register NUMBER"
_MONITOR = "ipls client monitor shows whose key it is; if it is not yours: ipls client register NUMBER"
_CLOCK = "set this machine's clock right, then run the command again"
_UPDATE = "install the newest ipls, then run the command again; if it stays, report it"
_OPERATOR = "tell whoever runs the service; ipls status --config ipls.toml shows them what it is"
_ACCUSE = "keep the profile as it is, it may be evidence; tell whoever runs the service, and ipls audit --trust FILE"
_ENDPOINTS = "name a deployment's file by --endpoints"
_NEW_PROFILE = "name a new one by --profile"
_SHOW_VAULT = "ipls client vault show"

_REASONS: Mapping[str, str] = {
    _LATER: """
        DEADLINE_EXCEEDED UNREACHABLE DATABASE_UNAVAILABLE DIRECTORY_NOT_READY DIRECTORY_UNAVAILABLE IDENTITY_UNKNOWN
        LOG_SILENT QUEUE_FULL READER_PENDING SERVICE_BUSY CALL_SLOW STREAM_OVER
        VAULT_AWAY VAULT_BUNDLE_BEHIND VAULT_BUNDLE_MISSING VAULT_BUSY VAULT_CORE_LOST VAULT_DIRECTORY_UNAVAILABLE
        VAULT_HEAD_BELOW_OWN_KEY VAULT_NOTARY_LOST VAULT_NO_HEAD VAULT_STORAGE_FAILED VAULT_STREAM_ENDED
        VAULT_WORKER_LOST VAULT_BUNDLE_OLD CALL_QUOTA LABEL_QUOTA VAULT_RELEASE_LIMIT
        ABSENCE_UNPROVEN CODE_RATE CODE_NOT_SENT LINE_BUSY""",
    _AGAIN: """
        CALL_REPLAYED EPOCH_PRUNED EPOCH_UNKNOWN LINE_CONFLICT
        PROFILE_BUSY READ_SESSION_EXPIRED SIDE_CHANGED
        READ_SESSION_INVALID READ_SESSION_REQUIRED RECORD_ABSENT REGISTRATION_PENDING REQUEST_ID_REUSED
        SNAPSHOT_ABSENT VALUE_ERASED
        VAULT_OUT_OF_ORDER VAULT_SESSION_EXPIRED VAULT_SESSION_OVER VAULT_TOO_MANY_REQUESTS VAULT_HSM_KEY_MISMATCH
        VAULT_WRONG_SHARD VAULT_HANDED_OFF VAULT_PROFILE_MISMATCH PASSPHRASE_DIFFERS""",
    _REGISTER: """
        CODE_ATTEMPTS CODE_EXPIRED CODE_NOT_REQUESTED NOT_REGISTERED READER_UNKNOWN
        REGISTRATION_NOT_PROVED TICKET_UNKNOWN VALUE_AWAITED""",
    "ipls client register NUMBER --code CODE, with the code that was sent": "CODE_EMPTY CODE_WRONG",
    "look at the number; if it is yours: ipls client register NUMBER": "LABEL_NOT_FOUND",
    _MONITOR: """
        IDENTITY_SUPERSEDED VAULT_IDENTITY_MISMATCH VAULT_IDENTITY_SUPERSEDED""",
    "set this machine's clock right; if it is, tell whoever runs the service": "CERTIFICATE_NOT_VALID",
    _CLOCK: "CALL_STALE HEAD_FROM_FUTURE HEAD_TOO_OLD",
    _UPDATE: """
        BATCH_SIZE BODY_INVALID CALL_TOO_LARGE CHUNK_INVALID DIGEST_MISMATCH ENVELOPE_INVALID HISTORY_OF_ANOTHER
        INTERNAL KEY_INVALID
        MANIFEST_INVALID MESSAGE_TOO_LARGE MESSAGE_UNREADABLE RECORD_SIZE
        REQUEST_ID_INVALID ROLE_REQUIRED SIGNATURE_INVALID SIGNATURE_LENGTH SIZE_MISMATCH VAULT_ACCOUNT_UNREADABLE
        VAULT_BLOB_REFUSED
        VAULT_FIELD_INVALID VAULT_FRAME_MALFORMED VAULT_FRAME_TOO_LARGE VAULT_INTERNAL VAULT_KEM_KEY_INVALID
        VAULT_OPERATION_UNKNOWN VAULT_POINT_INVALID VAULT_PROFILE_UNKNOWN VAULT_VERSION_UNSUPPORTED TLS_UNGUARDED
        HISTORY_TOO_LONG IDENTITY_RECORD_INVALID LABEL_PRESENT LINE_EXISTS VERSION_NEWEST WITNESS_OTHER_NAMESPACE
        VAULT_RECORD_REFUSED""",
    _OPERATOR: """
        BUNDLE_HSM_NOT_VALID
        BUNDLE_DEVELOPMENT BUNDLE_EXPIRED BUNDLE_GAP BUNDLE_INVALID BUNDLE_OTHER_NAMESPACE HEAD_BELOW_START
        DATABASE_UNREADABLE LEAF_EXISTS TILE_CORRUPT TILE_MISSING TREE_MISMATCH
        IDENTITY_UNPROVEN TRUST_ROOT_EXPIRED TRUST_ROOT_GAP VAULT_ANCHOR_MISSING VAULT_ANCHOR_MOVED
        VAULT_DATABASE_BEHIND VAULT_DATABASE_EDITED VAULT_DATABASE_FORKED VAULT_LOG_BROKEN VAULT_POLICY_MISMATCH
        VAULT_ROOT_MISSING VAULT_SHARDS_CHANGED TRUST_ROOT_INVALID TRUST_ROOT_NEW_QUORUM TRUST_ROOT_OLD_QUORUM
        TRUST_ROOT_START HEAD_ENCODING""",
    _ACCUSE: """
        BUNDLE_BELOW_HIGHEST BUNDLE_FORK HEAD_BELOW_HIGHEST HEAD_FORK HEAD_KEY_EXPIRED HEAD_KEY_UNPINNED HEAD_NO_QUORUM
        HEAD_OTHER_NAMESPACE HEAD_OTHER_ROOT HISTORY_REWRITTEN IDENTITY_SPLIT KEY_CHECK_FAILED KEY_READ_BACK
        RECORD_INVALID STORE_ANSWER_INVALID TRUST_ROOT_FORK
        TRUST_ROOT_OTHER_NAMESPACE TRUST_ROOT_PREVIOUS TRUST_ROOT_ROLLED_BACK TRUST_ROOT_VRF_KEY VAULT_BODY_REFUSED
        VAULT_HISTORY_REWRITTEN VAULT_SIGNATURE_INVALID VAULT_TAG_INVALID TRUST_ROOT_KEY_DROPPED
        COMMIT_REFUSED SEAL_BROKEN""",
    _ENDPOINTS: "ENDPOINTS_INVALID",
    "ipls client register NUMBER --endpoints FILE makes one; ipls client profiles, which lists those that are here": (
        "PROFILE_ABSENT"
    ),
    _NEW_PROFILE: "OTHER_ACCOUNT",
    _SHOW_VAULT: "VAULT_APPROVER_UNKNOWN VAULT_GENERATION_UNKNOWN",
    "ipls client register and the number that was begun with; or name a new profile by --profile": (
        "REGISTRATION_UNDER_WAY"
    ),
    "give the number as + and 1 to 15 digits": "LABEL_INVALID",
    "make room on the disk; a damaged profile is made anew:"
    " ipls client register NUMBER --profile NEW, then ipls client restore": "PROFILE_STORAGE",
    "ipls client contacts export FILE, if that still goes; then ipls client register NUMBER --profile NEW and"
    " ipls client restore": "PROFILE_DAMAGED",
    "put the profile's own key.json back; without it: ipls client register NUMBER --profile NEW, then ipls client"
    " restore": "PROFILE_KEY_LOST",
    "run the command at a terminal, or have IPLS_PASSPHRASE_FILE name a file with the passphrase": "PROFILE_LOCKED",
    "try again; a passphrase that nobody knows any more: ipls client register NUMBER --profile NEW, then ipls client"
    " restore": "PASSPHRASE_WRONG",
    "unlock the system's keyring; without one, have IPLS_PASSPHRASE_FILE name a file with a passphrase": (
        "KEYRING_UNAVAILABLE"
    ),
    "ipls client profiles": "PROFILE_EXISTS",
    "write a passphrase into that file": "PASSPHRASE_EMPTY",
    "ipls client monitor, without --endpoints; else a new profile by --profile": "TRUST_ROOT_CHANGED",
    "end the other command that follows this profile's contacts": "FOLLOW_REPLACED PROFILE_FOLLOWED",
    "do it on the phone that registered the number": "IDENTITY_ONLY KEY_ABSENT",
    "ipls client recover, which gives it back from this phone": "STORE_ROLLED_BACK",
    "ipls client recover --anew on the phone whose contacts are right": "STORE_FORKED BASE_FALSE",
    "ipls client recover --follow if another phone of yours began it; else ipls client recover --anew": "LINE_REPLACED",
    "ipls client recover --show says what it changed; if that was you: ipls client identity --that-was-me VERSION; if"
    " not: ipls client recover --anew": "LINE_FOREIGN",
    "ipls client store": "LINE_ABSENT",
    "ipls client number shows the new one; on the phone that changed it, ipls client number NEW again; where another"
    " has that number by now, ipls client number --let-go, then ipls client recover --anew": "LINE_MOVED",
    "ipls client number NEW again": "NUMBER_CHANGING",
    "ipls client number shows it; ipls client number --let-go deletes its account": "NUMBER_KEPT",
    "ipls client number": "NUMBER_ALONE NUMBER_SAME",
    "ipls client store on the phone that has the contacts": "MANIFEST_ABSENT NOTHING_STORED",
    "keep fewer contacts": "LIST_TOO_LONG",
    "ipls client restore, which makes room of what an earlier phone left": "ACCOUNT_QUOTA VAULT_TOO_MANY_GENERATIONS",
    "give that card a smaller photo": "ENVELOPE_TOO_LARGE",
    "update the address-book program": "DAV_XML_REFUSED",
    "see that the folder is mounted, and the one that is meant": "SIDE_AWAY",
    "look what became of the contacts; if they are to be removed: --allow-removals": "SIDE_SHRUNK",
    "ipls client monitor, which lists them": "VERSION_UNKNOWN",
    "ipls client contacts list": "CONTACT_UNKNOWN CONTACT_AMBIGUOUS",
    "ipls client contacts show ID, then edit ID": "CARD_EDIT_REFUSED CARD_VALUE_ABSENT CONTACT_CHANGED",
    "name two contacts; ipls client contacts duplicates proposes some": "CONTACT_SAME",
    "nothing: all is as it was": "NOTHING_TO_UNDO",
    "name a profile of another account": "ACCOUNT_SAME",
    "ipls client store --profile with the other profile's name, then run the command again": "MOVE_UNFINISHED",
    "ipls client contacts conflicts, then name one": "CONFLICT_ALONE CONFLICT_UNKNOWN",
    "set EDITOR, or say what to change: ipls client contacts edit --help": "EDITOR_FAILED",
    "name another file, or give --force": "FILE_EXISTS",
    "ipls client vault delete, then ipls client store, on the phone that has the contacts": "RECORD_DAMAGED",
    "ipls client store again": "VAULT_GENERATION_CONFLICT VAULT_CHECKPOINT_BELOW",
    "wait, or ipls client vault request and have it signed on a device that may; if you registered nothing:"
    " ipls client register NUMBER": "VAULT_CHANGE_DELAYED",
    "ipls client vault request anew, and ipls client vault sign that": "APPROVAL_UNREADABLE VAULT_APPROVAL_INVALID",
    "copy the whole line that ipls client vault request printed": "APPROVAL_REQUEST_INVALID",
    "copy the whole line that ipls client vault key printed": "APPROVER_INVALID",
    "ipls client vault distrust KEY": "VAULT_TOO_MANY_APPROVERS",
    "show a new link code on the device that has the contacts, where nobody else sees it": """
        LINK_ANSWER_INVALID LINK_CODE_BURNT LINK_HELLO_INVALID LINK_OPENING_INVALID LINK_PACKAGE_INVALID
        LINK_SLOT_ABSENT LINK_SLOT_TAKEN""",
    "scan it again, or copy it whole": "CONTACT_CODE_INVALID LINK_CODE_INVALID SAFETY_NUMBER_INVALID",
    "ipls client devices": "DEVICE_UNKNOWN",
    "ipls client devices remove DEVICE, for one that is not used any more": "DEVICES_TOO_MANY",
    "ipls client link on the phone that holds the number, then ipls client join here": "DEVICE_UNLISTED MOVE_UNPROVED",
    "type the six digits that your own new device shows": "LINK_NOT_CONFIRMED SHORT_CODE_WRONG",
    "give the device another name": "DEVICE_NAME_INVALID",
    "try again tomorrow; ipls client history shows who used it": "VAULT_ACCOUNT_LIMIT",
}

NEXT: Mapping[str, str] = {reason: advice for advice, reasons in _REASONS.items() for reason in reasons.split()}
