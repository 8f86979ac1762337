"""The public audit log: one write-once object an epoch, `E/<old root, hex>/<new root, hex>`, an encoded
SingleAppendOnlyProof (the directory spec, The public audit log); and beside them, in no listing, `fleet/N`: the fleet's
bundles, encoded SignedBundles.

contract    what every backend gives          files    a folder
                                              s3       a bucket with Object Lock (not imported here: it is slow to load)
"""

from ipls.auditlog.names import object_name
from ipls.store.log.contract import LogStore, ObjectInfo, bundle_name
from ipls.store.log.files import FileLog

__all__ = ["FileLog", "LogStore", "ObjectInfo", "bundle_name", "object_name"]
