"""The library that a messaging app embeds: one account's device, its errors, and what it tells while it works.

docs/library.md has an example. Every exception is a ClientError or, of a card, `ipls.contacts.CardError`.
"""

from ipls.client.address_book import AddressBook, Duplicate, Group, Listed, OpenConflict, Settlement, Undone
from ipls.client.addressbook.side import Bad
from ipls.client.addressbook.sync import SyncCounts, SyncReport, SyncTerms
from ipls.client.approvals import Approval, ApprovalRequest, parse_approver
from ipls.client.contact_identities import ContactIdentities, IdentityRound
from ipls.client.device import Device, Status
from ipls.client.errors import ClientError, ProfileError, RefusedError, SideError, TryLaterError
from ipls.client.events import (
    AccessEntry,
    CaughtUp,
    CodeAwaited,
    ContactIdentityChanged,
    ContactIdentityDiffers,
    ContactIdentityUnproved,
    Event,
    EvidenceMet,
    FollowBegun,
    FollowMended,
    FollowTrouble,
    FrameSent,
    HeadChecked,
    HistoryChecked,
    IdentityChange,
    JourneyStep,
    Progress,
    Report,
    TrustRootFollowed,
    VaultAccepted,
)
from ipls.client.following import follow
from ipls.client.importing import Imported
from ipls.client.linked_devices import AccountDevice, LinkedDevices
from ipls.client.linking import Linking, NewDevice
from ipls.client.number import NumberChanged
from ipls.client.profile import Account, ContactIdentity, KnownVersion
from ipls.client.profile_key import Kept, KeyAccess, Keyring
from ipls.client.profiles import (
    ProfileSummary,
    change_profile_passphrase,
    list_profiles,
    lock_profile,
    remove_profile,
    rename_profile,
    unlock_profile,
)
from ipls.client.registration import CodeSource
from ipls.client.sync import Recovery, SyncResult
from ipls.client.takeout import Takeout

__all__ = [
    "AccessEntry",
    "Account",
    "AccountDevice",
    "AddressBook",
    "Approval",
    "ApprovalRequest",
    "Bad",
    "CaughtUp",
    "ClientError",
    "CodeAwaited",
    "CodeSource",
    "ContactIdentities",
    "ContactIdentity",
    "ContactIdentityChanged",
    "ContactIdentityDiffers",
    "ContactIdentityUnproved",
    "Device",
    "Duplicate",
    "Event",
    "EvidenceMet",
    "FollowBegun",
    "FollowMended",
    "FollowTrouble",
    "FrameSent",
    "Group",
    "HeadChecked",
    "HistoryChecked",
    "IdentityChange",
    "IdentityRound",
    "Imported",
    "JourneyStep",
    "Kept",
    "KeyAccess",
    "Keyring",
    "KnownVersion",
    "LinkedDevices",
    "Linking",
    "Listed",
    "NewDevice",
    "NumberChanged",
    "OpenConflict",
    "ProfileError",
    "ProfileSummary",
    "Progress",
    "Recovery",
    "RefusedError",
    "Report",
    "Settlement",
    "SideError",
    "Status",
    "SyncCounts",
    "SyncReport",
    "SyncResult",
    "SyncTerms",
    "Takeout",
    "TrustRootFollowed",
    "TryLaterError",
    "Undone",
    "VaultAccepted",
    "change_profile_passphrase",
    "follow",
    "list_profiles",
    "lock_profile",
    "parse_approver",
    "remove_profile",
    "rename_profile",
    "unlock_profile",
]
