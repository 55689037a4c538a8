//! How an entry is removed: only the one that was seen, though its records may be such that nobody can decode them.

use super::call::Done;
use super::entry::{Look, UNKEPT};
use super::layout::Part;
use super::map::Kind;
use super::proof::Sent;
use super::scripts::Named;
use super::store::ClusterStore;
use super::value::{at, bytes, int, list, text};
use crate::answer::Removal;
use crate::codec;
use crate::commit::Receipt;
use crate::entry::SessionEntry;
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::key::SessionKey;
use crate::time::Timestamp;

impl ClusterStore {
    pub(super) async fn do_remove(&self, key: &SessionKey) -> Result<Option<Receipt>> {
        let tries = self.tries();
        loop {
            let removal = match self.look(key, false).await {
                Ok(None) => return Ok(None),
                Ok(Some(seen)) => self.remove_seen(key, &seen, false).await?,
                // No repair would mend it.
                Err(Error::DamagedRecord { .. }) => self.remove_unread(key).await?,
                Err(error) => return Err(error),
            };
            match removal {
                Removal::Removed(receipt) => return Ok(Some(receipt)),
                Removal::Missing => return Ok(None),
                Removal::Changed => tries.again()?,
            }
        }
    }

    pub(super) async fn do_remove_if(&self, key: &SessionKey, seen: &SessionEntry) -> Result<Removal> {
        let Some(look) = self.look(key, false).await? else { return Ok(Removal::Missing) };
        if (look.hot.revision, look.hot.updated_at) != (seen.revision, seen.updated_at) {
            return Ok(Removal::Changed);
        }
        self.remove_seen(key, &look, true).await
    }

    /// Removes an entry that was seen, if it is still the same.
    pub(super) async fn remove_seen(&self, key: &SessionKey, seen: &Look, unless_touched: bool) -> Result<Removal> {
        let score = if unless_touched { seen.score.as_str() } else { "" };
        Ok(match self.remove_script(key, seen, score, None, "").await? {
            (1, sent) => {
                self.tell_gone(key, EventKind::Removed, Some(&seen.cold.session_id));
                Removal::Removed(self.receipt([sent]))
            }
            (0, _) => Removal::Missing,
            _ => Removal::Changed,
        })
    }

    /// Removes an entry whose records cannot be decoded. What leads to it goes too, if its session id can be read.
    pub(super) async fn remove_unread(&self, key: &SessionKey) -> Result<Removal> {
        let shard = self.shard_of(key);
        let records = redis::cmd("HMGET").arg(self.layout().entry(shard, key)).arg(&["v", "c", "i"]).to_owned();
        let mark = redis::cmd("HGET").arg(self.part(shard, Part::Mark)).arg("mark").to_owned();
        let found = self.call(shard, Kind::Read, &|_| vec![records.clone(), mark.clone()]).await?;
        let records = list(at(&found.values, 0));
        let Some(stamp) = text(at(records, 0)) else {
            self.check_mark(shard, at(&found.values, 1), &found.node)?;
            return Ok(Removal::Missing);
        };
        let (answer, done) = self.remove_stamped(key, &stamp, "", None, "").await?;
        if answer == 1 {
            let session = bytes(at(records, 1)).and_then(|cold| codec::decode_cold(cold).ok());
            let session = session.map(|(cold, _)| cold.session_id);
            if let Some(session) = &session {
                let hint = text(at(records, 2)).unwrap_or_default();
                self.forget_hint(key, session, hint.trim_start_matches(UNKEPT), done.sent.as_ref());
            }
            self.tell_gone(key, EventKind::Removed, session.as_ref());
        }
        Ok(match answer {
            1 => Removal::Removed(self.receipt([done.sent])),
            0 => Removal::Missing,
            _ => Removal::Changed,
        })
    }

    /// What the script that removes answers, and where it was sent.
    pub(super) async fn remove_script(
        &self,
        key: &SessionKey,
        seen: &Look,
        score: &str,
        unless_held_at: Option<Timestamp>,
        condemned: &str,
    ) -> Result<(i64, Option<Sent>)> {
        let (answer, done) = self.remove_stamped(key, &seen.stamp(), score, unless_held_at, condemned).await?;
        if answer == 1 {
            self.forget_hint(key, &seen.cold.session_id, &seen.hint, done.sent.as_ref());
        }
        Ok((answer, done.sent))
    }

    async fn remove_stamped(
        &self,
        key: &SessionKey,
        stamp: &str,
        score: &str,
        unless_held_at: Option<Timestamp>,
        condemned: &str,
    ) -> Result<(i64, Done)> {
        let shard = self.shard_of(key);
        let parts = [Part::Mark, Part::Updated, Part::Interaction].map(|part| self.part(shard, part));
        let mut keys = parts.to_vec();
        keys.push(self.layout().entry(shard, key));
        keys.push(self.layout().extras(shard, key));
        keys.extend([Part::Turns, Part::Holds, Part::Leases].map(|part| self.part(shard, part)));
        keys.push(self.layout().leases(shard, key));
        keys.push(self.part(shard, Part::Condemned));
        let args = [
            key.as_str().to_owned(),
            stamp.to_owned(),
            score.to_owned(),
            unless_held_at.map(|now| now.as_micros().to_string()).unwrap_or_default(),
            condemned.to_owned(),
        ];
        let (value, done) = self.script_once(shard, Named::Remove, &keys, &args.map(String::into_bytes)).await?;
        Ok((int(&value).unwrap_or(0), done))
    }
}
