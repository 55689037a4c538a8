//! Where a message came from, and which conversation that makes.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::key::{NameError, SessionKey};

/// Where a message came from: the `origin` of an entry.
///
/// An empty text counts as absent when a key is derived, as in the gateways themselves. These are names and ids of
/// people: `Debug` prints which fields are there, not what they hold.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionSource {
    /// `discord`, `telegram`, `slack`, …
    pub platform: String,
    /// `dm`, `group`, `channel`, `thread`, …; `dm` is a direct chat.
    pub chat_type: String,
    /// The chat, channel or room.
    pub chat_id: Option<String>,
    /// Its name.
    pub chat_name: Option<String>,
    /// The user that wrote.
    pub user_id: Option<String>,
    /// Their name.
    pub user_name: Option<String>,
    /// The thread or topic within the chat.
    pub thread_id: Option<String>,
    /// The chat's topic line.
    pub chat_topic: Option<String>,
    /// A second id of the user; it takes the place of `user_id` in a key.
    pub user_id_alt: Option<String>,
    /// A second id of the chat.
    pub chat_id_alt: Option<String>,
    /// The workspace or server.
    pub scope_id: Option<String>,
    /// The same by its older name, which counts where `scope_id` is not there.
    pub guild_id: Option<String>,
    /// The chat that a thread hangs off.
    pub parent_chat_id: Option<String>,
    /// The message that opened the conversation.
    pub message_id: Option<String>,
    /// The profile of the gateway that the message goes to. It takes the place of the policy's namespace in a key.
    pub profile: Option<String>,
    /// The thread that a message outside of one is going to be answered in. It counts as the thread where there is
    /// none, and the chat type in a key is `thread` then.
    pub prospective_thread_id: Option<String>,
}

impl SessionSource {
    /// How many fields there are.
    pub(crate) const FIELDS: usize = 16;

    /// All fields by name, in the order in which Hermes writes them.
    pub(crate) fn fields(&self) -> [(&'static str, Option<&str>); Self::FIELDS] {
        [
            ("platform", Some(&self.platform)),
            ("chat_id", self.chat_id.as_deref()),
            ("chat_name", self.chat_name.as_deref()),
            ("chat_type", Some(&self.chat_type)),
            ("user_id", self.user_id.as_deref()),
            ("user_name", self.user_name.as_deref()),
            ("thread_id", self.thread_id.as_deref()),
            ("chat_topic", self.chat_topic.as_deref()),
            ("user_id_alt", self.user_id_alt.as_deref()),
            ("chat_id_alt", self.chat_id_alt.as_deref()),
            ("scope_id", self.scope_id.as_deref()),
            ("guild_id", self.guild_id.as_deref()),
            ("parent_chat_id", self.parent_chat_id.as_deref()),
            ("message_id", self.message_id.as_deref()),
            ("profile", self.profile.as_deref()),
            ("prospective_thread_id", self.prospective_thread_id.as_deref()),
        ]
    }

    /// A source of what `take` has under these names.
    pub(crate) fn from_fields(mut take: impl FnMut(&'static str) -> Option<String>) -> Self {
        Self {
            platform: take("platform").unwrap_or_default(),
            chat_type: take("chat_type").unwrap_or_default(),
            chat_id: take("chat_id"),
            chat_name: take("chat_name"),
            user_id: take("user_id"),
            user_name: take("user_name"),
            thread_id: take("thread_id"),
            chat_topic: take("chat_topic"),
            user_id_alt: take("user_id_alt"),
            chat_id_alt: take("chat_id_alt"),
            scope_id: take("scope_id"),
            guild_id: take("guild_id"),
            parent_chat_id: take("parent_chat_id"),
            message_id: take("message_id"),
            profile: take("profile"),
            prospective_thread_id: take("prospective_thread_id"),
        }
    }
}

impl fmt::Debug for SessionSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_user = self.user_id.is_some() || self.user_id_alt.is_some();
        f.debug_struct("SessionSource")
            .field("platform", &self.platform)
            .field("chat_type", &self.chat_type)
            .field("has_chat", &self.chat_id.is_some())
            .field("has_thread", &self.thread_id.is_some())
            .field("has_user", &has_user)
            .finish_non_exhaustive()
    }
}

