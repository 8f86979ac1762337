PRAGMA application_id=1768975472;
PRAGMA user_version=1;
CREATE TABLE IF NOT EXISTS pinned (one INTEGER PRIMARY KEY CHECK (one = 1), trust_root BLOB, ca BLOB, addresses TEXT);
CREATE TABLE IF NOT EXISTS trust_root (number INTEGER PRIMARY KEY, signed BLOB);
CREATE TABLE IF NOT EXISTS registration (one INTEGER PRIMARY KEY CHECK (one = 1),
    label TEXT, seed BLOB, request_id BLOB, code TEXT, ticket BLOB);
CREATE TABLE IF NOT EXISTS code_sent (one INTEGER PRIMARY KEY CHECK (one = 1), sent_to TEXT, expires_ms INTEGER);
CREATE TABLE IF NOT EXISTS account (one INTEGER PRIMARY KEY CHECK (one = 1),
    label TEXT, seed BLOB, version INTEGER, epoch INTEGER);
CREATE TABLE IF NOT EXISTS manifest (one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER, version INTEGER, contents BLOB);
CREATE TABLE IF NOT EXISTS swap (one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER, version INTEGER, check_value BLOB, ciphertext BLOB, contents BLOB);
CREATE TABLE IF NOT EXISTS progress (one INTEGER PRIMARY KEY CHECK (one = 1),
    head BLOB, rotate INTEGER, tidy INTEGER);
CREATE TABLE IF NOT EXISTS bundle (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER, digest BLOB);
CREATE TABLE IF NOT EXISTS version (version INTEGER PRIMARY KEY, epoch INTEGER, public_key BLOB, origin TEXT);
CREATE TABLE IF NOT EXISTS history (one INTEGER PRIMARY KEY CHECK (one = 1), proof BLOB);
CREATE TABLE IF NOT EXISTS key_use (number INTEGER PRIMARY KEY, entry BLOB, chain_head BLOB);
CREATE TABLE IF NOT EXISTS approver (one INTEGER PRIMARY KEY CHECK (one = 1), seed BLOB);
CREATE TABLE IF NOT EXISTS leaf (version INTEGER PRIMARY KEY, hash BLOB);
CREATE TABLE IF NOT EXISTS contact_key (
    generation INTEGER PRIMARY KEY, contact_key BLOB, store_id BLOB, confirmed INTEGER);
CREATE TABLE IF NOT EXISTS contact (
    number INTEGER PRIMARY KEY, id BLOB UNIQUE, card BLOB, generation INTEGER, digest BLOB);
INSERT INTO pinned VALUES (1, CAST('root' AS BLOB), CAST('ca' AS BLOB), '{"directory": "directory.example:7400"}');
INSERT INTO account VALUES (1, '+4915112345678', x'6465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f80818283', 1, 2);
INSERT INTO contact_key VALUES (1, x'c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7', CAST('id' AS BLOB), 1);
INSERT INTO version VALUES (1, 2, CAST('key' AS BLOB), 'own');
INSERT INTO leaf VALUES (1, CAST('leaf' AS BLOB));
INSERT INTO manifest VALUES (1, 1, 7, CAST('list' AS BLOB));
INSERT INTO progress VALUES (1, x'', 1, 0);
INSERT INTO key_use VALUES (1, x'0801', CAST('chain' AS BLOB));
