//! What `cloakroom migrate` costs, and what bare sled does for the same rows.
//!
//! ```text
//! cargo bench --bench migrate -- write FILE BYTES    a file like Hermes', of about BYTES bytes
//! cargo bench --bench migrate -- bare STORE          the rows of a migrated store into a new sled database, in one run
//! ```
//!
//! `bare` reads every row of the store into memory first. Then it inserts them, entry by entry in the random order of
//! their fingerprints, and once more tree by tree in key order; each run ends with a flush and an fsync. That is less
//! than a migration does: no JSON, and nothing is looked for. Processor time is printed too, for machines that others use
//! at the same time; of `cloakroom migrate`, `/usr/bin/time` tells it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Trees with a row, or several, for each entry.
const TREES: [&str; 5] = ["sessions", "activity", "by_updated_at", "by_session_id", "extras"];
/// sled's cache, as sled counts it. `migrate` has three eighths of that.
const CACHE: u64 = 64 << 20;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["write", file, bytes] => write(Path::new(file), bytes.parse()?),
        ["bare", store] => bare(Path::new(store)),
        _ => {
            println!("give `write FILE BYTES` or `bare STORE`");
            Ok(())
        }
    }
}

/// Writes a file in the shape of the real ones: threads of Discord, about 1.8 KiB an entry, in the order of creation.
fn write(path: &Path, bytes: u64) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let (mut written, mut entries) = (0_u64, 0_u64);
    let mut dice = Dice(7);
    out.write_all(b"{")?;
    while written < bytes {
        let text = entry(entries, &mut dice);
        out.write_all(if entries == 0 { b"\n" } else { b",\n" })?;
        out.write_all(text.as_bytes())?;
        written += text.len() as u64 + 2;
        entries += 1;
    }
    out.write_all(b"\n}")?;
    out.into_inner()?.sync_all()?;
    println!("{entries} entries, {written} bytes");
    Ok(())
}

fn entry(number: u64, dice: &mut Dice) -> String {
    let chat = 1_000_000_000_000_000_000 + dice.roll() % 8_000_000_000_000_000_000;
    let (user, tokens) = (100_000_000_000_000_000 + dice.roll() % 800_000_000_000_000_000, dice.roll() % 100_000);
    let key = format!("agent:main:discord:thread:{chat}:{chat}");
    let id = format!("20260612_{:06}_{:08x}", number % 1_000_000, dice.roll() as u32);
    let created = time(dice);
    let updated = time(dice);
    let name = format!("Guild of the {:x} / #general / a thread about {:x}", dice.roll() as u16, dice.roll() as u32);
    // One in four has something to keep beside its fields.
    let metadata = if number.is_multiple_of(4) {
        format!(
            "\n    \"metadata\": {{\n      \"model\": \"m{tokens}\",\n      \"seen\": [\n        {tokens}\n      ]\n    }},"
        )
    } else {
        String::new()
    };
    format!(
        r#"  "{key}": {{
    "session_key": "{key}",
    "session_id": "{id}",
    "created_at": "{created}",
    "updated_at": "{updated}",
    "display_name": "{name}",
    "platform": "discord",
    "chat_type": "thread",{metadata}
    "input_tokens": {tokens},
    "output_tokens": 512,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "total_tokens": {tokens},
    "last_prompt_tokens": 4096,
    "estimated_cost_usd": 0.0,
    "cost_status": "unknown",
    "expiry_finalized": false,
    "suspended": false,
    "resume_pending": false,
    "resume_reason": null,
    "last_resume_marked_at": null,
    "is_fresh_reset": false,
    "was_auto_reset": false,
    "auto_reset_reason": null,
    "reset_had_activity": false,
    "origin": {{
      "platform": "discord",
      "chat_id": "{chat}",
      "chat_name": "{name}",
      "chat_type": "thread",
      "user_id": "{user}",
      "user_name": "user {user}",
      "thread_id": "{chat}",
      "chat_topic": null,
      "guild_id": "{user}",
      "parent_chat_id": "{user}",
      "message_id": "{chat}"
    }}
  }}"#
    )
}