/// How a [`SessionSource`] becomes a [`SessionKey`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPolicy {
    /// What keys begin with, where the source names no profile: `agent:main`, or `agent:<profile>`.
    pub namespace: String,
    /// Outside direct chats and threads, does each user have a session of their own?
    pub sessions_per_user: bool,
    /// Within threads, does each user have one?
    pub thread_sessions_per_user: bool,
    /// The numbers that are one person on WhatsApp. Without them, each number is a person.
    pub whatsapp_aliases: Option<WhatsAppAliases>,
}

/// Which numbers are one person on WhatsApp, as far as the bridge has learnt it: somebody has a telephone number, and
/// another one in place of it (a LID), and may be met under either.
///
/// Hermes' bridge keeps that in `lid-mapping-<number>.json` and `lid-mapping-<number>_reverse.json`.
#[derive(Clone)]
pub struct WhatsAppAliases(Arc<OtherNumbers>);

type OtherNumbers = dyn Fn(&str) -> Vec<String> + Send + Sync;

impl WhatsAppAliases {
    /// The other numbers of a bare number, as far as they are known directly; none is an empty list. It is asked for
    /// those in turn, for at most 64 numbers.
    ///
    /// It runs on the thread that derives a key, with no lock held, for each message from WhatsApp: keep it quick.
    #[must_use]
    pub fn new(aliases: impl Fn(&str) -> Vec<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(aliases))
    }
}

impl fmt::Debug for WhatsAppAliases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WhatsAppAliases")
    }
}

