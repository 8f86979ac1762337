//! The akd crate on the shapes of bench/directory.py: commands on stdin, one a line; for each a line of JSON on stdout.
//!
//! In memory, with the crate's own cache at its defaults, VRF and insertion parallel. The commands and what they answer
//! stand in bench/ours.py, which does the same with ours. Labels, values and VRF key are the same, and so must the
//! roots be.

use std::io::BufRead;
use std::time::Instant;

use akd::append_only_zks::AzksParallelismConfig;
use akd::client::{key_history_verify, lookup_verify};
use akd::ecvrf::HardCodedAkdVRF;
use akd::proto::specs::types;
use akd::storage::memory::AsyncInMemoryDatabase;
use akd::storage::StorageManager;
use akd::{AkdLabel, AkdValue, EpochHash, HistoryParams, HistoryVerificationParams, WhatsAppV1Configuration as Config};
use protobuf::Message;
use serde_json::{json, Value};

type Directory = akd::Directory<Config, AsyncInMemoryDatabase, HardCodedAkdVRF>;

const HISTORY: HistoryParams = HistoryParams::MostRecent(2);

fn label(number: usize) -> AkdLabel {
    AkdLabel(format!("+1555{number:07}").into_bytes())
}

fn value(number: usize, version: usize) -> AkdValue {
    AkdValue(format!("{:.<33}", format!("{number}/{version}")).into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("a line VmRSS");
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse::<usize>().ok())
        .expect("a number of kB")
        * 1024
}

struct Peer {
    directory: Directory,
    public_key: Vec<u8>,
    heads: Vec<EpochHash>,
}

impl Peer {
    async fn new() -> Peer {
        let storage = StorageManager::new(AsyncInMemoryDatabase::new(), None, None, None);
        let parallel = AzksParallelismConfig::default();
        let directory = Directory::new(storage, HardCodedAkdVRF {}, parallel)
            .await
            .expect("a new directory");
        let public_key = directory.get_public_key().await.expect("a VRF key").as_bytes().to_vec();
        let start = directory.get_epoch_hash().await.expect("an empty tree");
        Peer {
            directory,
            public_key,
            heads: vec![start],
        }
    }

    /// One epoch with version `version` of the labels `first` to `first + count - 1`.
    async fn publish(&mut self, first: usize, count: usize, version: usize) -> Value {
        let updates = (first..first + count)
            .map(|number| (label(number), value(number, version)))
            .collect();
        let started = Instant::now();
        let head = self.directory.publish(updates).await.expect("a published epoch");
        let seconds = started.elapsed().as_secs_f64();
        let root = hex(&head.1);
        self.heads.push(head);
        json!({"seconds": seconds, "root": root})
    }

    async fn lookup(&self, number: usize) -> Value {
        let started = Instant::now();
        let (proof, head) = self.directory.lookup(label(number)).await.expect("a lookup proof");
        let made = started.elapsed().as_secs_f64();
        let bytes = types::LookupProof::from(&proof)
            .write_to_bytes()
            .expect("an encoded proof")
            .len();
        let started = Instant::now();
        lookup_verify::<Config>(&self.public_key, head.1, head.0, label(number), proof).expect("a lookup that holds");
        json!({"made": made, "checked": started.elapsed().as_secs_f64(), "bytes": bytes})
    }

    async fn history(&self, number: usize) -> Value {
        let started = Instant::now();
        let (proof, head) = self
            .directory
            .key_history(&label(number), HISTORY)
            .await
            .expect("a history proof");
        let made = started.elapsed().as_secs_f64();
        let bytes = types::HistoryProof::from(&proof)
            .write_to_bytes()
            .expect("an encoded proof")
            .len();
        let params = HistoryVerificationParams::Default {
            history_params: HISTORY,
        };
        let started = Instant::now();
        key_history_verify::<Config>(&self.public_key, head.1, head.0, label(number), proof, params)
            .expect("a history that holds");
        json!({"made": made, "checked": started.elapsed().as_secs_f64(), "bytes": bytes})
    }

    /// The newest epoch's append-only proof.
    async fn append_only(&self) -> Value {
        let [.., old, new] = &self.heads[..] else {
            panic!("no epoch yet")
        };
        let started = Instant::now();
        let proof = self.directory.audit(old.0, new.0).await.expect("an append-only proof");
        let made = started.elapsed().as_secs_f64();
        let bytes = types::SingleAppendOnlyProof::from(&proof.proofs[0])
            .write_to_bytes()
            .expect("encoded")
            .len();
        let started = Instant::now();
        akd::auditor::audit_verify::<Config>(vec![old.1, new.1], proof)
            .await
            .expect("an append-only proof that holds");
        json!({"made": made, "checked": started.elapsed().as_secs_f64(), "bytes": bytes})
    }

    async fn answer(&mut self, command: &[&str]) -> Value {
        let numbers: Vec<usize> = command[1..]
            .iter()
            .map(|word| word.parse().expect("a number"))
            .collect();
        match (command[0], &numbers[..]) {
            ("publish", &[first, count, version]) => self.publish(first, count, version).await,
            ("lookup", &[number]) => self.lookup(number).await,
            ("history", &[number]) => self.history(number).await,
            ("append_only", []) => self.append_only().await,
            ("size", []) => json!({"memory": resident()}),
            _ => panic!("unknown command"),
        }
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let mut peer = runtime.block_on(Peer::new());
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line of text");
        let command: Vec<&str> = line.split_whitespace().collect();
        println!("{}", runtime.block_on(peer.answer(&command)));
    }
}