/// A time within three months of summer: no hour of it is skipped or repeated.
fn time(dice: &mut Dice) -> String {
    let seconds = dice.roll() % 86_400;
    format!(
        "2026-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}",
        6 + dice.roll() % 3,
        1 + dice.roll() % 30,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        dice.roll() % 1_000_000
    )
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A tree's number, key and value.
type Row = (usize, sled::IVec, sled::IVec);

/// The key in a row of `activity`: behind the version, and behind its length as bincode writes that.
fn session_key(value: &[u8]) -> &[u8] {
    match value {
        [_, 251, low, high, text @ ..] => text.get(..usize::from(u16::from_le_bytes([*low, *high]))),
        [_, length, text @ ..] => text.get(..usize::from(*length)),
        _ => None,
    }
    .unwrap_or_default()
}

fn bare(store: &Path) -> Result<()> {
    let rows = rows(store)?;
    let entries = rows.iter().filter(|(tree, ..)| *tree == 0).count();
    println!("{entries} entries, {} rows", rows.len());
    let mut by_entry = rows.clone();
    // Rows of one entry together, entries in random order: as a gateway's file has them.
    let activity = by_entry.iter().filter(|(tree, ..)| *tree == 1);
    let prints: BTreeMap<Vec<u8>, Vec<u8>> =
        activity.map(|(_, row, value)| (session_key(value).to_vec(), row.to_vec())).collect();
    let print = |(tree, key, _): &Row| -> Vec<u8> {
        let key: &[u8] = key;
        let print = match TREES.get(*tree) {
            Some(&"sessions") => prints.get(key).map(Vec::as_slice),
            Some(&"activity" | &"extras") => key.get(..16),
            Some(&"by_updated_at" | &"by_session_id") => key.get(key.len().saturating_sub(16)..),
            _ => None,
        };
        print.unwrap_or_default().to_vec()
    };
    by_entry.sort_by_cached_key(print);
    for (order, rows) in [("by entry", &by_entry), ("by key", &rows)] {
        let before = processor_seconds()?;
        let (took, bytes) = load(rows)?;
        let busy = processor_seconds()? - before;
        let rate = entries as f64 / took.as_secs_f64();
        let took = took.as_secs_f64();
        println!("bare sled, {order}: {took:.2} s, {busy:.2} s busy, {rate:.0} entries/s, {bytes} bytes on disk");
    }
    Ok(())
}

/// What all threads of this process have used, from `/proc/self/stat`.
fn processor_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name of the program stands in brackets and may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<u64> = fields.skip(11).take(2).map(str::parse).collect::<std::result::Result<_, _>>()?;
    // Linux tells it in hundredths of a second.
    Ok(ticks.iter().sum::<u64>() as f64 / 100.0)
}

fn rows(store: &Path) -> Result<Vec<Row>> {
    let db = sled::Config::new().path(database(store)?).open()?;
    let mut rows = Vec::new();
    for (number, name) in TREES.iter().enumerate() {
        for row in &db.open_tree(name)? {
            let (key, value) = row?;
            rows.push((number, key, value));
        }
    }
    Ok(rows)
}

/// The directory below the store that sled's files are in.
fn database(store: &Path) -> Result<std::path::PathBuf> {
    for entry in std::fs::read_dir(store)? {
        let path = entry?.path();
        if path.join("conf").exists() {
            return Ok(path);
        }
    }
    Err("there is no database in that directory".into())
}

fn load(rows: &[Row]) -> Result<(Duration, u64)> {
    let dir = tempfile::tempdir()?;
    let started = Instant::now();
    let db = sled::Config::new().path(dir.path()).cache_capacity(CACHE).open()?;
    let trees = TREES.iter().map(|name| db.open_tree(name)).collect::<sled::Result<Vec<_>>>()?;
    for (tree, key, value) in rows {
        if let Some(tree) = trees.get(*tree) {
            tree.insert(key, value)?;
        }
    }
    db.flush()?;
    File::open(dir.path().join("db"))?.sync_data()?;
    Ok((started.elapsed(), db.size_on_disk()?))
}
