//! Where a message came from, and which conversation that makes.

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
    /// Who wrote.
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
    /// The server, by its older name.
    pub guild_id: Option<String>,
    /// The chat that a thread hangs off.
    pub parent_chat_id: Option<String>,
    /// The message that opened the conversation.
    pub message_id: Option<String>,
    /// The gateway's profile.
    pub profile: Option<String>,
}

impl std::fmt::Debug for SessionSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
    /// What keys begin with: `agent:main`, or `agent:<profile>`.
    pub namespace: String,
    /// Outside direct chats and threads, does each user have a session of their own?
    pub sessions_per_user: bool,
    /// Within threads, does each user have one?
    pub thread_sessions_per_user: bool,
}

impl Default for KeyPolicy {
    fn default() -> Self {
        Self { namespace: "agent:main".into(), sessions_per_user: true, thread_sessions_per_user: false }
    }
}

impl KeyPolicy {
    /// The default policy in the namespace of `profile`; an empty one or `default` is `agent:main`.
    #[must_use]
    pub fn for_profile(profile: &str) -> Self {
        match profile {
            "" | "default" => Self::default(),
            name => Self { namespace: format!("agent:{name}"), ..Self::default() },
        }
    }
}

impl SessionKey {
    /// Derives the key of the conversation that `source` belongs to, byte for byte as the Hermes gateway does.
    ///
    /// `<namespace>:<platform>:<chat type>[:<scope>][:<chat>][:<thread>][:<user>]`. A direct chat (`dm`) is its chat
    /// id, or the user where there is none, then the thread. Elsewhere it is chat, thread, then the user, if sessions
    /// are per user. Only Slack puts its scope (the workspace) first.
    ///
    /// The parts are joined unescaped, so two sources may make one key: a chat `a` with thread `b` and a chat `a:b`.
    /// That is the gateways' own scheme, kept so that existing keys go on working.
    ///
    /// ```
    /// use cloakroom::{KeyPolicy, SessionKey, SessionSource};
    /// let source = SessionSource {
    ///     platform: "discord".into(),
    ///     chat_type: "group".into(),
    ///     chat_id: Some("1234".into()),
    ///     user_id: Some("5678".into()),
    ///     ..Default::default()
    /// };
    /// let key = SessionKey::for_source(&source, &KeyPolicy::default())?;
    /// assert_eq!(key.as_str(), "agent:main:discord:group:1234:5678");
    /// # Ok::<(), cloakroom::NameError>(())
    /// ```
    pub fn for_source(source: &SessionSource, policy: &KeyPolicy) -> Result<Self, NameError> {
        let direct = source.chat_type == "dm";
        let scope = present(&source.scope_id).filter(|_| source.platform == "slack");
        let chat = present(&source.chat_id);
        let thread = present(&source.thread_id);
        let user = present(&source.user_id_alt).or(present(&source.user_id));

        let user_counts = match (direct, thread) {
            (true, _) => chat.is_none(),
            (false, Some(_)) => policy.sessions_per_user && policy.thread_sessions_per_user,
            (false, None) => policy.sessions_per_user,
        };
        let user = user.filter(|_| user_counts);
        let (third, fourth) = if direct { (user, thread) } else { (thread, user) };

        let mut key = format!("{}:{}:{}", policy.namespace, source.platform, source.chat_type);
        for part in [scope, chat, third, fourth].into_iter().flatten() {
            key.push(':');
            key.push_str(part);
        }
        Self::new(key)
    }
}

/// The text, unless it is missing or empty.
fn present(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}
