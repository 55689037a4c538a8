//! Keys and ids: what is allowed, what is printed, and how a key is derived.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use cloakroom::key::{MAX_ID_BYTES, MAX_KEY_BYTES, NameError};
use cloakroom::source::{KeyPolicy, WhatsAppAliases};
use cloakroom::{Details, Error, SessionId, SessionKey, SessionSource, SessionStore};

use crate::common::Home;

// Rules.

#[test]
fn keys_that_are_allowed() {
    let longest = "k".repeat(MAX_KEY_BYTES);
    let wide = "ß".repeat(MAX_KEY_BYTES / 2);
    for text in
        ["a", "agent:main:matrix:group:!room:server", "a/b/c\\d", "a_b", "1:2", "ab:c", "Ä:", ".", "a.b", "日本", " "]
            .into_iter()
            .chain([longest.as_str(), wide.as_str()])
    {
        assert_eq!(SessionKey::new(text).map(|key| key.as_str().to_owned()).as_deref(), Ok(text));
        assert_eq!(text.parse::<SessionKey>().unwrap().as_str(), text);
    }
}

#[test]
fn keys_that_are_refused() {
    let too_long = "k".repeat(MAX_KEY_BYTES + 1);
    let too_wide = "ß".repeat(MAX_KEY_BYTES / 2 + 1);
    let cases = [
        ("", NameError::Empty),
        (&too_long, NameError::TooLong { len: 1025, max: 1024 }),
        (&too_wide, NameError::TooLong { len: 1026, max: 1024 }),
        ("_README", NameError::Start('_')),
        ("/etc/passwd", NameError::Start('/')),
        ("\\server", NameError::Start('\\')),
        ("C:x", NameError::Drive),
        ("z:", NameError::Drive),
        ("a..b", NameError::DotDot),
        ("..", NameError::DotDot),
        ("a\nb", NameError::Control { at: 1 }),
        ("ab\0", NameError::Control { at: 2 }),
        ("\u{7f}", NameError::Control { at: 0 }),
        ("ab\u{85}", NameError::Control { at: 2 }),
    ];
    for (text, error) in cases {
        assert_eq!(SessionKey::new(text), Err(error), "{text:?}");
    }
}

#[test]
fn ids_that_are_allowed() {
    let longest = "i".repeat(MAX_ID_BYTES);
    for text in ["i", "20260612_000653_p67x61eb", "_x", "ab:c", "a.b", "3f2c-11", &longest] {
        assert_eq!(SessionId::new(text).map(|id| id.as_str().to_owned()).as_deref(), Ok(text));
        assert_eq!(text.parse::<SessionId>().unwrap().to_string(), text);
    }
}

#[test]
fn ids_that_are_refused() {
    let too_long = "i".repeat(MAX_ID_BYTES + 1);
    let cases = [
        ("", NameError::Empty),
        (&too_long, NameError::TooLong { len: 256, max: 255 }),
        ("a/b", NameError::Separator('/')),
        ("/", NameError::Separator('/')),
        ("a\\b", NameError::Separator('\\')),
        ("D:id", NameError::Drive),
        ("..", NameError::DotDot),
        ("a\tb", NameError::Control { at: 1 }),
    ];
    for (text, error) in cases {
        assert_eq!(SessionId::new(text), Err(error), "{text:?}");
    }
}

#[test]
fn names_from_json_are_checked() {
    assert!(serde_json::from_str::<SessionKey>("\"_note\"").is_err());
    assert!(serde_json::from_str::<SessionId>("\"../x\"").is_err());
    let key: SessionKey = serde_json::from_str("\"agent:x\"").unwrap();
    assert_eq!(serde_json::to_string(&key).unwrap(), "\"agent:x\"");
}