impl PartialEq for WhatsAppAliases {
    /// The same function, not one that says the same.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for WhatsAppAliases {}

impl Default for KeyPolicy {
    fn default() -> Self {
        Self {
            namespace: "agent:main".into(),
            sessions_per_user: true,
            thread_sessions_per_user: false,
            whatsapp_aliases: None,
        }
    }
}

impl KeyPolicy {
    /// The default policy in the namespace of `profile`: `agent:<profile>`. An empty one or `default` is `agent:main`,
    /// and one called `main` is `agent:main~`.
    #[must_use]
    pub fn for_profile(profile: &str) -> Self {
        Self { namespace: namespace(profile), ..Self::default() }
    }
}

fn namespace(profile: &str) -> String {
    match profile {
        "" | "default" => "agent:main".into(),
        "main" => "agent:main~".into(),
        name => format!("agent:{name}"),
    }
}

impl SessionKey {
    /// Derives the key of the conversation that `source` belongs to, byte for byte as `build_session_key` of Hermes
    /// 0.22 does for the profile of the source.
    ///
    /// `<namespace>:<platform>:<chat type>[:<scope>][:<chat>][:<thread>][:<user>]`. A direct chat (`dm`) is its chat
    /// id, or the user where there is none, then the thread. Elsewhere it is chat, thread, then the user, if sessions
    /// are per user. Only Slack puts its scope (the workspace) first.
    ///
    /// A [prospective thread](SessionSource::prospective_thread_id) counts outside direct chats. On `whatsapp` the chat
    /// id of a direct chat and users everywhere are bare numbers: without `+`, and without what comes after `:` or `@`
    /// (`15551234567` for `+15551234567` and for `15551234567:12@s.whatsapp.net`). Of the numbers that are [one
    /// person](KeyPolicy::whatsapp_aliases) it is the shortest, and of these the first in order.
    ///
    /// The parts are joined unescaped, so two sources may make one key: a chat `a` with thread `b` and a chat `a:b`.
    /// That is the gateways' own scheme, kept so that existing keys go on working.
    ///
    /// What keys of older versions may have otherwise: no scope on Slack, and `agent:main` for a profile called main.
    /// OpenClaw's keys are not derived at all.
    ///
    /// ```
    /// use cloakroom::source::KeyPolicy;
    /// use cloakroom::{SessionKey, SessionSource};
    /// let source = SessionSource {
    ///     platform: "discord".into(),
    ///     chat_type: "group".into(),
    ///     chat_id: Some("1234".into()),
    ///     user_id: Some("5678".into()),
    ///     ..Default::default()
    /// };
    /// let key = SessionKey::for_source(&source, &KeyPolicy::default())?;
    /// assert_eq!(key.as_str(), "agent:main:discord:group:1234:5678");
    /// # Ok::<(), cloakroom::key::NameError>(())
    /// ```
    pub fn for_source(source: &SessionSource, policy: &KeyPolicy) -> Result<Self, NameError> {
        let direct = source.chat_type == "dm";
        let person = |id| match source.platform.as_str() {
            "whatsapp" => Cow::Owned(whatsapp_number(id, policy.whatsapp_aliases.as_ref())),
            _ => Cow::Borrowed(id),
        };
        let scope = source.scope_id.as_ref().or(source.guild_id.as_ref()).map(String::as_str);
        let scope = scope.filter(|scope| source.platform == "slack" && !scope.is_empty());
        let chat = present(&source.chat_id).map(|chat| if direct { person(chat) } else { chat.into() });
        let chat = chat.filter(|chat| !chat.is_empty());
        let prospective = present(&source.prospective_thread_id).filter(|_| !direct);
        let (chat_type, thread) = match (present(&source.thread_id), prospective) {
            (None, Some(thread)) => ("thread", Some(thread)),
            (thread, _) => (source.chat_type.as_str(), thread),
        };

        let user_counts = match (direct, thread) {
            (true, _) => chat.is_none(),
            (false, Some(_)) => policy.sessions_per_user && policy.thread_sessions_per_user,
            (false, None) => policy.sessions_per_user,
        };
        let user = present(&source.user_id_alt).or(present(&source.user_id)).filter(|_| user_counts);
        // What is no number stays as it is.
        let user = user.map(|user| Some(person(user)).filter(|number| !number.is_empty()).unwrap_or(user.into()));
        let thread = thread.map(Cow::Borrowed);
        let (third, fourth) = if direct { (user, thread) } else { (thread, user) };

        let namespace = match present(&source.profile) {
            Some(profile) => Cow::Owned(namespace(profile)),
            None => Cow::Borrowed(policy.namespace.as_str()),
        };
        let mut key = format!("{namespace}:{}:{chat_type}", source.platform);
        for part in [scope.map(Cow::Borrowed), chat, third, fourth].into_iter().flatten() {
            key.push(':');
            key.push_str(&part);
        }
        Self::new(key)
    }
}

/// The most numbers that are looked at for one person, should the aliases have no end.
const MAX_ALIASES: usize = 64;

/// The number by which a person on WhatsApp is known, whichever way they are met; empty if there is none in `id`.
fn whatsapp_number(id: &str, aliases: Option<&WhatsAppAliases>) -> String {
    let mut numbers = vec![bare_number(id)];
    let mut asked = 0;
    while let (Some(aliases), Some(number)) = (aliases, numbers.get(asked).filter(|_| asked < MAX_ALIASES)) {
        let others: Vec<_> = (aliases.0)(number).iter().map(|other| bare_number(other)).collect();
        for other in others {
            if !other.is_empty() && !numbers.contains(&other) {
                numbers.push(other);
            }
        }
        asked += 1;
    }
    numbers.into_iter().min_by_key(|number| (number.chars().count(), number.clone())).unwrap_or_default()
}

/// `6012` of `6012:47@s.whatsapp.net`, of `6012@lid` and of `+6012`.
fn bare_number(id: &str) -> String {
    let number = id.trim().replacen('+', "", 1);
    number.split([':', '@']).next().unwrap_or_default().to_owned()
}

/// The text, unless it is missing or empty.
fn present(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}
