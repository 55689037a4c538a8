//! Turns and resumes.

use super::caller::Caller;
use super::entry::Look;
use super::layout::Part;
use super::map::Kind;
use super::roll::{NOBODY, Roll};
use super::scripts::Named;
use super::store::ClusterStore;
use super::value::{at, bytes, int, list, pairs, text};
use crate::codec::{RESUME_PENDING, SUSPENDED, Turn};
use crate::commit::Receipt;
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::key::SessionKey;
use crate::random;
use crate::rules;
use crate::turns::{BegunTurn, OpenTurn, ResumeClear, ResumeMark, TurnEnd, TurnStart, TurnToken};
use crate::unreadable::{Listing, Unreadable};

/// A marker: token, nonce and owner, sixteen digits each, then the turn.
pub(super) struct Marker {
    pub(super) token: u64,
    pub(super) owner: String,
    pub(super) turn: Turn,
}

impl Marker {
    pub(super) fn decode(key: &SessionKey, value: &[u8]) -> Result<Self> {
        let damaged = |source| Error::DamagedRecord { record: "t", key: key.to_string(), source };
        let digits = |from: usize| value.get(from..from + 16).and_then(|digits| std::str::from_utf8(digits).ok());
        let parts = || Some((u64::from_str_radix(digits(0)?, 16).ok()?, digits(32)?.to_owned(), value.get(48..)?));
        let (token, owner, turn) = parts().ok_or_else(|| damaged("it is too short".into()))?;
        Ok(Self { token, owner, turn: Turn::decode(turn).map_err(|e| damaged(e.into()))? })
    }
}

impl ClusterStore {
    /// An entry, and the marker of its turn, if that is of its session.
    pub(super) async fn look_at_turn(&self, key: &SessionKey) -> Result<Option<(Look, Option<Vec<u8>>)>> {
        let shard = self.shard_of(key);
        let ask = || {
            let mut commands = self.look_commands(shard, key, true);
            commands.push(redis::cmd("HGET").arg(self.part(shard, Part::Turns)).arg(key.as_str()).to_owned());
            commands
        };
        let done = self.call(shard, Kind::Read, &|_| ask()).await?;
        let own = done.values.get(..5).unwrap_or_default();
        let Some(look) = self.looked(shard, key, own, &done.node)? else { return Ok(None) };
        Ok(Some((look, bytes(at(&done.values, 5)).map(<[u8]>::to_vec))))
    }

    pub(super) async fn do_begin(&self, key: &SessionKey, unless_open: bool) -> Result<TurnStart> {
        let tries = self.tries();
        let nonce = format!("{:016x}", random::bits()?);
        loop {
            self.stay().await?;
            let Some((look, old)) = self.look_at_turn(key).await? else { return Ok(TurnStart::Missing) };
            let seen = old.as_deref().and_then(|old| old.get(..16)).unwrap_or_default().to_vec();
            if unless_open && let Some(old) = &old {
                let marker = Marker::decode(key, old)?;
                if marker.turn.session_id == look.cold.session_id
                    && !self.is_gone_now(&marker.owner, marker.turn.started_at).await?
                {
                    return Ok(TurnStart::Open(open_turn(key, &marker, false)));
                }
            }
            let now = self.now();
            let turn = Turn { token: 0, started_at: now, session_id: look.cold.session_id.clone() };
            let turn = turn.encode().map_err(|e| Error::Engine { action: "encode a turn", source: e.into() })?;
            let shard = self.shard_of(key);
            let [mark, updated, turns] = [Part::Mark, Part::Updated, Part::Turns].map(|part| self.part(shard, part));
            let keys = [mark, updated, self.layout().entry(shard, key), turns];
            let args = [
                key.as_str().as_bytes().to_vec(),
                look.stamp().into_bytes(),
                seen,
                now.as_micros().to_string().into_bytes(),
                nonce.clone().into_bytes(),
                [self.inner.member.as_bytes(), &turn].concat(),
            ];
            let (value, done) = self.script_once(shard, Named::Begin, &keys, &args).await?;
            let answer = list(&value);
            match int(at(answer, 0)) {
                Some(1) => {
                    let token = text(at(answer, 1)).unwrap_or_default();
                    let token = u64::from_str_radix(&token, 16).unwrap_or(0);
                    self.tell_touched(key, Some(&look));
                    return Ok(TurnStart::Begun(BegunTurn {
                        token: TurnToken(token),
                        receipt: self.receipt([done.sent]),
                    }));
                }
                Some(0) => return Ok(TurnStart::Missing),
                _ => tries.again()?,
            }
        }
    }

    /// Ends the turn of a token.
    pub(super) async fn do_end(&self, key: &SessionKey, token: u64) -> Result<TurnEnd> {
        let shard = self.shard_of(key);
        let keys = [self.part(shard, Part::Mark), self.layout().entry(shard, key), self.part(shard, Part::Turns)];
        let args = [key.as_str().as_bytes().to_vec(), format!("{token:016x}").into_bytes()];
        let (value, done) = self.script_once(shard, Named::End, &keys, &args).await?;
        Ok(match int(&value) {
            Some(1) => TurnEnd::Ended(self.receipt([done.sent])),
            Some(0) => TurnEnd::Missing,
            _ => TurnEnd::NotCurrent,
        })
    }