/// Some rule's message would be a leak if it repeated the text.
#[test]
fn messages_never_repeat_the_text() {
    for text in ["/secret-chat", "C:secret-chat", "secret-chat..", "secret-chat\n", &"secret-chat".repeat(100)] {
        let key = SessionKey::new(text).unwrap_err();
        assert!(!format!("{key} {key:?}").contains("secret"), "{key}");
        let errors = [Error::InvalidKey(key), Error::InvalidId(key), Error::from(key)];
        assert!(errors.iter().all(|error| !chain(error).contains("secret")));
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    text
}

// Redaction.

/// Every raw part in here holds this.
const RAW: &str = "Xq";

fn secret_source() -> SessionSource {
    let raw = |n: u32| Some(format!("{RAW}{n}"));
    SessionSource {
        platform: "discord".into(),
        chat_type: "group".into(),
        chat_id: raw(1),
        chat_name: raw(2),
        user_id: raw(3),
        user_name: raw(4),
        thread_id: raw(5),
        chat_topic: raw(6),
        user_id_alt: raw(7),
        chat_id_alt: raw(8),
        scope_id: raw(9),
        guild_id: raw(10),
        parent_chat_id: raw(11),
        message_id: raw(12),
        profile: raw(13),
        prospective_thread_id: raw(14),
    }
}

#[test]
fn nothing_prints_raw_ids() {
    let source = secret_source();
    let policy = KeyPolicy { thread_sessions_per_user: true, ..KeyPolicy::default() };
    let key = SessionKey::for_source(&source, &policy).unwrap();
    assert_eq!(key.as_str(), "agent:Xq13:discord:group:Xq1:Xq5:Xq7");
    let details = Details {
        resume_reason: Some(format!("{RAW} said so")),
        active_turn_token: Some(format!("{RAW}14")),
        auto_reset_reason: Some(format!("{RAW}15")),
        cost_status: Some(format!("{RAW}16")),
        ..Details::from_source(source.clone())
    };
    let home = Home::new();
    let store = SessionStore::open(home.options().key_policy(policy)).unwrap();
    let mut entry = store.resolve(&source).unwrap().entry;
    entry.details = details.clone();
    assert_eq!(entry.key, key);
    let mut extras = cloakroom::Extras::default();
    extras.insert(RAW, &RAW.into());
    let too_large = Error::TooLarge { key: key.clone(), bytes: 2, limit: 1 };
    let printed = [
        format!("{key} {key:?} {key:#?}"),
        format!("{source:?} {source:#?}"),
        format!("{details:?} {details:#?}"),
        format!("{entry:?} {entry:#?}"),
        format!("{extras:?} {extras:#?}"),
        chain(&too_large),
    ];
    for text in printed {
        assert!(!text.contains(RAW), "{text}");
    }
    // Data is no log: serialized, all of it is there.
    assert!(serde_json::to_string(&entry).unwrap().contains("Xq12"));
}

#[test]
fn the_platform_and_the_chat_type_stay() {
    let shown = |text: &str| SessionKey::new(text).unwrap().to_string();
    let hashed = |text: &str| text.rsplit_once('#').map(|(_, hash)| hash.len()) == Some(8);
    for (key, start) in [
        ("agent:main:discord:group:Xq1:Xq2", "discord:group:#"),
        ("agent:main:telegram:dm:Xq1", "telegram:dm:#"),
        ("agent:Xq:slack:thread:Xq1", "slack:thread:#"),
        ("agent:main:open-claw:channel", "open-claw:channel:#"),
        // No known shape: nothing stays.
        ("agent:main:discord:Xq1:Xq2", "#"),
        ("agent:main:Xq:group:1", "#"),
        ("agent:main:x1:group:1", "#"),
        ("agent:main::group:1", "#"),
        ("Xq", "#"),
        ("Xq:Xq:Xq", "#"),
        ("agent:main:averyveryverylongplatform:group:1", "#"),
    ] {
        let text = shown(key);
        assert!(text.starts_with(start) && text.len() == start.len() + 8 && hashed(&text), "{key}: {text}");
        assert!(!text.contains(RAW));
    }
    // Stable, and different for different keys.
    assert_eq!(shown("agent:a"), shown("agent:a"));
    assert_ne!(shown("agent:a"), shown("agent:b"));
    let key = SessionKey::new("agent:main:discord:group:1").unwrap();
    assert_eq!(format!("{key:?}"), format!("SessionKey({key})"));
}

#[test]
fn errors_keep_their_cause() {
    let error = Error::InvalidKey(NameError::Empty);
    // The cause is printed once, with the chain.
    assert_eq!(error.to_string(), "not a session key");
    assert_eq!(error.source().unwrap().to_string(), "it is empty");
    let error = Error::ReadOnly { path: "/a/b".into(), failure: Arc::new(error) };
    assert_eq!(error.to_string(), "the store at /a/b is read-only since a failure");
    assert_eq!(error.source().unwrap().to_string(), "not a session key");
    let by_question_mark = || -> cloakroom::Result<SessionKey> { Ok(SessionKey::new("")?) };
    assert_eq!(by_question_mark().unwrap_err().source().unwrap().to_string(), "it is empty");
    let source = io::Error::from(io::ErrorKind::PermissionDenied);
    let error = Error::PermissionDenied { action: "open", path: "/a/b".into(), source };
    assert!(error.to_string().contains("/a/b") && error.source().is_some());
}

// Derivation.

/// `platform type chat thread user alt scope`, `-` for absent and `.` for empty; then the policy: `u` sessions per
/// user, `t` thread sessions per user, `n=…` a profile.
const DERIVED: &[(&str, &str, &str)] = &[
    // Direct chats: the chat, else the user, then the thread.
    ("telegram dm 42 - 7 - -", "u", "agent:main:telegram:dm:42"),
    ("telegram dm 42 - - - -", "u", "agent:main:telegram:dm:42"),
    ("telegram dm - - 7 - -", "u", "agent:main:telegram:dm:7"),
    ("telegram dm . - 7 - -", "u", "agent:main:telegram:dm:7"),
    ("telegram dm - - 7 8 -", "u", "agent:main:telegram:dm:8"),
    ("telegram dm - - 7 . -", "u", "agent:main:telegram:dm:7"),
    ("telegram dm 42 9 7 - -", "u", "agent:main:telegram:dm:42:9"),
    ("telegram dm - 9 7 - -", "u", "agent:main:telegram:dm:7:9"),
    ("telegram dm - 9 - - -", "u", "agent:main:telegram:dm:9"),
    ("telegram dm - - - - -", "u", "agent:main:telegram:dm"),
    // The policy says nothing about direct chats.
    ("telegram dm 42 - 7 - -", "", "agent:main:telegram:dm:42"),
    ("telegram dm - - 7 - -", "", "agent:main:telegram:dm:7"),
    ("telegram dm 42 9 7 - -", "ut", "agent:main:telegram:dm:42:9"),
    // Only `dm` is direct.
    ("telegram private 42 - 7 - -", "u", "agent:main:telegram:private:42:7"),
    ("openclaw direct 42 - 7 - -", "u", "agent:main:openclaw:direct:42:7"),
    ("telegram DM 42 - 7 - -", "u", "agent:main:telegram:DM:42:7"),
    // Groups: chat, then the user if sessions are per user.
    ("discord group 1 - 7 - -", "u", "agent:main:discord:group:1:7"),
    ("discord group 1 - 7 - -", "", "agent:main:discord:group:1"),
    ("discord group 1 - 7 8 -", "u", "agent:main:discord:group:1:8"),
    ("discord group 1 - - - -", "u", "agent:main:discord:group:1"),
    ("discord group - - 7 - -", "u", "agent:main:discord:group:7"),
    ("discord group . - . . -", "u", "agent:main:discord:group"),
    ("discord channel 1 - 7 - -", "u", "agent:main:discord:channel:1:7"),
    // Threads are shared, unless asked otherwise twice.
    ("discord group 1 5 7 - -", "u", "agent:main:discord:group:1:5"),
    ("discord thread 1 5 7 - -", "u", "agent:main:discord:thread:1:5"),
    ("discord thread 1 5 7 - -", "ut", "agent:main:discord:thread:1:5:7"),
    ("discord thread 1 5 7 8 -", "ut", "agent:main:discord:thread:1:5:8"),
    ("discord thread 1 5 7 - -", "t", "agent:main:discord:thread:1:5"),
    ("discord thread 1 5 7 - -", "", "agent:main:discord:thread:1:5"),
    ("discord thread 1 . 7 - -", "u", "agent:main:discord:thread:1:7"),
    ("discord thread - 5 7 - -", "u", "agent:main:discord:thread:5"),
    // Slack alone has its scope first.
    ("slack group C1 - U7 - T9", "u", "agent:main:slack:group:T9:C1:U7"),
    ("slack dm D1 - U7 - T9", "u", "agent:main:slack:dm:T9:D1"),
    ("slack dm - - U7 - T9", "u", "agent:main:slack:dm:T9:U7"),
    ("slack thread C1 17.2 U7 - T9", "u", "agent:main:slack:thread:T9:C1:17.2"),
    ("slack group C1 - U7 - .", "u", "agent:main:slack:group:C1:U7"),
    ("discord group 1 - 7 - 99", "u", "agent:main:discord:group:1:7"),
    ("Slack group 1 - 7 - 99", "u", "agent:main:Slack:group:1:7"),
    // Namespaces.
    ("discord group 1 - 7 - -", "u n=work", "agent:work:discord:group:1:7"),
    ("discord group 1 - 7 - -", "u n=default", "agent:main:discord:group:1:7"),
    ("discord group 1 - 7 - -", "u n=", "agent:main:discord:group:1:7"),
    ("discord group 1 - 7 - -", "u n=main", "agent:main~:discord:group:1:7"),
    // Raw parts go in as they are.
    ("whatsapp_cloud dm 4917@s.whatsapp.net - - - -", "u", "agent:main:whatsapp_cloud:dm:4917@s.whatsapp.net"),
    ("matrix group !r:server - @u:server - -", "u", "agent:main:matrix:group:!r:server:@u:server"),
    ("signal group a/b= - +49 - -", "u", "agent:main:signal:group:a/b=:+49"),
];

fn source(text: &str) -> SessionSource {
    let parts: Vec<&str> = text.split(' ').collect();
    let part = |n: usize| match parts[n] {
        "-" => None,
        "." => Some(String::new()),
        text => Some(text.to_owned()),
    };
    SessionSource {
        platform: parts[0].into(),
        chat_type: parts[1].into(),
        chat_id: part(2),
        thread_id: part(3),
        user_id: part(4),
        user_id_alt: part(5),
        scope_id: part(6),
        // None of these is part of a key.
        chat_name: Some("name".into()),
        user_name: Some("user".into()),
        chat_id_alt: Some("alt".into()),
        guild_id: Some("guild".into()),
        parent_chat_id: Some("parent".into()),
        message_id: Some("message".into()),
        chat_topic: Some("topic".into()),
        profile: None,
        prospective_thread_id: None,
    }
}

#[test]
fn keys_are_derived_as_the_gateway_does() {
    const { assert!(DERIVED.len() >= 30) };
    for (from, how, expected) in DERIVED {
        let (flags, profile) = how.split_once(" n=").unwrap_or((how, ""));
        let policy = KeyPolicy {
            sessions_per_user: flags.contains('u'),
            thread_sessions_per_user: flags.contains('t'),
            ..KeyPolicy::for_profile(profile)
        };
        let key = SessionKey::for_source(&source(from), &policy).unwrap();
        assert_eq!(key.as_str(), *expected, "{from} with {how:?}");
    }
    assert_eq!(KeyPolicy::for_profile(""), KeyPolicy::default());
}

/// What a message from WhatsApp is keyed by is a number, however its sender is met.
#[test]
fn people_on_whatsapp_are_numbers() {
    let policy = KeyPolicy::default();
    let key = |text: &str| SessionKey::for_source(&source(text), &policy).unwrap().as_str().to_owned();
    for id in ["15551234567", "+15551234567", "15551234567@s.whatsapp.net", "15551234567:12@s.whatsapp.net"] {
        assert_eq!(key(&format!("whatsapp dm {id} - - - -")), "agent:main:whatsapp:dm:15551234567");
        assert_eq!(key(&format!("whatsapp dm - 9 {id} - -")), "agent:main:whatsapp:dm:15551234567:9");
        // A group is no person.
        assert_eq!(key(&format!("whatsapp group 1@g.us - {id} - -")), "agent:main:whatsapp:group:1@g.us:15551234567");
    }
    assert_eq!(key("whatsapp dm @lid - 7@lid - -"), "agent:main:whatsapp:dm:7");
    assert_eq!(key("whatsapp group 1 - @lid - -"), "agent:main:whatsapp:group:1:@lid");
}

#[test]
fn numbers_of_one_person_on_whatsapp_make_one_key() {
    let people: &[&[&str]] = &[&["99988877766655", "15551234567"], &["15551234567", "+15551234568:3@s.whatsapp.net"]];
    let aliases = move |number: &str| {
        assert!(number.bytes().all(|byte| byte.is_ascii_digit()), "asked for {number}");
        let known = people.iter().filter(|numbers| numbers.iter().any(|other| other.contains(number)));
        known.flat_map(|numbers| numbers.iter().map(|&number| number.to_owned())).collect()
    };
    let policy = KeyPolicy { whatsapp_aliases: Some(WhatsAppAliases::new(aliases)), ..KeyPolicy::default() };
    for id in ["99988877766655@lid", "15551234567", "15551234568@s.whatsapp.net"] {
        let key = SessionKey::for_source(&source(&format!("whatsapp dm {id} - - - -")), &policy).unwrap();
        assert_eq!(key.as_str(), "agent:main:whatsapp:dm:15551234567");
    }
    // Aliases without an end.
    let endless = WhatsAppAliases::new(|number| vec![(number.parse::<u64>().unwrap() + 1).to_string()]);
    let policy = KeyPolicy { whatsapp_aliases: Some(endless), ..KeyPolicy::default() };
    let key = SessionKey::for_source(&source("whatsapp dm 7 - - - -"), &policy).unwrap();
    assert_eq!(key.as_str(), "agent:main:whatsapp:dm:7");
}

#[test]
fn a_thread_to_come_and_a_profile_make_the_key() {
    let key = |text: &str, thread: &str, profile: &str| {
        let source =
            SessionSource { prospective_thread_id: Some(thread.into()), profile: Some(profile.into()), ..source(text) };
        SessionKey::for_source(&source, &KeyPolicy::for_profile("work")).unwrap().as_str().to_owned()
    };
    assert_eq!(key("discord group 1 - 7 - -", "5", ""), "agent:work:discord:thread:1:5");
    // A thread that is there counts first, and none is made in a direct chat.
    assert_eq!(key("discord group 1 4 7 - -", "5", ""), "agent:work:discord:group:1:4");
    assert_eq!(key("discord group 1 - 7 - -", "", ""), "agent:work:discord:group:1:7");
    assert_eq!(key("discord dm 1 - 7 - -", "5", ""), "agent:work:discord:dm:1");
    assert_eq!(key("discord dm 1 - 7 - -", "", "coder"), "agent:coder:discord:dm:1");
    assert_eq!(key("discord dm 1 - 7 - -", "", "main"), "agent:main~:discord:dm:1");
    assert_eq!(key("discord dm 1 - 7 - -", "", "default"), "agent:main:discord:dm:1");
    let by_older_name = SessionSource { guild_id: Some("T9".into()), scope_id: None, ..source("slack dm D1 - U7 - -") };
    let key = SessionKey::for_source(&by_older_name, &KeyPolicy::default()).unwrap();
    assert_eq!(key.as_str(), "agent:main:slack:dm:T9:D1");
}

/// The join is not escaped, so keys may meet. That is the gateways' own scheme.
#[test]
fn two_sources_may_make_one_key() {
    let policy = KeyPolicy::default();
    let one = SessionKey::for_source(&source("discord group a b - - -"), &policy);
    let two = SessionKey::for_source(&source("discord group a:b - - - -"), &policy);
    assert_eq!(one.unwrap(), two.unwrap());
}

#[test]
fn a_source_that_makes_no_key_is_refused() {
    let policy = KeyPolicy::default();
    let derive = |text: &str, policy: &KeyPolicy| SessionKey::for_source(&source(text), policy);
    assert_eq!(derive("discord group ../x - - - -", &policy), Err(NameError::DotDot));
    assert_eq!(derive("discord group a\u{1} - - - -", &policy), Err(NameError::Control { at: 26 }));
    let long = format!("discord group {} - - - -", "c".repeat(1024));
    assert_eq!(derive(&long, &policy), Err(NameError::TooLong { len: 1049, max: 1024 }));
    let notes = KeyPolicy { namespace: "_notes".into(), ..KeyPolicy::default() };
    assert_eq!(derive("discord group 1 - - - -", &notes), Err(NameError::Start('_')));
}
