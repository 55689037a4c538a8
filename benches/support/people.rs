//! The entries: conversations on servers with names, about 350 bytes each.

use cloakroom::{SessionKey, SessionSource, Timestamp};
use serde::{Deserialize, Serialize};

use super::api::KeyPolicy;
use super::contender::Fields;
use super::stream::{place_of, side};

/// 2026-06-12T00:00:00Z: when the first entry is made.
pub const START: i64 = 1_781_222_400_000_000;
/// Time between two creations: a hundred a minute, a million in a week.
pub const SPACING: i64 = 600_000;

/// When an entry is made.
pub fn created_at(entry: usize) -> i64 {
    START + entry as i64 * SPACING
}

const WORDS: [&str; 8] = ["lounge", "help-desk", "music", "deploys", "off-topic", "memes", "standup", "builds"];
const NAMES: [&str; 8] = ["Ada", "Grace", "Linus", "Margaret", "Edsger", "Barbara", "Donald", "Radia"];

/// Where entry number `entry` of `entries` takes place.
pub fn source(entry: usize, entries: usize) -> SessionSource {
    let (side, place) = (side(entries), place_of(entry, entries));
    let (server, channel, user) = (place / (side * side), place / side % side, place % side);
    let chat = server * side + channel;
    SessionSource {
        platform: "discord".into(),
        chat_type: "group".into(),
        chat_id: Some(format!("11{:017}", chat * 7_919 + 104_729)),
        chat_name: Some(format!("Server {server} / #{}-{channel}", WORDS[channel % WORDS.len()])),
        user_id: Some(format!("62{:016}", user * 15_485_863 + 32_452_843)),
        user_name: Some(format!("{} the {user}th", NAMES[user % NAMES.len()])),
        guild_id: Some(format!("36{:017}", server * 611_953 + 179_424_673)),
        message_id: Some(format!("23{:017}", entry * 7 + 982_451_653)),
        ..Default::default()
    }
}

/// Keys of all entries.
pub fn keys(entries: usize) -> Vec<SessionKey> {
    (0..entries).map(|entry| key(&source(entry, entries))).collect()
}

pub fn key(source: &SessionSource) -> SessionKey {
    SessionKey::for_source(source, &KeyPolicy::default()).unwrap()
}

/// An entry as a gateway writes it into its file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub session_key: String,
    pub session_id: String,
    pub created_at: String,
    pub updated_at: String,
    pub display_name: Option<String>,
    pub platform: String,
    pub chat_type: String,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cache_read_tokens: u64,
    pub cache_write_tokens: u64,
    pub total_tokens: u64,
    pub last_prompt_tokens: u64,
    pub estimated_cost_usd: f64,
    pub cost_status: String,
    pub expiry_finalized: bool,
    pub suspended: bool,
    pub resume_pending: bool,
    pub resume_reason: Option<String>,
    pub last_resume_marked_at: Option<String>,
    pub is_fresh_reset: bool,
    pub was_auto_reset: bool,
    pub auto_reset_reason: Option<String>,
    pub reset_had_activity: bool,
    pub origin: Origin,
}

impl Record {
    /// Two fields changed with a touch.
    pub fn change(&mut self, fields: Fields, now: i64) {
        self.updated_at = text_of_time(now);
        self.total_tokens += 7;
        match fields {
            Fields::Counters => self.last_prompt_tokens = now.unsigned_abs(),
            Fields::Details => self.display_name = Some(format!("shown {now}")),
        }
    }
}

/// Where it takes place, as a gateway writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Origin {
    pub platform: String,
    pub chat_id: Option<String>,
    pub chat_name: Option<String>,
    pub chat_type: String,
    pub user_id: Option<String>,
    pub user_name: Option<String>,
    pub thread_id: Option<String>,
    pub chat_topic: Option<String>,
    pub guild_id: Option<String>,
    pub message_id: Option<String>,
}

/// Entry number `entry` of `entries`, made at `now`.
pub fn record(entry: usize, entries: usize, now: i64) -> Record {
    let source = source(entry, entries);
    Record {
        session_key: key(&source).as_str().into(),
        session_id: format!("20260612_000000_{:012x}", entry as u64 * 2_654_435_761),
        created_at: text_of_time(now),
        updated_at: text_of_time(now),
        display_name: source.chat_name.clone(),
        platform: source.platform.clone(),
        chat_type: source.chat_type.clone(),
        input_tokens: 0,
        output_tokens: 0,
        cache_read_tokens: 0,
        cache_write_tokens: 0,
        total_tokens: 0,
        last_prompt_tokens: 0,
        estimated_cost_usd: 0.0,
        cost_status: "unknown".into(),
        expiry_finalized: false,
        suspended: false,
        resume_pending: false,
        resume_reason: None,
        last_resume_marked_at: None,
        is_fresh_reset: false,
        was_auto_reset: false,
        auto_reset_reason: None,
        reset_had_activity: false,
        origin: Origin {
            platform: source.platform,
            chat_id: source.chat_id,
            chat_name: source.chat_name,
            chat_type: source.chat_type,
            user_id: source.user_id,
            user_name: source.user_name,
            thread_id: None,
            chat_topic: None,
            guild_id: source.guild_id,
            message_id: source.message_id,
        },
    }
}

/// A time as Python's `isoformat` writes it.
pub fn text_of_time(micros: i64) -> String {
    let mut text = Timestamp::from_micros(micros).to_string();
    text.pop();
    text
}

/// And back.
pub fn time_of_text(text: &str) -> i64 {
    let quoted = format!("\"{text}Z\"");
    serde_json::from_str::<Timestamp>(&quoted).unwrap().as_micros()
}
