//! The scripts that compare and write. They go by their digest, and as text where the server does not know them.

use std::sync::LazyLock;

use redis::{Cmd, Script};

use super::answer::Kind;

/// One of the scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Put,
    Remove,
    Begin,
    End,
    Hold,
    Condemn,
    Member,
    Message,
    Review,
    Make,
    Ready,
    Sweep,
    Tidy,
}

struct Text {
    text: &'static str,
    digest: String,
}

impl Text {
    fn new(text: &'static str) -> Self {
        Self { text, digest: Script::new(text).get_hash().to_owned() }
    }
}

/// The text of one that is carried out once.
macro_rules! once {
    ($script:literal) => {
        concat!(include_str!("scripts/once.lua"), include_str!($script))
    };
}

static PUT: LazyLock<Text> = LazyLock::new(|| Text::new(once!("scripts/put.lua")));
static REMOVE: LazyLock<Text> = LazyLock::new(|| Text::new(once!("scripts/remove.lua")));
static BEGIN: LazyLock<Text> = LazyLock::new(|| Text::new(once!("scripts/begin.lua")));
static END: LazyLock<Text> = LazyLock::new(|| Text::new(once!("scripts/end.lua")));
static HOLD: LazyLock<Text> = LazyLock::new(|| Text::new(once!("scripts/hold.lua")));
static CONDEMN: LazyLock<Text> = LazyLock::new(|| Text::new(include_str!("scripts/condemn.lua")));
static MESSAGE: LazyLock<Text> = LazyLock::new(|| Text::new(include_str!("scripts/message.lua")));
static REVIEW: LazyLock<Text> = LazyLock::new(|| Text::new(include_str!("scripts/review.lua")));
static MEMBER: LazyLock<Text> = LazyLock::new(|| Text::new(include_str!("scripts/member.lua")));
static MAKE: LazyLock<Text> = LazyLock::new(|| Text::new(include_str!("scripts/make.lua")));
static READY: LazyLock<Text> = LazyLock::new(|| Text::new(include_str!("scripts/ready.lua")));
static SWEEP: LazyLock<Text> = LazyLock::new(|| Text::new(include_str!("scripts/sweep.lua")));
static TIDY: LazyLock<Text> = LazyLock::new(|| Text::new(include_str!("scripts/tidy.lua")));

impl Named {
    fn text(self) -> &'static Text {
        match self {
            Self::Put => &PUT,
            Self::Remove => &REMOVE,
            Self::Begin => &BEGIN,
            Self::End => &END,
            Self::Hold => &HOLD,
            Self::Condemn => &CONDEMN,
            Self::Member => &MEMBER,
            Self::Message => &MESSAGE,
            Self::Review => &REVIEW,
            Self::Make => &MAKE,
            Self::Ready => &READY,
            Self::Sweep => &SWEEP,
            Self::Tidy => &TIDY,
        }
    }

    /// What a call of it is. One that is `Told` answers 1 only where it has written, also where it was done before.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Put | Self::Remove => Kind::Told,
            Self::Begin | Self::End | Self::Hold => Kind::Change,
            Self::Message => Kind::Touch,
            Self::Condemn | Self::Member | Self::Review | Self::Make | Self::Ready | Self::Sweep | Self::Tidy => {
                Kind::Write
            }
        }
    }

    /// The call, by digest or, where the server does not know it, `whole`.
    pub(super) fn call(self, whole: bool, keys: &[String], args: &[Vec<u8>]) -> Cmd {
        let Text { text, digest } = self.text();
        let mut command = Cmd::new();
        if whole {
            command.arg("EVAL").arg(*text);
        } else {
            command.arg("EVALSHA").arg(digest.as_str());
        }
        command.arg(keys.len());
        for key in keys {
            command.arg(key.as_str());
        }
        for arg in args {
            command.arg(arg.as_slice());
        }
        command
    }
}