    pub(super) async fn do_discard(&self, key: &SessionKey) -> Result<TurnEnd> {
        let tries = self.tries();
        loop {
            let Some((_, old)) = self.look_at_turn(key).await? else { return Ok(TurnEnd::Missing) };
            let Some(old) = old else { return Ok(TurnEnd::NotCurrent) };
            let marker = Marker::decode(key, &old)?;
            match self.do_end(key, marker.token).await? {
                TurnEnd::NotCurrent => tries.again()?,
                ended => return Ok(ended),
            }
        }
    }

    pub(super) async fn do_turn(&self, key: &SessionKey) -> Result<Option<OpenTurn>> {
        let Some((look, Some(old))) = self.look_at_turn(key).await? else { return Ok(None) };
        let marker = Marker::decode(key, &old)?;
        if marker.turn.session_id != look.cold.session_id {
            return Ok(None);
        }
        let interrupted = self.is_gone_now(&marker.owner, marker.turn.started_at).await?;
        Ok(Some(open_turn(key, &marker, interrupted)))
    }

    /// The keys that have markers, and these, and the roll. That is called after they are read: whoever has one had joined
    /// before, also where reading took long.
    pub(super) async fn markers(&self, unreadable: &mut Unreadable) -> Result<(Vec<(SessionKey, Marker)>, Roll)> {
        let ask = |shard| {
            let mark = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
            vec![redis::cmd("HGETALL").arg(self.part(shard, Part::Turns)).to_owned(), mark]
        };
        let mut found = Vec::new();
        for (shard, done) in self.scatter(0..self.layout().shards(), &ask).await? {
            self.check_mark(shard, at(&done.values, 1), &done.node)?;
            for (key, value) in pairs(at(&done.values, 0)) {
                let key = SessionKey::new(text(key).unwrap_or_default()).map_err(Error::InvalidKey)?;
                let marker = Marker::decode(&key, bytes(value).unwrap_or_default());
                if let Some(marker) = unreadable.pass(marker)? {
                    found.push((key, marker));
                }
            }
        }
        Ok((found, self.roll().await?))
    }

    pub(super) async fn do_turns(&self) -> Result<Listing<OpenTurn>> {
        let (mut items, mut unreadable) = (Vec::new(), Unreadable::default());
        let (found, roll) = self.markers(&mut unreadable).await?;
        for (key, marker) in found {
            let Some(Some(look)) = unreadable.pass(self.look(&key, false).await)? else { continue };
            if look.cold.session_id == marker.turn.session_id {
                let interrupted = self.is_gone(&roll, &marker.owner, marker.turn.started_at).await?;
                items.push(open_turn(&key, &marker, interrupted));
            }
        }
        items.sort_unstable_by(|a, b| (a.started_at, a.token, &a.key).cmp(&(b.started_at, b.token, &b.key)));
        Ok(Listing { items, unreadable })
    }

    /// Waits for receipts, as far as the mode of the store promises anything.
    pub(super) async fn keep_all(&self, receipts: &[Receipt]) -> Result<()> {
        for receipt in receipts {
            match (self.caller, self.inner.options.relaxed) {
                (Caller::Blocks, false) => receipt.wait()?,
                (Caller::Awaits, false) => receipt.clone().await?,
                (_, true) => self.replicated(receipt).await?,
            }
        }
        Ok(())
    }

    /// Waits until the replicas have a change.
    pub(super) async fn replicated(&self, receipt: &Receipt) -> Result<()> {
        match self.caller {
            Caller::Blocks => receipt.replicated(),
            Caller::Awaits => receipt.replicated_async().await,
        }
    }

    pub(super) async fn do_mark(&self, key: &SessionKey, reason: &str) -> Result<ResumeMark> {
        let mut suspended = false;
        let kind = EventKind::ResumePending { reason: reason.to_owned() };
        let done = self
            .change(key, Some(kind), |seen| {
                suspended = seen.hot.is(SUSPENDED);
                let mark = || rules::with_resume((&seen.hot, &seen.cold), Some((reason, self.now())));
                (!suspended).then(mark)
            })
            .await?;
        Ok(match done {
            None => ResumeMark::Missing,
            Some(_) if suspended => ResumeMark::Suspended,
            Some(receipt) => ResumeMark::Marked(receipt),
        })
    }

    pub(super) async fn do_clear(&self, key: &SessionKey) -> Result<ResumeClear> {
        let mut pending = false;
        let done = self
            .change(key, None, |seen| {
                pending = seen.hot.is(RESUME_PENDING);
                pending.then(|| rules::with_resume((&seen.hot, &seen.cold), None))
            })
            .await?;
        Ok(match done {
            None => ResumeClear::Missing,
            Some(_) if !pending => ResumeClear::NotPending,
            Some(receipt) => ResumeClear::Cleared(receipt),
        })
    }
}

fn open_turn(key: &SessionKey, marker: &Marker, interrupted: bool) -> OpenTurn {
    let (token, started_at) = (TurnToken(marker.token), marker.turn.started_at);
    let owner = Some(marker.owner.clone()).filter(|owner| owner != NOBODY);
    OpenTurn { key: key.clone(), token, started_at, interrupted, owner }
}
